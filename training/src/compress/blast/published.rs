//! The published method: preconditioned gradient steps from a random start
//! ([Lee et al. 2024](https://arxiv.org/abs/2410.21262), algorithm 2), for comparison.
//!
//! A step goes through U, V and S in turn and takes of each the gradient of `‖W − Ŵ‖²` times the
//! inverse of its normal matrix plus `0.1 ‖W − Ŵ‖`, at a rate that falls from 1 to 0.01. The authors'
//! code factorises the `b² + 2b` matrices of `r × r`; here conjugate gradients solve the systems to a
//! residual of 1e-4, with products on the device.

use burn::tensor::{Device, Tensor};
use burn_blr::ops::exact_product;

use super::BlastFactors;
use crate::TrainingError;
use crate::compress::host::{entries, frobenius_norm, tensor};
use crate::compress::random::Normal;

/// Damping of the normal matrices over the norm of what is left.
const DAMPING: f64 = 0.1;

/// The rate of the last step; that of the first is 1.
const LAST_RATE: f64 = 0.01;

/// Standard deviation of U and V at the start, times the root of the rank; that of S is 1.
const SPREAD: f32 = 0.001;

/// Residual over the right-hand side at which a system counts as solved.
const SOLVED: f32 = 1e-4;

/// Most steps of conjugate gradients for a system, and after how many the residuals are looked at.
const SOLVER_STEPS: usize = 200;
const CHECKED: usize = 4;

/// Most entries of the normal matrices of S that are held at once.
const NORMALS: usize = 1 << 28;

/// Seed of the start.
const SEED: u64 = 0xB1A57;

/// Takes `steps` steps; calls `on_step` with the relative error after each.
pub(super) fn factorize(
    weight: &Tensor<2>,
    blocks: usize,
    rank: usize,
    steps: usize,
    on_step: &mut dyn FnMut(usize, f64),
) -> Result<(BlastFactors, Vec<f64>), TrainingError> {
    let [out_features, in_features] = weight.dims();
    let norm = frobenius_norm(weight.clone())?;
    let deviation = norm / ((out_features * in_features) as f64).sqrt();
    let unit = if norm > 0.0 { deviation } else { 1.0 };
    let problem = Problem {
        weight: (weight.clone() / unit).reshape([blocks, out_features / blocks, in_features]),
        norm: norm / unit,
        rank,
    };
    let mut factors = problem.random_start();
    let mut errors = vec![problem.residual(&factors)?.1 / problem.norm.max(f64::MIN_POSITIVE)];
    on_step(0, errors[0]);
    for step in 1..=steps {
        let done = (step - 1) as f64 / steps as f64;
        factors = problem.step(factors, 1.0 - done * (1.0 - LAST_RATE))?;
        errors.push(problem.residual(&factors)?.1 / problem.norm.max(f64::MIN_POSITIVE));
        on_step(step, errors[step]);
    }
    factors.u = factors.u * unit;
    Ok((factors, errors))
}

struct Problem {
    /// `[b, out/b, in]`, its entries of root mean square one.
    weight: Tensor<3>,
    norm: f64,
    rank: usize,
}

impl Problem {
    fn blocks(&self) -> usize {
        self.weight.dims()[0]
    }

    fn block_in(&self) -> usize {
        self.weight.dims()[2] / self.blocks()
    }

    fn device(&self) -> Device {
        self.weight.device()
    }

    fn random_start(&self) -> BlastFactors {
        let ([blocks, block_out, in_features], rank) = (self.weight.dims(), self.rank);
        let mut normal = Normal::new(SEED);
        let mut draw = |shape: [usize; 3]| {
            let numbers = normal.take(shape.iter().product());
            tensor::<3>(numbers, shape, &self.device())
        };
        let spread = SPREAD / (rank as f32).sqrt();
        BlastFactors {
            u: draw([blocks, block_out, rank]) * spread,
            s: draw([blocks, blocks, rank]),
            v: draw([blocks, rank, in_features / blocks]) * spread,
        }
    }

    /// `Ŵ − W [b, out/b, in]` and its norm.
    fn residual(&self, factors: &BlastFactors) -> Result<(Tensor<3>, f64), TrainingError> {
        let coupled = self.coupled(factors);
        let residual = exact_product(factors.u.clone(), coupled) - self.weight.clone();
        let norm = frobenius_norm(residual.clone())?;
        Ok((residual, norm))
    }

    /// `[diag(S_ji) V_i]_i` for every j, `[b, r, in]`.
    fn coupled(&self, factors: &BlastFactors) -> Tensor<3> {
        let [blocks, _, in_features] = self.weight.dims();
        let s: Tensor<4> = factors.s.clone().swap_dims(1, 2).unsqueeze_dim(3); // [b, r, b, 1]
        let v: Tensor<4> = factors.v.clone().swap_dims(0, 1).unsqueeze(); // [1, r, b, in/b]
        (s * v).reshape([blocks, self.rank, in_features])
    }

