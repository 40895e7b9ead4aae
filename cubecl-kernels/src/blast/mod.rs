//! BLAST products (block-level adaptive structured,
//! [Lee et al. 2024](https://arxiv.org/abs/2410.21262), section 2).
//!
//! `Y_i = X_i V_iᵀ` for every input block `i`, `Z_j = Σ_i S_ji ∘ Y_i`,
//! `out_j = Z_j U_jᵀ + bias_j` for every output block `j`.
//!
//! # Shapes
//!
//! `x [tokens, in]`, `u [b, out/b, r]`, `s [b (out), b (in), r]`, `v [b, r, in/b]`, `bias [out]`,
//! `out [tokens, out]`.

mod cost;
mod launch;
mod problem;
pub mod reference;

pub use cost::{forward_bytes, forward_flops};
pub use launch::{BlastBackward, BlastForward, backward, forward};
