//! Block-low-rank linear layers for [Burn](https://burn.dev): low-rank, Monarch and BLAST.
//!
//! A dense weight `W [out, in]` of `y = x Wᵀ + bias` is replaced by structured factors:
//!
//! | structure | factors (stored layout) | block (j, i) of `W`, `[out/b, in/b]` | weights |
//! |---|---|---|---|
//! | low-rank | `u [out, r]`, `v [r, in]` | `U_j V_i` | `r (in + out)` |
//! | Monarch ([Dao et al. 2022](https://arxiv.org/abs/2204.00595)) | `right [b, r, in/b]`, `left [b, out/b, r]` | `left_j[:, part i] · right_i[part j, :]` | `r (in + out)` |
//! | BLAST ([Lee et al. 2024](https://arxiv.org/abs/2410.21262)) | `u [b, out/b, r]`, `s [b, b, r]`, `v [b, r, in/b]` | `U_j diag(S_ji) V_i` | `r (in + out + b²)` |
//!
//! - [`modules`]: the layers, and [`BlrLinear`], an enum over them and dense.
//! - [`ops`]: the same products as functions on tensors. Each is one operation of a Burn backend
//!   with its own backward pass, not a composition that autodiff records step by step.
//! - [`network`]: what a network does between its layers, so that it does not eat their gain.
//! - [`graph`]: work that is captured once and replayed with one launch.
//! - [`structure`]: counts of parameters, bytes and FLOPs without making a layer.
//!
//! ```no_run
//! use burn::tensor::{Device, Tensor};
//! use burn_blr::{BlrLinear, Structure};
//!
//! # fn main() -> Result<(), burn_blr::BlrError> {
//! let device = Device::default();
//! let structure = Structure::Blast { blocks: 4, rank: 8 };
//! let layer = BlrLinear::init(structure, 64, 128, true, &device)?;
//! let output = layer.forward(Tensor::<3>::ones([1, 10, 64], &device));
//! assert_eq!(output.dims(), [1, 10, 128]);
//! # Ok(())
//! # }
//! ```
//!
//! The backends whose operations are compiled in follow this crate's features (`flex`, `cuda`,
//! `wgpu`, …); enable the same ones here as on `burn`.

pub mod cuda;
pub mod error;
pub mod graph;
pub mod init;
pub mod modules;
pub mod network;
pub mod ops;
#[cfg(feature = "fusion")]
mod recorded;
pub mod scratch;
pub mod strategy;
pub mod structure;
pub mod tuning;

pub use cubecl_kernels::{Activation, Merge, OutputOrder};
pub use error::BlrError;
pub use modules::{
    BlastLinear, BlastLinearConfig, BlrLinear, LowRankLinear, LowRankLinearConfig, MonarchLinear,
    MonarchLinearConfig, observe_inputs,
};
pub use structure::{Method, Structure};
