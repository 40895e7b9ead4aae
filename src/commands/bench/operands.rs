//! What layers are timed on: random weights and inputs.

use burn::tensor::{Device, Distribution, FloatDType, Tensor};
use burn_blr::{BlrLinear, Structure};

use crate::error::CommandError;

/// Copies of weights, inputs and outputs that calls take turns with hold at least this much
/// together, so that none is found in a cache: the L2 of an H100 has 50 MB.
const ROTATED_BYTES: usize = 160 << 20;

/// Fewest copies, where one is large.
const MIN_COPIES: usize = 4;

/// Most copies. The smallest layer of the catalogue, low-rank on one token in 16 bits, would take
/// 212; 192 of it hold 152 MB, three times the 50 MB of an H100's L2.
const MAX_COPIES: usize = 192;

/// How many copies of `bytes` are rotated.
pub fn copies(bytes: usize) -> usize {
    ROTATED_BYTES.div_ceil(bytes).clamp(MIN_COPIES, MAX_COPIES)
}

/// A layer without bias, stored as in most checkpoints, and an input `[tokens, in]`, both random.
pub fn random(
    structure: Structure,
    (in_features, out_features): (usize, usize),
    tokens: usize,
    dtype: FloatDType,
    device: &Device,
) -> Result<(BlrLinear, Tensor<2>), CommandError> {
    let layer = BlrLinear::random(structure, in_features, out_features, false, dtype, device)?;
    let normal = Distribution::Normal(0.0, 1.0);
    let input = Tensor::<2>::random([tokens, in_features], normal, device);
    Ok((layer, input.cast(dtype)))
}
