//! The best approximation of low rank, where it matters for the inputs that were seen.
//!
//! `‖(W − Ŵ) L‖` is least over all `Ŵ` of rank r for `Ŵ = Q Qᵀ W`, where the columns of Q are the
//! first r left singular vectors of `W L`: no inverse of the second moment `L Lᵀ` is needed.

use burn::tensor::Tensor;
use burn_blr::ops::exact_product;
use faer::{Mat, Side};
use rayon::prelude::*;

use super::host::{entries, inverse_of_lower, row_major, tensor, view};
use super::random::Normal;
use super::weighting::root;
use crate::TrainingError;

/// Matrices with a side up to this have an exact decomposition on the host.
const EXACT: usize = 1024;

/// Largest entry of `Qᵀ Q − 1` for which the columns of Q count as orthonormal.
const ORTHONORMAL: f32 = 1e-5;

/// Most factorisations of Gram matrices for one basis.
const ORTHONORMAL_PASSES: usize = 5;

/// Largest error of `Qᵀ Q` for a basis Q that is iterated on.
const INDEPENDENT: f64 = 1e-2;

/// Added to the diagonal of a Gram matrix, over the root of its width: what rounding to `f32` may
/// have taken from it.
const SHIFT: f64 = 1e-6;

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

/// What a basis is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// To be multiplied again: its columns have to be far from dependent, and of one length.
    Iterate,
    /// To project onto.
    Project,
}

