//! One linear layer, dense or in factors.

use burn::tensor::Tensor;
use burn_blr::{BlastLinear, BlrLinear, LowRankLinear, MonarchLinear, Structure};

use super::WeightReader;
use crate::{LinearLayer, ModelError, WeightLayout};

/// Reads `layer` in the structure it has in the checkpoint.
///
/// The names are those of [`LinearLayer::weight_tensors`]; factors have one layout whatever the
/// family, a dense weight is brought to `[in, out]`, which is how Burn holds it.
pub(crate) fn load_linear(
    reader: &mut WeightReader<'_>,
    layer: &LinearLayer,
) -> Result<BlrLinear, ModelError> {
    let name = |factor: &str| format!("{}.{factor}", layer.name);
    let (inputs, outputs) = (layer.in_features, layer.out_features);
    let bias = match layer.bias_name() {
        Some(bias) => Some(reader.tensor(&bias, [outputs])?),
        None => None,
    };
    // The caller has checked that blocks divide the features and are not zero.
    Ok(match layer.structure {
        Structure::Dense => {
            let weight: Tensor<2> = reader.tensor(&layer.weight_name(), layer.weight_shape())?;
            let weight = match layer.layout {
                WeightLayout::InOut => weight,
                WeightLayout::OutIn => weight.transpose(), // [out, in] -> [in, out]
            };
            BlrLinear::dense(weight, bias)
        }
        Structure::LowRank { rank } => {
            let u = reader.tensor(&name("low_rank.u"), [outputs, rank])?;
            let v = reader.tensor(&name("low_rank.v"), [rank, inputs])?;
            BlrLinear::LowRank(LowRankLinear::from_factors(u, v, bias)?)
        }
        Structure::Monarch {
            blocks,
            rank,
            order,
        } => {
            let right = reader.tensor(&name("monarch.right"), [blocks, rank, inputs / blocks])?;
            let left = reader.tensor(&name("monarch.left"), [blocks, outputs / blocks, rank])?;
            BlrLinear::Monarch(MonarchLinear::from_factors(right, left, order, bias)?)
        }
        Structure::Blast { blocks, rank } => {
            let [u, s, v] = layer.blast_names();
            let u = reader.tensor(&u, [blocks, outputs / blocks, rank])?;
            let s = reader.tensor(&s, [blocks, blocks, rank])?;
            let v = reader.tensor(&v, [blocks, rank, inputs / blocks])?;
            BlrLinear::Blast(BlastLinear::from_factors(u, s, v, bias)?)
        }
    })
}
