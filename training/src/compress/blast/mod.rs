//! BLAST factors of a dense weight, by quasi-Newton steps from a truncated SVD.
//!
//! Minimises `½ Σ_j ‖(U_j [diag(S_ji) V_i]_i − W_j) L‖²` over all three factors at once, with `L` the
//! identity or, where inputs were seen, a square root of their second moment. BLAST with all
//! couplings equal to one is low-rank and with couplings of zero and one Monarch: the start is the
//! best of a few mixtures of the two ([`start`]), and [`lbfgs`] goes down from there.
//!
//! A step costs three products of `2 r · in · out` FLOPs and no factorisation, all on the weight's
//! device. Relative errors on the 1024 x 1024 matrix with singular values k^-0.5, 16 blocks and rank
//! 256, after as many steps:
//!
//! | method | start | 20 | 50 | 100 | 300 |
//! |---|---:|---:|---:|---:|---:|
//! | this one | 0.278 | 0.229 | 0.212 | 0.203 | |
//! | [`published`] ([Lee et al. 2024](https://arxiv.org/abs/2410.21262)) | 1 | 0.431 | | 0.296 | 0.271 |

mod lbfgs;
mod objective;
mod published;
mod start;

use burn::tensor::Tensor;

use self::objective::Objective;
use super::weighting::Weighting;
use crate::TrainingError;

/// How BLAST factors are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlastSolver {
    /// L-BFGS on all factors, from the SVD.
    QuasiNewton,
    /// Preconditioned gradient steps from a random start, as published
    /// ([Lee et al. 2024](https://arxiv.org/abs/2410.21262), algorithm 2). Knows nothing of inputs.
    Published,
}

/// How products of the search are computed. The error of the result is always measured exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Products {
    /// In `f32`.
    Exact,
    /// As the device multiplies `f32`; on a GPU operands may be rounded to tf32.
    Device,
}

/// How BLAST factors are found, and when the search stops.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlastOptions {
    /// The method.
    pub solver: BlastSolver,
    /// Most steps, each over all three factors.
    pub max_steps: usize,
    /// Ends when ten steps together lower the error by less than this share of it; the published
    /// method takes all of its steps.
    pub tolerance: f64,
    /// How products are computed.
    pub products: Products,
}

impl Default for BlastOptions {
    fn default() -> Self {
        BlastOptions {
            solver: BlastSolver::QuasiNewton,
            max_steps: 200,
            tolerance: 1e-3,
            products: Products::Device,
        }
    }
}

/// The factors, on the weight's device.
#[derive(Debug, Clone)]
pub(super) struct BlastFactors {
    /// `[b, out/b, r]`.
    pub u: Tensor<3>,
    /// `[b (out), b (in), r]`.
    pub s: Tensor<3>,
    /// `[b, r, in/b]`.
    pub v: Tensor<3>,
}

/// Factorises `weight [out, in]`, in `f32`, whose widths `blocks` divides.
///
/// Calls `on_step(step, relative error)`, the start as step 0, and returns the factors with these
/// errors. They are in the norm that is minimised, and never rise but by the published method.
pub(super) fn factorize(
    weight: &Tensor<2>,
    blocks: usize,
    rank: usize,
    options: &BlastOptions,
    moment: Option<&Tensor<2>>,
    on_step: &mut dyn FnMut(usize, f64),
) -> Result<(BlastFactors, Vec<f64>), TrainingError> {
    if options.solver == BlastSolver::Published {
        return published::factorize(weight, blocks, rank, options.max_steps, on_step);
    }
    let weighting = moment
        .map(|moment| Weighting::new(moment, blocks))
        .transpose()?;
    let objective = Objective::new(weight, weighting.as_ref(), blocks, rank, options.products)?;
    let start = start::best(&objective, weight, moment, weighting.as_ref())?;
    let (point, errors) = lbfgs::minimize(&objective, start, options, on_step)?;
    let mut factors = objective.factors(point);
    if let Some(weighting) = &weighting {
        factors.v = weighting.unscale(factors.v);
    }
    Ok((factors, errors))
}