impl Use {
    /// What a basis between passes is for, and that of the last.
    fn of_pass(pass: usize, passes: usize) -> Self {
        match pass == passes {
            true => Use::Project,
            false => Use::Iterate,
        }
    }
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
    let basis = match is_exact(weight, moment) {
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

/// Whether the decomposition of `weight · L` is done on the host.
fn is_exact(weight: &Tensor<2>, moment: Option<&Tensor<2>>) -> bool {
    let [rows, columns] = weight.dims();
    rows.min(columns) <= EXACT && (moment.is_none() || columns <= 4 * EXACT)
}

/// `weight · L`.
fn seen(weight: &Tensor<2>, moment: Option<&Tensor<2>>) -> Result<Tensor<2>, TrainingError> {
    Ok(match moment {
        None => weight.clone(),
        Some(moment) => product(weight.clone(), root(moment)?),
    })
}

/// `(Qᵀ W L)(Qᵀ W L)ᵀ` for a basis `Q [out, width]`.
fn projected_gram(weight: &Tensor<2>, moment: Option<&Tensor<2>>, basis: Tensor<2>) -> Tensor<2> {
    let right = product(basis.transpose(), weight.clone());
    let weighted = match moment {
        None => right.clone(),
        Some(moment) => product(right.clone(), moment.clone()),
    };
    product(weighted, right.transpose())
}

/// Exactly, on the host.
fn singular_vectors(
    weight: &Tensor<2>,
    moment: Option<&Tensor<2>>,
    rank: usize,
) -> Result<Tensor<2>, TrainingError> {
    let ([rows, columns], device) = (weight.dims(), weight.device());
    let seen = entries(seen(weight, moment)?)?;
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
    let passes = effort.passes();
    let mut basis = orthonormal(apply(guess).unsqueeze(), Use::of_pass(0, passes))?;
    for pass in 1..=passes {
        let right = weight.clone().transpose().matmul(basis.squeeze_dim(0));
        basis = orthonormal(apply(right).unsqueeze(), Use::of_pass(pass, passes))?;
    }
    let basis: Tensor<2> = basis.squeeze_dim(0);
    if width == rank {
        return Ok(basis);
    }
    // The best of the wider space.
    let gram = entries(projected_gram(weight, moment, basis.clone()))?;
    let best = leading_vectors(&gram, width, rank)?;
    let best = tensor(best, [width, rank], &device);
    Ok(product(basis, best))
}

/// The best approximations of rank `rank` of many small matrices `[count, rows, columns]`: `U [count,
/// rows, rank]` and `V [count, rank, columns]`, by subspace iteration.
pub(super) fn low_rank_each(
    matrices: &Tensor<3>,
    rank: usize,
) -> Result<(Tensor<3>, Tensor<3>), TrainingError> {
    let ([count, rows, columns], device) = (matrices.dims(), matrices.device());
    let width = (2 * rank).min(rows).min(columns);
    let guess = Normal::new(SEED).take(columns * width);
    let guess: Tensor<3> = tensor(guess, [1, columns, width], &device);
    let passes = Effort::Result.passes();
    let guess = guess.expand([count, columns, width]);
    let mut basis = orthonormal(matrices.clone().matmul(guess), Use::of_pass(0, passes))?;
    for pass in 1..=passes {
        let right = matrices.clone().swap_dims(1, 2).matmul(basis);
        basis = orthonormal(matrices.clone().matmul(right), Use::of_pass(pass, passes))?;
    }
    let right = exact_product(basis.clone().swap_dims(1, 2), matrices.clone());
    let gram = exact_product(right.clone(), right.clone().swap_dims(1, 2));
    let best: Vec<Vec<f32>> = entries(gram)?
        .par_chunks(width * width)
        .map(|gram| leading_vectors(gram, width, rank))
        .collect::<Result<_, _>>()?;
    let best: Tensor<3> = tensor(best.concat(), [count, width, rank], &device);
    let basis = exact_product(basis, best.clone());
    let right = exact_product(best.swap_dims(1, 2), right);
    let norms = right.clone().square().sum_dim(2).sqrt().sqrt(); // [count, rank, 1]
    let inverse = norms.clone().clamp_min(f32::MIN_POSITIVE).recip();
    Ok((basis * norms.swap_dims(1, 2), right * inverse))
}

/// The largest squares of the singular values of `weight · L`, largest first, at most `count`: all of
/// them exact on the host for matrices with a small side, else from two passes of subspace iteration.
pub(super) fn squared_singular_values(
    weight: &Tensor<2>,
    moment: Option<&Tensor<2>>,
    count: usize,
) -> Result<Vec<f64>, TrainingError> {
    let [rows, columns] = weight.dims();
    let count = count.min(rows).min(columns);
    let failed = |_| TrainingError::NoConvergence {
        what: "singular value decomposition",
        rows,
        columns,
    };
    let mut squares: Vec<f64> = if is_exact(weight, moment) {
        let seen = entries(seen(weight, moment)?)?;
        let values = view(&seen, rows, columns).singular_values();
        let values = values.map_err(failed)?.into_iter();
        values.map(|value| f64::from(value).powi(2)).collect()
    } else {
        let basis = iterate(weight, moment, count, Effort::Start)?;
        let gram = entries(projected_gram(weight, moment, basis))?;
        let values = view(&gram, count, count).self_adjoint_eigenvalues(Side::Lower);
        let values = values.map_err(|_| TrainingError::NoConvergence {
            what: "eigenvalue decomposition",
            rows: count,
            columns: count,
        })?;
        values.into_iter().rev().map(f64::from).collect()
    };
    squares.truncate(count);
    Ok(squares)
}

/// The eigenvectors `[width, count]` of the largest eigenvalues of a symmetric matrix, largest first,
/// in row-major order.
fn leading_vectors(matrix: &[f32], width: usize, count: usize) -> Result<Vec<f32>, TrainingError> {
    let eigen = view(matrix, width, width)
        .self_adjoint_eigen(Side::Lower)
        .map_err(|_| TrainingError::NoConvergence {
            what: "eigenvalue decomposition",
            rows: width,
            columns: width,
        })?;
    // Eigenvalues rise.
    Ok(row_major(eigen.U().reverse_cols().subcols(0, count)))
}

/// An orthonormal basis of the columns of each matrix `[count, rows, columns]`.
///
/// From Cholesky factors of Gram matrices, which are small enough for the host, several times over
/// ([Fukaya et al. 2020](https://doi.org/10.1137/18M1218212)). Columns that are too close to dependent
/// for that take a QR decomposition on the host. To iterate on, one factorisation is enough where it
/// shows that the columns are not that close: it saves the second one, and reading two Gram matrices
/// back.
fn orthonormal(matrices: Tensor<3>, purpose: Use) -> Result<Tensor<3>, TrainingError> {
    let ([count, rows, columns], device) = (matrices.dims(), matrices.device());
    let mut basis = matrices.clone();
    for _ in 0..ORTHONORMAL_PASSES {
        let gram = exact_product(basis.clone().swap_dims(1, 2), basis.clone());
        let gram = entries(gram)?;
        let mut off = gram.iter().enumerate().map(|(index, entry)| {
            let (row, column) = (index / columns % columns, index % columns);
            (entry - if row == column { 1.0 } else { 0.0 }).abs()
        });
        // A NaN is not closer than the bound.
        if off.all(|off| off < ORTHONORMAL) {
            return Ok(basis);
        }
        let roots: Option<Vec<InverseRoot>> = gram
            .par_chunks((columns * columns).max(1))
            .map(|gram| InverseRoot::new(gram, columns))
            .collect();
        let Some(roots) = roots else { break };
        let rounding = roots.iter().map(|root| root.rounding).fold(0.0, f64::max);
        let inverses: Vec<f32> = roots.into_iter().flat_map(|root| root.entries).collect();
        let inverses = tensor(inverses, [count, columns, columns], &device);
        basis = exact_product(basis, inverses);
        if purpose == Use::Iterate && rounding < INDEPENDENT {
            return Ok(basis);
        }
    }
    let mut all = entries(matrices)?;
    all.par_chunks_mut((rows * columns).max(1)).for_each(|one| {
        let basis = view(one, rows, columns).qr().compute_thin_Q();
        one.copy_from_slice(&row_major(basis.as_ref()));
    });
    Ok(tensor(all, [count, rows, columns], &device))
}

/// What makes columns with a Gram matrix orthonormal.
struct InverseRoot {
    /// `D L⁻ᵀ` in row-major order, with `L Lᵀ = D gram D` plus a small shift, and D such that this has
    /// a diagonal of ones.
    entries: Vec<f32>,
    /// About how far from orthonormal the columns still are: the shift over the square of the least
    /// pivot.
    rounding: f64,
}

impl InverseRoot {
    /// That of a Gram matrix; `None` where it is too close to singular.
    fn new(gram: &[f32], width: usize) -> Option<Self> {
        let scales: Vec<f64> = (0..width)
            .map(|at| f64::from(gram[at * width + at].max(f32::MIN_POSITIVE)))
            .map(|square| square.sqrt().recip())
            .collect();
        let shift = SHIFT * (width as f64).sqrt();
        let scaled = Mat::from_fn(width, width, |row, column| {
            let entry = f64::from(gram[row * width + column]) * scales[row] * scales[column];
            entry + if row == column { shift } else { 0.0 }
        });
        let factor = scaled.llt(Side::Lower).ok()?;
        let lower = factor.L();
        let pivots = (0..width).map(|at| lower[(at, at)]);
        let least = pivots.fold(f64::INFINITY, f64::min);
        let inverse = inverse_of_lower(lower);
        let upper = Mat::from_fn(width, width, |row, column| {
            (inverse[(column, row)] * scales[row]) as f32
        });
        Some(InverseRoot {
            entries: row_major(upper.as_ref()),
            rounding: shift / least.powi(2),
        })
    }
}

fn product(lhs: Tensor<2>, rhs: Tensor<2>) -> Tensor<2> {
    exact_product(lhs.unsqueeze(), rhs.unsqueeze()).squeeze_dim(0)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::compress::host::frobenius_norm;

    fn random(shape: [usize; 3], seed: u64) -> Tensor<3> {
        let numbers = Normal::new(seed).take(shape.iter().product());
        tensor(numbers, shape, &Device::flex())
    }

    #[test]
    fn bases_are_orthonormal_and_span_the_columns() -> Result<(), TrainingError> {
        let full = random([3, 40, 12], 1);
        // Columns of lengths from 1 to 1e-11, and columns that say the same twice.
        let falling = (0..12).map(|at| 10f32.powi(-at)).collect();
        let falling = full.clone() * tensor(falling, [1, 1, 12], &Device::flex());
        let half = random([3, 40, 6], 2);
        let twice = Tensor::cat(vec![half.clone(), half], 2);
        for (name, matrices) in [
            ("full", full.clone()),
            ("falling", falling),
            ("twice", twice),
            ("zero", full.zeros_like()),
        ] {
            let basis = orthonormal(matrices.clone(), Use::Project)?;
            let gram = basis.clone().swap_dims(1, 2).matmul(basis.clone());
            let unit: Tensor<2> = Tensor::eye(12, &Device::flex());
            let off = frobenius_norm(gram - unit.unsqueeze())?;
            assert!(off < 1e-4, "{name}: {off}");
            let inside = basis
                .clone()
                .matmul(basis.swap_dims(1, 2).matmul(matrices.clone()));
            let outside = frobenius_norm(matrices.clone() - inside)?;
            assert!(
                outside <= 1e-5 * frobenius_norm(matrices)?,
                "{name}: {outside}"
            );
        }
        Ok(())
    }

    #[test]
    fn bases_to_iterate_on_are_nearly_orthonormal() -> Result<(), TrainingError> {
        // A condition number of a thousand: one factorisation leaves what the shift is of it.
        let values = (0..12).map(|at| 10f32.powf(-0.25 * at as f32)).collect();
        let mixed = random([1, 40, 12], 5) * tensor(values, [1, 1, 12], &Device::flex());
        let mixed = mixed.matmul(random([1, 12, 12], 6));
        let basis = orthonormal(mixed, Use::Iterate)?;
        let gram = basis.clone().swap_dims(1, 2).matmul(basis);
        let unit: Tensor<2> = Tensor::eye(12, &Device::flex());
        let off = frobenius_norm(gram - unit.unsqueeze())?;
        assert!(off < 0.1, "{off}");
        Ok(())
    }

    #[test]
    fn iteration_comes_close_to_the_optimum() -> Result<(), TrainingError> {
        let (rows, columns, rank) = (150, 210, 40);
        let values = (1..=rows).map(|k| (k as f32).powf(-0.5)).collect();
        let values = tensor(values, [1, 1, rows], &Device::flex());
        let weight = random([1, rows, rows], 3) * values;
        let weight: Tensor<2> = weight.matmul(random([1, rows, columns], 4)).squeeze_dim(0);
        let squares = squared_singular_values(&weight, None, rows)?;
        let optimum: f64 = squares[rank..].iter().sum();
        for (effort, worse) in [(Effort::Result, 1.005), (Effort::Start, 1.1)] {
            let basis = iterate(&weight, None, rank, effort)?;
            let found = product(basis.clone(), product(basis.transpose(), weight.clone()));
            let error = frobenius_norm(weight.clone() - found)?.powi(2);
            assert!(error < worse * optimum, "{effort:?}: {error} {optimum}");
        }
        Ok(())
    }
}
