//! The kernels of the batched product, from simple to fast.

pub(crate) mod epilogue;
pub(crate) mod geometry;
pub(crate) mod group_store;
pub(crate) mod mma;
pub(crate) mod naive;
pub(crate) mod shared_depth;
pub(crate) mod stage;
pub(crate) mod tiled;
pub(crate) mod wgmma;
