//! A batched product and the coupling after it, in one kernel:
//! `out[j, t, k] = Σ_i S[j, i, k] Y[i, t, k]` with `Y_i = A_i B_i`.
//!
//! `Y` is `b` times wider than a low-rank intermediate; here each tile of it lives in shared
//! memory, for all blocks at once, and only its couplings are stored.

mod choice;
pub(crate) mod couple;
pub(crate) mod geometry;
pub(crate) mod kernel;
mod launch;
pub(crate) mod plan;
pub(crate) mod tile;
pub(crate) mod wgmma;
pub(crate) mod wgmma_plan;

pub(crate) use launch::{CoupledOperands, PlannedCoupledProduct};
