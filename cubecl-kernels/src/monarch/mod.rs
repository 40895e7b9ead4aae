//! Monarch products: block-diagonal, permutation, block-diagonal.
//!
//! `Y_i = X_i right_iᵀ` for every input block `i`. Part `j` of the columns of `Y_i` (each part
//! `r/b` wide) becomes part `i` of the columns of `Z_j`; then `out_j = Z_j left_jᵀ + bias_j`.
//! Row `q` of `out_j` is output feature `j · out/b + q`, or `q · b + j` if the order is
//! [interleaved](crate::OutputOrder::Interleaved).
//!
//! # Shapes
//!
//! `x [tokens, in]`, `right [b, r, in/b]`, `left [b, out/b, r]`, `bias [out]` (in the order of the
//! output), `out [tokens, out]`; `r` a multiple of `b`.

mod cost;
mod fused;
mod launch;
mod problem;
pub mod reference;

pub use cost::{forward_bytes, forward_flops};
pub use launch::{MonarchBackward, MonarchForward, backward, forward};
