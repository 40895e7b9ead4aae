//! The dense weights of a checkpoint.

use burn::tensor::{Device, Tensor};
use models::{Checkpoint, LinearLayer, ModelError, WeightLayout};
use safetensors::Dtype;

use super::checksum::Checksum;
use super::host::tensor;
use crate::TrainingError;

/// The dense weight of a layer on the host, its parts one below the other.
pub(super) struct DenseWeight {
    entries: Vec<f32>,
    shape: [usize; 2],
    layout: WeightLayout,
    /// Number format of the first part.
    pub dtype: Dtype,
    /// Of the bytes as they are stored.
    pub checksum: String,
}

impl DenseWeight {
    /// Reads it, and gives the pages of the file back.
    pub fn read(source: &Checkpoint, layer: &LinearLayer) -> Result<Self, TrainingError> {
        let mut weight = DenseWeight {
            entries: Vec::with_capacity(layer.dense_parameters()),
            shape: layer.weight_shape(),
            layout: layer.layout,
            dtype: Dtype::F32,
            checksum: String::new(),
        };
        let mut checksum = Checksum::new();
        for (part, (name, _)) in layer.dense_tensors().into_iter().enumerate() {
            weight.entries.extend(source.floats(&name)?);
            if let Some(entry) = source.entry(&name) {
                checksum.bytes(entry.bytes);
                entry.forget();
                if part == 0 {
                    weight.dtype = entry.dtype;
                }
            }
        }
        weight.checksum = checksum.to_string();
        Ok(weight)
    }

    /// The weight `[out, in]` in `f32`.
    pub fn upload(self, device: &Device) -> Tensor<2> {
        let weight: Tensor<2> = tensor(self.entries, self.shape, device);
        match self.layout {
            WeightLayout::InOut => weight.transpose(),
            WeightLayout::OutIn | WeightLayout::QueryKeyValue => weight,
        }
    }
}

/// The checksum of a layer's dense weight, as [`DenseWeight::read`] has it; `None` where the
/// checkpoint has no such weight.
pub(super) fn checksum(source: &Checkpoint, layer: &LinearLayer) -> Option<String> {
    let mut checksum = Checksum::new();
    for (name, _) in layer.dense_tensors() {
        let pieces = source.entry(&name)?.in_pieces(|piece| {
            checksum.bytes(piece);
            Ok::<_, std::convert::Infallible>(())
        });
        match pieces {
            Ok(()) => {}
            Err(never) => match never {},
        }
    }
    Some(checksum.to_string())
}

/// Checks that the layers have their tensors, as wide as they should be.
pub(super) fn check_shapes(
    source: &Checkpoint,
    layers: &[LinearLayer],
) -> Result<(), TrainingError> {
    for layer in layers {
        for (tensor, expected) in layer.weight_tensors(&layer.structure) {
            let path = source.dir().to_path_buf();
            let Some(entry) = source.entry(&tensor) else {
                return Err(ModelError::MissingTensor {
                    path,
                    tensor,
                    expected,
                }
                .into());
            };
            if entry.shape != expected {
                let (path, found) = (entry.path.to_path_buf(), entry.shape.to_vec());
                return Err(ModelError::TensorShape {
                    path,
                    tensor,
                    found,
                    expected,
                }
                .into());
            }
        }
    }
    Ok(())
}

/// Checks every tensor of floating point for NaN and infinity.
pub(super) fn check_finite(source: &Checkpoint) -> Result<(), TrainingError> {
    for entry in source.names().filter_map(|name| source.entry(name)) {
        entry.check_finite()?;
    }
    Ok(())
}
