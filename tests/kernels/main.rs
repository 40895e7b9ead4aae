//! The kernels against the `f64` reference, on every device that answers.
//!
//! The rule (see `harness::compare`): the error is at most twice, for gradients three times, that
//! of the plain composition of the same operations in the same element type, plus a tiny floor.
//! All outputs and scratch tensors start as NaN.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../harness/mod.rs"]
mod harness;

mod attention;
mod blast;
mod dense;
mod errors;
mod low_rank;
mod monarch;
mod norm;
mod setting;
