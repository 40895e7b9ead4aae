//! The kernels of attention.

pub(crate) mod flash;
mod ring;
pub(crate) mod single;

/// A score that stands for minus infinity; its differences stay numbers.
const HIDDEN: f32 = -3.0e38;
