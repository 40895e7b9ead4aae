//! The factors of a layer as they are stored.

use burn::tensor::{Device, Tensor};
use burn_blr::{BlastLinear, BlrLinear, LowRankLinear, MonarchLinear, Structure};
use half::{bf16, f16};
use models::LinearLayer;
use safetensors::Dtype;

use super::host::{entries, tensor};
use super::shard::{Output, OutputBytes};
use crate::TrainingError;

/// The factors of one layer in the number format of the checkpoint.
pub(super) struct Factors {
    structure: Structure,
    dtype: Dtype,
    tensors: Vec<Stored>,
}

struct Stored {
    name: String,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Factors {
    /// Rounds the factors of `factors` to `dtype`.
    ///
    /// Fails if an entry is finite in `f32` and not in `dtype`.
    pub fn encode(
        layer: &LinearLayer,
        factors: &BlrLinear,
        dtype: Dtype,
    ) -> Result<Self, TrainingError> {
        let tensors = match factors {
            BlrLinear::Dense(_) => vec![],
            BlrLinear::LowRank(low_rank) => vec![
                Stored::encode(layer, "low_rank.u", low_rank.u.val(), dtype)?,
                Stored::encode(layer, "low_rank.v", low_rank.v.val(), dtype)?,
            ],
            BlrLinear::Monarch(monarch) => vec![
                Stored::encode(layer, "monarch.right", monarch.right.val(), dtype)?,
                Stored::encode(layer, "monarch.left", monarch.left.val(), dtype)?,
            ],
            BlrLinear::Blast(blast) => vec![
                Stored::encode(layer, "blast.u", blast.u.val(), dtype)?,
                Stored::encode(layer, "blast.s", blast.s.val(), dtype)?,
                Stored::encode(layer, "blast.v", blast.v.val(), dtype)?,
            ],
        };
        Ok(Factors {
            structure: factors.structure(),
            dtype,
            tensors,
        })
    }

    /// The layer that somebody gets who reads the stored factors, in `f32`.
    pub fn decode(&self, device: &Device) -> Result<BlrLinear, TrainingError> {
        let tensors: Vec<_> = self
            .tensors
            .iter()
            .map(|stored| (stored.shape.as_slice(), stored.bytes.as_slice()))
            .collect();
        decode_layer(self.structure, self.dtype, &tensors, device)
    }

    /// The tensors as they are written.
    pub fn outputs(&self) -> Vec<Output<'_>> {
        let tensors = self.tensors.iter();
        tensors
            .map(|stored| Output {
                name: &stored.name,
                dtype: self.dtype,
                shape: &stored.shape,
                bytes: OutputBytes::Buffer(&stored.bytes),
            })
            .collect()
    }
}

impl Stored {
    fn encode<const D: usize>(
        layer: &LinearLayer,
        suffix: &str,
        factor: Tensor<D>,
        dtype: Dtype,
    ) -> Result<Self, TrainingError> {
        let shape = factor.dims().to_vec();
        let entries = entries(factor)?;
        let bytes = to_bytes(&entries, dtype);
        if !decode(&bytes, dtype).iter().all(|entry| entry.is_finite()) {
            return Err(TrainingError::Overflow {
                layer: layer.name.clone(),
                dtype: format!("{dtype:?}"),
            });
        }
        Ok(Stored {
            name: format!("{}.{suffix}", layer.name),
            shape,
            bytes,
        })
    }
}

/// Numbers rounded to a format, `f32` for all but the two of 16 bits; those too large for it become
/// infinite.
pub(crate) fn to_bytes(values: &[f32], dtype: Dtype) -> Vec<u8> {
    let values = values.iter();
    match dtype {
        Dtype::F16 => values
            .flat_map(|&x| f16::from_f32(x).to_le_bytes())
            .collect(),
        Dtype::BF16 => values
            .flat_map(|&x| bf16::from_f32(x).to_le_bytes())
            .collect(),
        _ => values.flat_map(|x| x.to_le_bytes()).collect(),
    }
}

/// A layer in `f32`, without bias, from shapes and bytes of its factors in the order in which
/// [`LinearLayer::weight_tensors`] names them.
pub(super) fn decode_layer(
    structure: Structure,
    dtype: Dtype,
    factors: &[(&[usize], &[u8])],
    device: &Device,
) -> Result<BlrLinear, TrainingError> {
    fn factor<const D: usize>(
        (found, bytes): &(&[usize], &[u8]),
        dtype: Dtype,
        device: &Device,
    ) -> Tensor<D> {
        let mut shape = [1; D];
        for (size, found) in shape.iter_mut().zip(*found) {
            *size = *found;
        }
        tensor(decode(bytes, dtype), shape, device)
    }
    Ok(match (structure, factors) {
        (Structure::LowRank { .. }, [u, v]) => BlrLinear::LowRank(LowRankLinear::from_factors(
            factor(u, dtype, device),
            factor(v, dtype, device),
            None,
        )?),
        (Structure::Monarch { order, .. }, [right, left]) => {
            BlrLinear::Monarch(MonarchLinear::from_factors(
                factor(right, dtype, device),
                factor(left, dtype, device),
                order,
                None,
            )?)
        }
        (Structure::Blast { .. }, [u, s, v]) => BlrLinear::Blast(BlastLinear::from_factors(
            factor(u, dtype, device),
            factor(s, dtype, device),
            factor(v, dtype, device),
            None,
        )?),
        (structure, factors) => unreachable!("{structure} with {} factors", factors.len()),
    })
}

fn decode(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    match dtype {
        Dtype::F16 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|bytes| f16::from_le_bytes(*bytes).to_f32())
            .collect(),
        Dtype::BF16 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|bytes| bf16::from_le_bytes(*bytes).to_f32())
            .collect(),
        _ => bytes
            .as_chunks()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect(),
    }
}
