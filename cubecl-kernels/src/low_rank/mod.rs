//! Low-rank products, `out = (x vᵀ) uᵀ + bias`.
//!
//! # Shapes
//!
//! `x [tokens, in]`, `u [out, r]`, `v [r, in]`, `bias [out]`, `out [tokens, out]`.

mod cost;
mod launch;
mod problem;
pub mod reference;

pub use cost::{forward_bytes, forward_flops};
pub use launch::{LowRankBackward, LowRankForward, backward, forward};
