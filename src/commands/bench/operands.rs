//! What layers are timed on: random weights and inputs.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Distribution, FloatDType, Tensor};
use burn_blr::{BlrLinear, Structure};

use crate::error::CommandError;

/// Copies of weights, inputs and outputs that calls take turns with hold at least this much
/// together, so that none is found in a cache: three times the largest L2 of the GPUs at hand.
const ROTATED_BYTES: usize = 160 << 20;

/// Fewest copies, where one is large.
const MIN_COPIES: usize = 4;

/// Most copies. The smallest layer of the catalogue needs 164.
const MAX_COPIES: usize = 192;

/// How many copies of `bytes` are rotated.
pub fn copies(bytes: usize) -> usize {
    ROTATED_BYTES.div_ceil(bytes).clamp(MIN_COPIES, MAX_COPIES)
}

/// A layer without bias and an input `[tokens, in]`, both random.
pub fn random(
    structure: Structure,
    (in_features, out_features): (usize, usize),
    tokens: usize,
    dtype: FloatDType,
    device: &Device,
) -> Result<(BlrLinear, Tensor<2>), CommandError> {
    let layer = BlrLinear::init(structure, in_features, out_features, false, device)?;
    let layer = layer.map(&mut CastTo(dtype));
    let normal = Distribution::Normal(0.0, 1.0);
    let input = Tensor::<2>::random([tokens, in_features], normal, device);
    Ok((layer, input.cast(dtype)))
}

struct CastTo(FloatDType);

impl ModuleMapper for CastTo {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| tensor.cast(self.0))
    }
}
