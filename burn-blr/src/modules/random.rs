//! Layers with random weights in a dtype of the caller's choice.

use burn::module::Initializer;
use burn::tensor::{DType, Device, Distribution, FloatDType, Tensor};

use super::{BlastLinear, BlrLinear, LowRankLinear, MonarchLinear};
use crate::{BlrError, Structure, init};

impl BlrLinear {
    /// Makes a layer of the given structure whose weights are drawn on `device` in `dtype`, with the
    /// distributions of [`BlrLinear::init`].
    ///
    /// `init` makes what a module of Burn has when training starts: parameters in the dtype of the
    /// device, drawn when they are first used. This makes a layer to compute with, at once, and
    /// needs no memory but that of its weights.
    ///
    /// # Errors
    ///
    /// [`BlrError`] if the structure does not fit the widths.
    pub fn random(
        structure: Structure,
        in_features: usize,
        out_features: usize,
        bias: bool,
        dtype: FloatDType,
        device: &Device,
    ) -> Result<Self, BlrError> {
        structure.validate(in_features, out_features)?;
        let bound = 1.0 / (in_features as f64).sqrt();
        let uniform = Initializer::Uniform {
            min: -bound,
            max: bound,
        };
        let source = Source { dtype, device };
        let bias = bias.then(|| source.draw(&uniform, [out_features]));
        Ok(match structure {
            Structure::Dense => {
                // The inputs of an output are contiguous, as in most checkpoints.
                let weight: Tensor<2> = source.draw(&uniform, [out_features, in_features]);
                BlrLinear::dense(weight.transpose(), bias)
            }
            Structure::LowRank { rank } => {
                let u = source.draw(&init::last(rank), [out_features, rank]);
                let v = source.draw(&init::first(in_features), [rank, in_features]);
                BlrLinear::LowRank(LowRankLinear::from_factors(u, v, bias)?)
            }
            Structure::Monarch {
                blocks,
                rank,
                order,
            } => {
                let (block_in, block_out) = (in_features / blocks, out_features / blocks);
                let right = source.draw(&init::first(block_in), [blocks, rank, block_in]);
                let left = source.draw(&init::last(rank), [blocks, block_out, rank]);
                BlrLinear::Monarch(MonarchLinear::from_factors(right, left, order, bias)?)
            }
            Structure::Blast { blocks, rank } => {
                let (block_in, block_out) = (in_features / blocks, out_features / blocks);
                let u = source.draw(&init::last(rank), [blocks, block_out, rank]);
                let s = source.draw(&init::blast_couplings(), [blocks, blocks, rank]);
                let v = source.draw(&init::blast_first(in_features), [blocks, rank, block_in]);
                BlrLinear::Blast(BlastLinear::from_factors(u, s, v, bias)?)
            }
        })
    }
}

/// Where random tensors are made, and of what.
struct Source<'a> {
    dtype: FloatDType,
    device: &'a Device,
}

impl Source<'_> {
    fn draw<const D: usize>(&self, initializer: &Initializer, shape: [usize; D]) -> Tensor<D> {
        let distribution = match *initializer {
            Initializer::Normal { mean, std } => Distribution::Normal(mean, std),
            Initializer::Uniform { min, max } => Distribution::Uniform(min, max),
            // `init` returns the two above and no other.
            _ => unreachable!("{initializer:?}"),
        };
        Tensor::random(shape, distribution, (self.device, DType::from(self.dtype)))
    }
}
