//! The norm between two layers, and the residual that is added before it.
//!
//! `sum = input + gate · residual`, then `output = norm(sum) · scale + shift` over the features of
//! each token, in one pass over memory. All of it is computed in `f32`; the sum is rounded to the
//! element type before it is normalized, as it is where it is stored.

mod kernel;
mod launch;

pub use launch::{AddNorm, Affine, Norm, Residual, add_norm};
