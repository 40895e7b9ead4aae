//! The linear least-squares steps of the alternating factorisation.

use faer::linalg::solvers::Solve;
use faer::{Mat, MatRef, Side};

use crate::TrainingError;

/// Weight of the proximal term against the diagonal of the normal matrix.
///
/// A Gram matrix summed in `f32` has relative errors near 1e-7, which may make the small end of its
/// spectrum negative; this lifts it. The term holds back the step alone, so it costs convergence
/// along those directions and no accuracy.
const DAMPING: f64 = 1e-6;

/// How often the damping may be raised a hundredfold where the factorisation still breaks down.
const ATTEMPTS: usize = 4;

/// The step `δ` that minimises `‖A(x + δ) − w‖² + λ ‖δ‖²_D`, from the normal equations.
///
/// `normal = AᵀA [r, r]` and `residual = Aᵀ(w − A x) [r, columns]`; `D` is the diagonal of
/// `normal`, so the step does not depend on how scale is shared between factors. The term holds the
/// step, not the solution, back: the error can only fall, and a factor that already solves its
/// problem stays where it is.
///
/// # Errors
///
/// [`TrainingError::NoConvergence`] if the normal matrix is not positive definite even when damped,
/// which only non-finite entries bring about.
pub(super) fn step(normal: Mat<f64>, residual: MatRef<'_, f64>) -> Result<Mat<f64>, TrainingError> {
    let rank = normal.nrows();
    let largest = (0..rank).map(|k| normal[(k, k)]).fold(0.0, f64::max);
    if largest == 0.0 {
        return Ok(Mat::zeros(rank, residual.ncols()));
    }
    // A component that nothing depends on gets an infinite scale, hence no step.
    let scale: Vec<f64> = (0..rank)
        .map(|k| {
            let entry = normal[(k, k)];
            if entry > 1e-14 * largest {
                entry.sqrt().recip()
            } else {
                0.0
            }
        })
        .collect();
    let scaled_residual = Mat::from_fn(rank, residual.ncols(), |k, column| {
        scale[k] * residual[(k, column)]
    });
    let mut damping = DAMPING;
    for _ in 0..ATTEMPTS {
        let scaled = Mat::from_fn(rank, rank, |row, column| {
            let entry = scale[row] * normal[(row, column)] * scale[column];
            if row != column {
                entry
            } else if scale[row] == 0.0 {
                1.0
            } else {
                entry + damping
            }
        });
        if let Ok(factors) = scaled.llt(Side::Lower) {
            let mut step = factors.solve(scaled_residual.as_ref());
            for column in 0..step.ncols() {
                for (k, &scale) in scale.iter().enumerate() {
                    step[(k, column)] *= scale;
                }
            }
            return Ok(step);
        }
        damping *= 100.0;
    }
    Err(TrainingError::NoConvergence {
        what: "Cholesky factorisation of a normal matrix",
        rows: rank,
        columns: rank,
    })
}
