//! The three products as operations of a Burn backend.
//!
//! [`BlrBackend`] extends Burn's backends. Its default bodies are plain tensor operations
//! ([`plain`]), so every backend has the products; the CubeCL backends run the kernels of
//! [`cubecl_kernels`], `Fusion` registers each product as one custom operation of its stream, and
//! `Autodiff` has a backward pass of its own that saves the input and the factors, nothing wider.
//!
//! The functions of this module are the way in for tensors of any rank.

#[cfg(feature = "autodiff")]
mod autodiff;
mod backend;
mod call;
#[cfg(feature = "cubecl")]
mod cube;
#[cfg(feature = "fusion")]
mod fusion;
mod linear;
pub mod plain;

pub use backend::{Bias, BlrBackend, Merged};
#[cfg(feature = "cubecl")]
pub(crate) use cube::{empty_of, served};
pub use linear::{
    Epilogue, activate, blast_linear, concatenate, dense_linear, exact_product, low_rank_linear,
    monarch_linear,
};
