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
    let mut biases = Vec::new();
    for (name, length) in layer.bias_tensors() {
        biases.push(reader.tensor(&name, [length])?);
    }
    let bias: Option<Tensor<1>> = joined(biases);
    // The caller has checked that blocks divide the features and are not zero.
    Ok(match layer.structure {
        Structure::Dense => {
            let mut parts = Vec::new();
            for (name, shape) in layer.dense_tensors() {
                parts.push(reader.tensor(&name, shape)?);
            }
            let weight: Tensor<2> = match joined(parts) {
                Some(weight) => weight,
                None => reader.tensor(&layer.weight_name(), layer.weight_shape())?,
            };
            let weight = match layer.layout {
                WeightLayout::InOut => weight,
                // [out, in] -> [in, out]
                WeightLayout::OutIn | WeightLayout::QueryKeyValue => weight.transpose(),
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

/// Tensors one after the other; `None` if there are none.
fn joined<const D: usize>(mut parts: Vec<Tensor<D>>) -> Option<Tensor<D>> {
    match parts.len() {
        0 | 1 => parts.pop(),
        _ => Some(Tensor::cat(parts, 0)),
    }
}
