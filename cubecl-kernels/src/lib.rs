//! CubeCL kernels for products with block-low-rank weights, forward and backward.
//!
//! Every operation computes `y = x Wᵀ + bias` for `x [tokens, in]` and a structured
//! `W [out, in]`, without ever building `W`. With `b` blocks and rank `r`:
//!
//! | structure | stored factors | block `(j, i)` of `W` |
//! |---|---|---|
//! | [`low_rank`] | `u [out, r]`, `v [r, in]` | `U_j V_i` |
//! | [`monarch`] | `right [b, r, in/b]`, `left [b, out/b, r]` | `left_j[:, part i] · right_i[part j, :]` |
//! | [`blast`] | `u [b, out/b, r]`, `s [b (out), b (in), r]`, `v [b, r, in/b]` | `U_j diag(S_ji) V_i` |
//!
//! # Using it
//!
//! Each operation has a `forward` and a `backward` function generic over the CubeCL runtime:
//! [`low_rank::forward`], [`low_rank::backward`], [`monarch::forward`], [`monarch::backward`],
//! [`blast::forward`], [`blast::backward`]. The caller allocates outputs and scratch (the shapes
//! come from the dimensions, [`LowRankDims`], [`MonarchDims`], [`BlastDims`]), so a call neither
//! allocates nor waits, and can be captured into a graph. Operands may have any strides.
//!
//! The plan of each product is chosen by a cost model, or by measurement: see [`tuning`].
//!
//! # Precision
//!
//! Operands are `f32`, `f16` or `bf16`; every sum is taken in `f32`; intermediates are stored in
//! the element type of the operands.

mod activation;
mod context;
mod couple;
mod coupled_product;
mod device;
mod epilogue;
mod error;
mod format;
mod mma;
mod operand;
mod over_units;
mod product;
mod ptx;
mod ring;
mod strategy;
mod stream;
mod zero;

pub mod attention;
pub mod blast;
pub mod dense;
pub mod low_rank;
pub mod matmul;
pub mod monarch;
pub mod norm;
pub mod tuning;

pub use activation::Activation;
pub use epilogue::{Epilogue, Merge};
pub use error::{KernelError, Missing, Requirement};
pub use format::{BlastDims, LowRankDims, MonarchDims, OutputOrder, UnknownOutputOrder};
pub use strategy::Strategy;
