//! The coupling kernels.

pub(crate) mod geometry;
pub(crate) mod gradient_mma;
pub(crate) mod gradient_naive;
pub(crate) mod gradient_tiled;
pub(crate) mod naive;
pub(crate) mod tiled;
