//! The kernels of attention.

pub(crate) mod flash;
pub(crate) mod single;
