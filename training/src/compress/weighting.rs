//! What inputs that were seen say about how much the entries of a weight matter.
//!
//! With the second moment `C = L Lᵀ` of the inputs, `‖(W − Ŵ) L‖² = E ‖(W − Ŵ) x‖²`. A structure
//! with blocks of inputs keeps its form under a change of coordinates within the blocks, so these are
//! changed such that each block of inputs is white; what is left of C couples different blocks.

use burn::tensor::Tensor;
use burn_blr::ops::exact_product;
use faer::{Mat, Side};
use rayon::prelude::*;

use super::host::{entries, inverse_of_lower, row_major, tensor};
use crate::TrainingError;

/// Share of the mean of the diagonal of a second moment that is added to the diagonal: what the
/// sample has never seen must not cost nothing.
const DAMPING: f32 = 0.01;

/// `moment [in, in]`, the mean of its diagonal one and its diagonal raised by [`DAMPING`].
pub(super) fn damped(moment: &Tensor<2>) -> Result<Tensor<2>, TrainingError> {
    let [features, _] = moment.dims();
    let unit: Tensor<2> = Tensor::eye(features, &moment.device());
    let diagonal = entries((moment.clone() * unit.clone()).sum_dim(1))?;
    let mean = diagonal.into_iter().map(f64::from).sum::<f64>() / features as f64;
    let scale = if mean > 0.0 { mean.recip() } else { 0.0 };
    Ok(moment.clone() * scale + unit * DAMPING)
}

/// A lower triangular `L [in, in]` with `L Lᵀ = moment`.
pub(super) fn root(moment: &Tensor<2>) -> Result<Tensor<2>, TrainingError> {
    let [features, _] = moment.dims();
    let lower = cholesky(&entries(moment.clone())?, features)?;
    Ok(tensor(
        narrowed(&lower),
        [features, features],
        &moment.device(),
    ))
}

/// Coordinates in which every block of inputs is white.
pub(super) struct Weighting {
    /// `L_i`, with `L_i L_iᵀ` the moment of block i, `[b, in/b, in/b]`.
    roots: Tensor<3>,
    /// Inverses of `roots`.
    inverses: Tensor<3>,
    /// The moment in the new coordinates, `[1, in, in]`.
    metric: Tensor<3>,
}

impl Weighting {
    /// The coordinates for a damped `moment [in, in]` and `blocks` blocks of inputs.
    pub fn new(moment: &Tensor<2>, blocks: usize) -> Result<Self, TrainingError> {
        let ([features, _], device) = (moment.dims(), moment.device());
        let width = features / blocks;
        let rows: Tensor<3> = moment.clone().reshape([blocks, width, features]);
        let diagonal: Vec<Tensor<3>> = (0..blocks)
            .map(|i| rows.clone().narrow(0, i, 1).narrow(2, i * width, width))
            .collect();
        let diagonal = entries(Tensor::cat(diagonal, 0))?;
        let found: Vec<(Vec<f32>, Vec<f32>)> = diagonal
            .par_chunks(width * width)
            .map(|block| {
                let lower = cholesky(block, width)?;
                let inverse = inverse_of_lower(lower.as_ref());
                Ok((narrowed(&lower), narrowed(&inverse)))
            })
            .collect::<Result<_, TrainingError>>()?;
        let (roots, inverses): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        let shape = [blocks, width, width];
        let inverses: Tensor<3> = tensor(inverses.concat(), shape, &device);
        let half = |rows: Tensor<2>| {
            let rows = rows.reshape([blocks, width, features]);
            let rows = exact_product(inverses.clone(), rows);
            rows.reshape([features, features]).transpose()
        };
        let metric = half(half(moment.clone()));
        Ok(Weighting {
            roots: tensor(roots.concat(), shape, &device),
            inverses,
            metric: metric.unsqueeze(),
        })
    }

    /// The moment in the new coordinates, `[1, in, in]`.
    pub fn metric(&self) -> Tensor<3> {
        self.metric.clone()
    }

    /// The rows of `[rows, in]` in the new coordinates.
    pub fn scale(&self, rows: Tensor<2>) -> Tensor<2> {
        let [blocks, width, _] = self.roots.dims();
        let [count, features] = rows.dims();
        let rows: Tensor<3> = rows.reshape([count, blocks, width]);
        let rows = exact_product(rows.swap_dims(0, 1), self.roots.clone());
        rows.swap_dims(0, 1).reshape([count, features])
    }

    /// Blocks `[b, rows, in/b]` of rows in the new coordinates, in the old ones.
    pub fn unscale(&self, blocks: Tensor<3>) -> Tensor<3> {
        exact_product(blocks, self.inverses.clone())
    }
}

/// The Cholesky factor of a positive definite matrix, in `f64`.
fn cholesky(entries: &[f32], width: usize) -> Result<Mat<f64>, TrainingError> {
    let matrix = Mat::from_fn(width, width, |row, column| {
        f64::from(entries[row * width + column])
    });
    match matrix.llt(Side::Lower) {
        Ok(factor) => Ok(factor.L().to_owned()),
        Err(_) => Err(TrainingError::NoConvergence {
            what: "Cholesky factorisation of a second moment",
            rows: width,
            columns: width,
        }),
    }
}

/// The entries in row-major order, rounded.
fn narrowed(matrix: &Mat<f64>) -> Vec<f32> {
    let narrow = Mat::from_fn(matrix.nrows(), matrix.ncols(), |row, column| {
        matrix[(row, column)] as f32
    });
    row_major(narrow.as_ref())
}
