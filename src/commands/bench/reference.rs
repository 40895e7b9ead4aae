//! The error of what was timed, against `f64` on the host from the same rounded operands.

use burn::tensor::Tensor;
use burn_blr::BlrLinear;

use crate::error::CommandError;

/// Rows of the output that are checked; the product of each is made anew in `f64`.
const CHECKED_TOKENS: usize = 3;

/// `‖y − y'‖ / ‖y'‖` over some rows of the output, spread over all of them.
pub fn relative_error(
    layer: &BlrLinear,
    input: &Tensor<2>,
    output: &Tensor<2>,
) -> Result<f64, CommandError> {
    let [tokens, _] = input.dims();
    let factors = factors(layer)?;
    let (mut difference, mut norm) = (0.0, 0.0);
    for check in 0..CHECKED_TOKENS.min(tokens) {
        let token = check * (tokens - 1) / (CHECKED_TOKENS - 1).max(1);
        let expected = product(layer, &factors, &host(input.clone().narrow(0, token, 1))?);
        let found = host(output.clone().narrow(0, token, 1))?;
        for (expected, found) in expected.iter().zip(found) {
            difference += (expected - found).powi(2);
            norm += expected.powi(2);
        }
    }
    Ok((difference / norm).sqrt())
}

/// The weights on the host, those next to the input last.
fn factors(layer: &BlrLinear) -> Result<Vec<Vec<f64>>, CommandError> {
    match layer {
        BlrLinear::Dense(layer) => Ok(vec![host(layer.weight.val())?]),
        BlrLinear::LowRank(layer) => Ok(vec![host(layer.u.val())?, host(layer.v.val())?]),
        BlrLinear::Monarch(layer) => Ok(vec![host(layer.left.val())?, host(layer.right.val())?]),
        BlrLinear::Blast(layer) => Ok(vec![
            host(layer.u.val())?,
            host(layer.s.val())?,
            host(layer.v.val())?,
        ]),
    }
}

/// One row through the layer, by the formulas of its structure.
fn product(layer: &BlrLinear, factors: &[Vec<f64>], x: &[f64]) -> Vec<f64> {
    match (layer, factors) {
        (BlrLinear::Dense(layer), [weight]) => {
            let [_, out_features] = layer.weight.dims();
            let mut y = vec![0.0; out_features];
            for (x, row) in x.iter().zip(weight.chunks_exact(out_features)) {
                for (y, weight) in y.iter_mut().zip(row) {
                    *y += x * weight;
                }
            }
            y
        }
        (BlrLinear::LowRank(_), [u, v]) => apply(u, &apply(v, x)),
        (BlrLinear::Monarch(layer), [left, right]) => {
            let [blocks, rank, block_in] = layer.right.dims();
            let part = rank / blocks;
            let mut z = vec![0.0; blocks * rank];
            for (i, x) in x.chunks_exact(block_in).enumerate() {
                let y = apply(&right[i * rank * block_in..(i + 1) * rank * block_in], x);
                for (j, y) in y.chunks_exact(part).enumerate() {
                    z[j * rank + i * part..j * rank + (i + 1) * part].copy_from_slice(y);
                }
            }
            let block = left.len() / blocks;
            let blocks = left.chunks_exact(block).zip(z.chunks_exact(rank));
            blocks.flat_map(|(left, z)| apply(left, z)).collect()
        }
        (BlrLinear::Blast(layer), [u, s, v]) => {
            let [blocks, block_out, rank] = layer.u.dims();
            let [_, _, block_in] = layer.v.dims();
            let y: Vec<Vec<f64>> = x
                .chunks_exact(block_in)
                .zip(v.chunks_exact(rank * block_in))
                .map(|(x, v)| apply(v, x))
                .collect();
            let mut output = Vec::with_capacity(blocks * block_out);
            for (j, u) in u.chunks_exact(block_out * rank).enumerate() {
                let mut z = vec![0.0; rank];
                for (i, y) in y.iter().enumerate() {
                    let s = &s[(j * blocks + i) * rank..(j * blocks + i + 1) * rank];
                    for ((z, s), y) in z.iter_mut().zip(s).zip(y) {
                        *z += s * y;
                    }
                }
                output.extend(apply(u, &z));
            }
            output
        }
        (layer, _) => unreachable!("other factors than those of {:?}", layer.structure()),
    }
}

/// `matrix · x`, the matrix row-major with rows as long as `x`.
fn apply(matrix: &[f64], x: &[f64]) -> Vec<f64> {
    let rows = matrix.chunks_exact(x.len());
    rows.map(|row| row.iter().zip(x).map(|(weight, x)| weight * x).sum())
        .collect()
}

fn host<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f64>, CommandError> {
    tensor
        .try_into_vec_as()
        .map_err(|error| CommandError::Device {
            reason: error.to_string(),
        })
}
