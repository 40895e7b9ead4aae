//! The middle step of a BLAST product, `Z[j, t, k] = Σ_i S[j, i, k] Y[i, t, k]`, its transpose
//! (swap the block axes of `S`) and its gradient, `dS[j, i, k] = Σ_t dZ[j, t, k] Y[i, t, k]`.

mod cost;
mod gradient;
mod kernel;
mod launch;
mod plan;
mod problem;

pub(crate) use cost::couple_flops;
pub(crate) use gradient::PlannedCoupleGradient;
pub(crate) use launch::PlannedCouple;
pub(crate) use problem::{CoupleGradientProblem, CoupleProblem};
