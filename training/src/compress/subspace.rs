//! The best approximation of low rank, where it matters for the inputs that were seen.
//!
//! `‖(W − Ŵ) L‖` is least over all `Ŵ` of rank r for `Ŵ = Q Qᵀ W`, where the columns of Q are the
//! first r left singular vectors of `W L`: no inverse of the second moment `L Lᵀ` is needed.

use burn::tensor::{Device, Tensor};
use burn_blr::ops::exact_product;
use faer::Side;
use rayon::prelude::*;

use super::host::{entries, row_major, tensor, view};
use super::random::Normal;
use super::weighting::root;
use crate::TrainingError;

/// Matrices with a side up to this have an exact decomposition on the host.
const EXACT: usize = 1024;

/// Seed of the first guess of a subspace.
const SEED: u64 = 0x5EED;

/// How closely the subspace is looked for where the matrix is too large for an exact one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effort {
    /// A start for something else.
    Start,
    /// The result.
    Result,
}

impl Effort {
    /// Passes of subspace iteration.
    fn passes(self) -> usize {
        match self {
            Effort::Start => 2,
            Effort::Result => 4,
        }
    }

    /// Columns that are iterated for `rank` that are wanted.
    fn columns(self, rank: usize) -> usize {
        match self {
            Effort::Start => rank,
            Effort::Result => rank + rank / 2,
        }
    }
}

/// `U [out, r]` and `V [r, in]` with `U V` the approximation of `weight [out, in]`, the norm of each
/// component shared evenly; `moment [in, in]` is that of the inputs, if any were seen.
///
/// Components that the matrix does not have are zero.
pub(super) fn low_rank(
    weight: &Tensor<2>,
    moment: Option<&Tensor<2>>,
    rank: usize,
    effort: Effort,
) -> Result<(Tensor<2>, Tensor<2>), TrainingError> {
    let ([rows, columns], device) = (weight.dims(), weight.device());
    let found = rank.min(rows).min(columns);
    let exact = rows.min(columns) <= EXACT && (moment.is_none() || columns <= 4 * EXACT);
    let basis = match exact {
        true => singular_vectors(weight, moment, found)?,
        false => iterate(weight, moment, found, effort)?,
    };
    let right = product(basis.clone().transpose(), weight.clone());
    let norms = right.clone().square().sum_dim(1).sqrt().sqrt(); // [found, 1]
    let inverse = norms.clone().clamp_min(f32::MIN_POSITIVE).recip();
    let u = basis * norms.transpose();
    let v = right * inverse;
    if found == rank {
        return Ok((u, v));
    }
    let u = Tensor::cat(vec![u, Tensor::zeros([rows, rank - found], &device)], 1);
    let v = Tensor::cat(vec![v, Tensor::zeros([rank - found, columns], &device)], 0);
    Ok((u, v))
}

/// Exactly, on the host.
fn singular_vectors(
    weight: &Tensor<2>,
    moment: Option<&Tensor<2>>,
    rank: usize,
) -> Result<Tensor<2>, TrainingError> {
    let ([rows, columns], device) = (weight.dims(), weight.device());
    let seen = match moment {
        None => weight.clone(),
        Some(moment) => product(weight.clone(), root(moment)?),
    };
    let seen = entries(seen)?;
    let svd = view(&seen, rows, columns)
        .thin_svd()
        .map_err(|_| TrainingError::NoConvergence {
            what: "singular value decomposition",
            rows,
            columns,
        })?;
    let basis = svd.U().subcols(0, rank);
    Ok(tensor(row_major(basis), [rows, rank], &device))
}

/// By subspace iteration with `(W L)(W L)ᵀ`
/// ([Halko et al. 2011](https://doi.org/10.1137/090771806), algorithm 4.4), products on the device.
fn iterate(
    weight: &Tensor<2>,
    moment: Option<&Tensor<2>>,
    rank: usize,
    effort: Effort,
) -> Result<Tensor<2>, TrainingError> {
    let ([rows, columns], device) = (weight.dims(), weight.device());
    let width = effort.columns(rank).min(rows).min(columns);
    let guess = Normal::new(SEED).take(columns * width);
    let guess: Tensor<2> = tensor(guess, [columns, width], &device);
    // Rounding does not matter to an iteration: plain products of the device will do.
    let apply = |right: Tensor<2>| match moment {
        None => weight.clone().matmul(right),
        Some(moment) => weight.clone().matmul(moment.clone().matmul(right)),
    };
    let mut basis = orthonormal(apply(guess).unsqueeze())?;
    for _ in 0..effort.passes() {
        let right = weight.clone().transpose().matmul(basis.squeeze_dim(0));
        basis = orthonormal(apply(right).unsqueeze())?;
    }
    let basis: Tensor<2> = basis.squeeze_dim(0);
    if width == rank {
        return Ok(basis);
    }
    // The best of the wider space.
    let right = product(basis.clone().transpose(), weight.clone());
    let weighted = match moment {
        None => right.clone(),
        Some(moment) => product(right.clone(), moment.clone()),
    };
    let gram = entries(product(weighted, right.transpose()))?;
    let eigen = view(&gram, width, width)
        .self_adjoint_eigen(Side::Lower)
        .map_err(|_| TrainingError::NoConvergence {
            what: "eigenvalue decomposition",
            rows: width,
            columns: width,
        })?;
    // Eigenvalues rise.
    let best = eigen.U().reverse_cols().subcols(0, rank).to_owned();
    let best = tensor(row_major(best.as_ref()), [width, rank], &device);
    Ok(product(basis, best))
}

/// The best approximations of rank `rank` of many small matrices `[count, rows, columns]`: `U [count,
/// rows, rank]` and `V [count, rank, columns]`, by subspace iteration.
pub(super) fn low_rank_each(
    matrices: &Tensor<3>,
    rank: usize,
) -> Result<(Tensor<3>, Tensor<3>), TrainingError> {
    let ([count, _, columns], device) = (matrices.dims(), matrices.device());
    let guess = Normal::new(SEED).take(columns * rank);
    let guess: Tensor<3> = tensor(guess, [1, columns, rank], &device);
    let mut basis = orthonormal(matrices.clone().matmul(guess.expand([count, columns, rank])))?;
    for _ in 0..Effort::Start.passes() {
        let right = matrices.clone().swap_dims(1, 2).matmul(basis);
        basis = orthonormal(matrices.clone().matmul(right))?;
    }
    let right = exact_product(basis.clone().swap_dims(1, 2), matrices.clone());
    let norms = right.clone().square().sum_dim(2).sqrt().sqrt(); // [count, rank, 1]
    let inverse = norms.clone().clamp_min(f32::MIN_POSITIVE).recip();
    Ok((basis * norms.swap_dims(1, 2), right * inverse))
}

/// An orthonormal basis of the columns of each matrix `[count, rows, columns]`, on the host.
fn orthonormal(matrices: Tensor<3>) -> Result<Tensor<3>, TrainingError> {
    let ([count, rows, columns], device): (_, Device) = (matrices.dims(), matrices.device());
    let mut all = entries(matrices)?;
    all.par_chunks_mut((rows * columns).max(1)).for_each(|one| {
        let basis = view(one, rows, columns).qr().compute_thin_Q();
        one.copy_from_slice(&row_major(basis.as_ref()));
    });
    Ok(tensor(all, [count, rows, columns], &device))
}

fn product(lhs: Tensor<2>, rhs: Tensor<2>) -> Tensor<2> {
    exact_product(lhs.unsqueeze(), rhs.unsqueeze()).squeeze_dim(0)
}
