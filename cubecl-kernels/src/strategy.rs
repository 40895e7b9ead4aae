//! What a caller may ask of the kernels.

/// Which kernels an operation runs on.
///
/// A strategy that the device or the operands rule out is an error, never a silent change to
/// another one; only [`Strategy::Auto`] chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// The fastest kernels that the device can run.
    #[default]
    Auto,
    /// As [`Strategy::Auto`], with the plans of products chosen by measurement: see
    /// [`tuning`](crate::tuning).
    Tuned,
    /// One unit per output element. Slow, runs everywhere, and is easy to read.
    Naive,
    /// Tiles staged through shared memory, several outputs per unit, without tensor cores.
    Tiled,
    /// Tensor cores of compute capability 8.0 and above: tiles for many tokens, streams for few.
    /// `f32` operands are rounded to tf32, which [`Strategy::Auto`] never does.
    TensorCores,
    /// Tensor cores of compute capability 9.0, for every product of several tokens whose operands
    /// have the layout that its tensor maps need; other products as [`Strategy::TensorCores`].
    Hopper,
    /// As [`Strategy::Hopper`], with fewer results of products in memory: both products of a Monarch
    /// layer are one kernel, and so are the first product of a BLAST layer and its coupling.
    Fused,
}
