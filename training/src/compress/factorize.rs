//! One dense weight to one structured layer.

use burn::tensor::Tensor;
use burn_blr::{BlastLinear, BlrLinear, LowRankLinear, MonarchLinear, OutputOrder, Structure};

use super::blast::{self, BlastFactors, BlastOptions};
use super::host::{frobenius_norm, tensor, weighted_square};
use super::subspace::{self, Effort};
use super::weighting::damped;
use crate::TrainingError;

/// A structured layer and how far it is from the weight it replaces.
#[derive(Debug, Clone)]
pub struct Factorization {
    /// The layer, in `f32`, without bias.
    pub layer: BlrLinear,
    /// `‖W − Ŵ‖ / ‖W‖` in the Frobenius norm.
    pub relative_error: f64,
    /// For BLAST the relative error of the start and after each step, in the norm that is minimised;
    /// else the final one.
    pub history: Vec<f64>,
}

/// Finds the factors of `structure` nearest to `weight [out, in]`.
///
/// Near is meant in the Frobenius norm of `W − Ŵ`, or, where the second moment `C [in, in]` of the
/// inputs is given, in that of the outputs `(W − Ŵ) x`, with a hundredth of the mean of its diagonal
/// added to the diagonal of C. Low-rank and Monarch come from singular value decompositions, exact on
/// the host for matrices with a side up to 1024 and by subspace iteration on the device beyond;
/// Monarch leaves aside what C couples between different blocks of inputs. BLAST is searched for as
/// [`BlastOptions`] say. The result is a function of the weight and the moment alone: random numbers
/// have fixed seeds.
///
/// `on_step` hears of each step of BLAST: its number, the start being 0, and the relative error in the
/// norm that is minimised.
///
/// # Errors
///
/// [`TrainingError`] if the structure does not fit, or a decomposition fails.
pub fn factorize(
    weight: Tensor<2>,
    structure: Structure,
    options: &BlastOptions,
    moment: Option<&Tensor<2>>,
    on_step: &mut dyn FnMut(usize, f64),
) -> Result<Factorization, TrainingError> {
    let [out_features, in_features] = weight.dims();
    structure.validate(in_features, out_features)?;
    let weight = weight.cast(burn::tensor::FloatDType::F32);
    let moment = moment.map(damped).transpose()?;
    let moment = moment.as_ref();
    let (layer, history) = match structure {
        Structure::Dense => (BlrLinear::dense(weight.clone().transpose(), None), vec![]),
        Structure::LowRank { rank } => {
            let (u, v) = subspace::low_rank(&weight, moment, rank, Effort::Result)?;
            (
                BlrLinear::LowRank(LowRankLinear::from_factors(u, v, None)?),
                vec![],
            )
        }
        Structure::Monarch {
            blocks,
            rank,
            order,
        } => (monarch(&weight, moment, blocks, rank, order)?, vec![]),
        Structure::Blast { blocks, rank } => {
            let (factors, history) =
                blast::factorize(&weight, blocks, rank, options, moment, on_step)?;
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
    let norm = frobenius_norm(weight.clone())?;
    if norm == 0.0 {
        return Ok(0.0);
    }
    let mut squared = 0.0;
    for columns in differences(weight, layer) {
        squared += frobenius_norm(columns)?.powi(2);
    }
    Ok(squared.sqrt() / norm)
}

/// `‖(W − Ŵ) x‖ / ‖W x‖`, root mean squares over inputs with second moment `moment [in, in]`; 0 where
/// `W x` is 0.
pub(super) fn output_error(
    weight: &Tensor<2>,
    layer: &BlrLinear,
    moment: &Tensor<2>,
) -> Result<f64, TrainingError> {
    let expected = weighted_square(weight.clone(), moment)?;
    if expected <= 0.0 {
        return Ok(0.0);
    }
    let difference = Tensor::cat(differences(weight, layer).collect(), 0).transpose();
    Ok((weighted_square(difference, moment)?.max(0.0) / expected).sqrt())
}

/// Columns of `W − Ŵ` as rows `[columns, out]`, [`COMPARED_COLUMNS`] at a time.
fn differences(weight: &Tensor<2>, layer: &BlrLinear) -> impl Iterator<Item = Tensor<2>> {
    let [_, in_features] = weight.dims();
    (0..in_features)
        .step_by(COMPARED_COLUMNS)
        .map(move |start| {
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
            expected - found
        })
}

/// The moments of blocks and their SVDs are independent: each block has columns of `left` and rows of
/// `right` of its own, and the best approximation of each is the optimum of the whole
/// ([Dao et al. 2022](https://arxiv.org/abs/2204.00595), section 3.3), but for what the moment couples
/// between different blocks of inputs.
fn monarch(
    weight: &Tensor<2>,
    moment: Option<&Tensor<2>>,
    blocks: usize,
    rank: usize,
    order: OutputOrder,
) -> Result<BlrLinear, TrainingError> {
    let [rows, columns] = weight.dims();
    let (block_out, block_in, part) = (rows / blocks, columns / blocks, rank / blocks);
    let block_rows: Tensor<3> = match order {
        OutputOrder::Contiguous => weight.clone().reshape([blocks, block_out, columns]),
        OutputOrder::Interleaved => {
            let rows: Tensor<3> = weight.clone().reshape([block_out, blocks, columns]);
            rows.swap_dims(0, 1)
        }
    };
    let (mut left, mut right) = (vec![], vec![]);
    for i in 0..blocks {
        let inputs = i * block_in;
        let moment = moment.map(|moment| {
            let rows = moment.clone().narrow(0, inputs, block_in);
            rows.narrow(1, inputs, block_in)
        });
        let (mut lefts, mut rights) = (vec![], vec![]);
        for j in 0..blocks {
            let row: Tensor<2> = block_rows.clone().narrow(0, j, 1).squeeze_dim(0);
            let block = row.narrow(1, inputs, block_in);
            let (u, v) = subspace::low_rank(&block, moment.as_ref(), part, Effort::Result)?;
            lefts.push(u);
            rights.push(v);
        }
        left.push(Tensor::stack::<3>(lefts, 0)); // [b (out), out/b, r/b]
        right.push(Tensor::cat(rights, 0)); // [r, in/b]
    }
    let (right, left) = (Tensor::stack(right, 0), Tensor::cat(left, 2));
    Ok(BlrLinear::Monarch(MonarchLinear::from_factors(
        right, left, order, None,
    )?))
}
