//! One dense weight to one structured layer.

use burn::tensor::Tensor;
use burn_blr::{BlastLinear, BlrLinear, LowRankLinear, MonarchLinear, OutputOrder, Structure};

use super::blast::{self, BlastFactors, BlastOptions, frobenius_norm};
use super::host::{entries, row_major, tensor, truncated_svd, view};
use crate::TrainingError;

/// A structured layer and how far it is from the weight it replaces.
#[derive(Debug, Clone)]
pub struct Factorization {
    /// The layer, in `f32`, without bias.
    pub layer: BlrLinear,
    /// `‖W − Ŵ‖ / ‖W‖` in the Frobenius norm.
    pub relative_error: f64,
    /// For BLAST the relative error of the start and after each sweep; else the final one.
    pub history: Vec<f64>,
}

/// Finds the factors of `structure` nearest to `weight [out, in]` in the Frobenius norm.
///
/// Low-rank by truncated SVD and Monarch by one truncated SVD a block are exact optima; BLAST is
/// the alternating least squares of [`BlastOptions`]. All arithmetic is in `f32` or better, on the
/// weight's device, with SVD and Cholesky on the host. The result is a function of the weight
/// alone: nothing is drawn at random.
///
/// `on_sweep` hears of each sweep of BLAST: its number, the start being 0, and the relative error.
///
/// # Errors
///
/// [`TrainingError`] if the structure does not fit, or a decomposition fails.
pub fn factorize(
    weight: Tensor<2>,
    structure: Structure,
    options: &BlastOptions,
    on_sweep: &mut dyn FnMut(usize, f64),
) -> Result<Factorization, TrainingError> {
    let [out_features, in_features] = weight.dims();
    structure.validate(in_features, out_features)?;
    let weight = weight.cast(burn::tensor::FloatDType::F32);
    let (layer, history) = match structure {
        Structure::Dense => (BlrLinear::dense(weight.clone().transpose(), None), vec![]),
        Structure::LowRank { rank } => (low_rank(&weight, rank)?, vec![]),
        Structure::Monarch {
            blocks,
            rank,
            order,
        } => (monarch(&weight, blocks, rank, order)?, vec![]),
        Structure::Blast { blocks, rank } => {
            let (factors, history) = blast::factorize(&weight, blocks, rank, options, on_sweep)?;
            let BlastFactors { u, s, v } = factors;
            (
                BlrLinear::Blast(BlastLinear::from_factors(u, s, v, None)?),
                history,
            )
        }
    };
    let relative_error = relative_error(&weight, &layer)?;
    let history = if history.is_empty() {
        vec![relative_error]
    } else {
        history
    };
    Ok(Factorization {
        layer,
        relative_error,
        history,
    })
}

/// Columns of the weight that are compared at once; bounds the memory that a comparison takes.
const COMPARED_COLUMNS: usize = 1024;

/// `‖W − Ŵ‖ / ‖W‖` for `weight [out, in]` and the dense form of `layer`, both in `f32`; 0 for
/// `W = 0`.
///
/// # Errors
///
/// [`TrainingError::Device`] if the device fails.
pub fn relative_error(weight: &Tensor<2>, layer: &BlrLinear) -> Result<f64, TrainingError> {
    let [_, in_features] = weight.dims();
    let norm = frobenius_norm(weight.clone())?;
    if norm == 0.0 {
        return Ok(0.0);
    }
    let mut squared = 0.0;
    for start in (0..in_features).step_by(COMPARED_COLUMNS) {
        let count = COMPARED_COLUMNS.min(in_features - start);
        let expected = weight.clone().narrow(1, start, count).transpose();
        let found = match layer {
            BlrLinear::Dense(layer) => layer.weight.val().narrow(0, start, count),
            // A layer maps unit vectors to the columns of its weight, and the kernels of the
            // structures do not round to tf32 as a GPU's dense product may.
            _ => {
                let mut units = vec![0.0; count * in_features];
                for unit in 0..count {
                    units[unit * in_features + start + unit] = 1.0;
                }
                layer.forward(tensor(units, [count, in_features], &weight.device()))
            }
        };
        squared += frobenius_norm(expected - found)?.powi(2);
    }
    Ok(squared.sqrt() / norm)
}

fn low_rank(weight: &Tensor<2>, rank: usize) -> Result<BlrLinear, TrainingError> {
    let ([rows, columns], device) = (weight.dims(), weight.device());
    let dense = entries(weight.clone())?;
    let (left, right) = truncated_svd(view(&dense, rows, columns), rank)?;
    let u = tensor(row_major(left.as_ref()), [rows, rank], &device);
    let v = tensor(row_major(right.as_ref()), [rank, columns], &device);
    Ok(BlrLinear::LowRank(LowRankLinear::from_factors(u, v, None)?))
}

/// Each block has columns of `left` and rows of `right` of its own, so the blocks are independent
/// and the truncated SVD of each is the optimum of the whole
/// ([Dao et al. 2022](https://arxiv.org/abs/2204.00595), section 3.3).
fn monarch(
    weight: &Tensor<2>,
    blocks: usize,
    rank: usize,
    order: OutputOrder,
) -> Result<BlrLinear, TrainingError> {
    let ([rows, columns], device) = (weight.dims(), weight.device());
    let (block_out, block_in, part) = (rows / blocks, columns / blocks, rank / blocks);
    let dense = entries(weight.clone())?;
    let dense = view(&dense, rows, columns);
    let mut right = vec![0.0; rank * columns];
    let mut left = vec![0.0; rows * rank];
    for j in 0..blocks {
        let output_row = |row: usize| match order {
            OutputOrder::Contiguous => j * block_out + row,
            OutputOrder::Interleaved => row * blocks + j,
        };
        for i in 0..blocks {
            let block = faer::Mat::from_fn(block_out, block_in, |row, column| {
                dense[(output_row(row), i * block_in + column)]
            });
            let (block_left, block_right) = truncated_svd(block.as_ref(), part)?;
            for row in 0..block_out {
                for k in 0..part {
                    left[(j * block_out + row) * rank + i * part + k] = block_left[(row, k)];
                }
            }
            for k in 0..part {
                for column in 0..block_in {
                    right[(i * rank + j * part + k) * block_in + column] = block_right[(k, column)];
                }
            }
        }
    }
    let right = tensor(right, [blocks, rank, block_in], &device);
    let left = tensor(left, [blocks, block_out, rank], &device);
    Ok(BlrLinear::Monarch(MonarchLinear::from_factors(
        right, left, order, None,
    )?))
}