    /// `U_jᵀ (Ŵ − W)_ji` for all blocks, `[b (out), b (in), r, in/b]`.
    fn projected(&self, u: &Tensor<3>, residual: Tensor<3>) -> Tensor<4> {
        let blocks = self.blocks();
        let projected = exact_product(u.clone().swap_dims(1, 2), residual);
        let projected: Tensor<4> = projected.reshape([blocks, self.rank, blocks, self.block_in()]);
        projected.swap_dims(1, 2)
    }

    /// Goes through U, V and S.
    fn step(&self, mut factors: BlastFactors, rate: f64) -> Result<BlastFactors, TrainingError> {
        let (blocks, rank) = (self.blocks(), self.rank);
        let (residual, left) = self.residual(&factors)?;
        let coupled = self.coupled(&factors);
        let normal = exact_product(coupled.clone(), coupled.clone().swap_dims(1, 2));
        let gradient = exact_product(coupled, residual.swap_dims(1, 2)); // [b, r, out/b]
        let step = self.solve(normal, gradient, DAMPING * left)?;
        factors.u = factors.u - step.swap_dims(1, 2) * (2.0 * rate);

        let (residual, left) = self.residual(&factors)?;
        let s: Tensor<4> = factors.s.clone().unsqueeze_dim(3); // [b (out), b (in), r, 1]
        let gram_u = exact_product(factors.u.clone().swap_dims(1, 2), factors.u.clone());
        // Σ_j (S_ji S_jiᵀ) ∘ (U_jᵀ U_j)
        let mut normal = Tensor::<3>::zeros([blocks, rank, rank], &self.device());
        for j in 0..blocks {
            let s: Tensor<3> = s.clone().narrow(0, j, 1).squeeze_dim(0); // [b (in), r, 1]
            let gram = gram_u.clone().narrow(0, j, 1);
            normal = normal + gram * s.clone() * s.swap_dims(1, 2);
        }
        let gradient = (self.projected(&factors.u, residual) * s).sum_dim(0);
        let step = self.solve(normal, gradient.squeeze_dim(0), DAMPING * left)?;
        factors.v = factors.v - step * (2.0 * rate);

        let (residual, left) = self.residual(&factors)?;
        let gram_v = exact_product(factors.v.clone(), factors.v.clone().swap_dims(1, 2));
        let v: Tensor<4> = factors.v.clone().unsqueeze();
        let gradient = (self.projected(&factors.u, residual) * v).sum_dim(3);
        let at_once = (NORMALS / (blocks * rank * rank)).clamp(1, blocks);
        let mut rows = vec![];
        for first in (0..blocks).step_by(at_once) {
            let count = at_once.min(blocks - first);
            let gram_u: Tensor<4> = gram_u.clone().narrow(0, first, count).unsqueeze_dim(1);
            let normal =
                (gram_u * gram_v.clone().unsqueeze()).reshape([-1, rank as i32, rank as i32]);
            let gradient = gradient.clone().narrow(0, first, count);
            let gradient = gradient.reshape([-1, rank as i32, 1]); // [count b (in), r, 1]
            rows.push(self.solve(normal, gradient, DAMPING * left)?);
        }
        let step = Tensor::cat(rows, 0).reshape([blocks, blocks, rank]);
        factors.s = factors.s - step * (2.0 * rate);
        Ok(factors)
    }

    /// `(normal + damping)⁻¹ right` for matrices `[count, r, r]` and `[count, r, columns]`, by conjugate
    /// gradients for each column on its own.
    fn solve(
        &self,
        normal: Tensor<3>,
        right: Tensor<3>,
        damping: f64,
    ) -> Result<Tensor<3>, TrainingError> {
        let smallest = f32::MIN_POSITIVE;
        let mut solution = right.zeros_like();
        let mut square = right.clone().square().sum_dim(1); // [count, 1, columns]
        let wanted = square.clone() * SOLVED * SOLVED;
        let (mut left, mut direction) = (right.clone(), right);
        for step in 1..=SOLVER_STEPS {
            let image =
                exact_product(normal.clone(), direction.clone()) + direction.clone() * damping;
            let curvature = (direction.clone() * image.clone()).sum_dim(1);
            let length = square.clone() / curvature.clamp_min(smallest);
            solution = solution + direction.clone() * length.clone();
            left = left - image * length;
            let before = square.clamp_min(smallest);
            square = left.clone().square().sum_dim(1);
            if step % CHECKED == 0 {
                let over = entries(square.clone() - wanted.clone())?;
                if over.iter().all(|&over| over <= 0.0) {
                    break;
                }
            }
            direction = left.clone() + direction * (square.clone() / before);
        }
        Ok(solution)
    }
}
