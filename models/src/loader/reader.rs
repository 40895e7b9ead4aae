//! Strict reading: every tensor has the expected shape, and none is left over.

use std::collections::BTreeSet;

use burn::module::Param;
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use burn_blr::BlrLinear;
use burn_blr::init::parameter;
use half::{bf16, f16};
use safetensors::Dtype;

use super::{Weights, load_linear};
use crate::checkpoint::StoredTensors;
use crate::{Checkpoint, Entry, LinearLayer, ModelError};

/// Reads the tensors of a checkpoint onto a device and remembers which were asked for.
pub(crate) struct WeightReader<'a> {
    tensors: &'a StoredTensors,
    device: Device,
    dtype: FloatDType,
    used: BTreeSet<String>,
}

impl<'a> WeightReader<'a> {
    /// A reader that makes tensors of `dtype` on `device`.
    pub(crate) fn new(
        checkpoint: &'a Checkpoint,
        device: &Device,
        dtype: FloatDType,
    ) -> Result<Self, ModelError> {
        checkpoint.expect_whole()?;
        Self::of_tensors(checkpoint.tensors(), device, dtype)
    }

    /// The same for tensors that are not those of a [`Checkpoint`].
    pub(crate) fn of_tensors(
        tensors: &'a StoredTensors,
        device: &Device,
        dtype: FloatDType,
    ) -> Result<Self, ModelError> {
        if !device.supports_dtype(DType::from(dtype)) {
            return Err(ModelError::unsupported_dtype(device, dtype.into()));
        }
        Ok(Self {
            tensors,
            device: device.clone(),
            dtype,
            used: BTreeSet::new(),
        })
    }

    /// The tensor `name`, which must have `shape`, in the dtype of the reader.
    pub(crate) fn tensor<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
    ) -> Result<Tensor<D>, ModelError> {
        self.tensor_as(name, shape, self.dtype)
    }

    fn tensor_as<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
        dtype: FloatDType,
    ) -> Result<Tensor<D>, ModelError> {
        let Some(entry) = self.tensors.entry(name) else {
            return Err(ModelError::MissingTensor {
                path: self.tensors.dir().to_path_buf(),
                tensor: name.to_string(),
                expected: shape.to_vec(),
            });
        };
        if entry.shape != shape {
            return Err(ModelError::TensorShape {
                path: entry.path.to_path_buf(),
                tensor: name.to_string(),
                found: entry.shape.to_vec(),
                expected: shape.to_vec(),
            });
        }
        self.used.insert(name.to_string());
        let data = data(&entry, shape, dtype)?;
        Ok(Tensor::from_data(data, (&self.device, DType::from(dtype))))
    }

    /// Checks that nothing is left over but what `ignored` lists.
    pub(crate) fn finish(self, ignored: impl Fn(&str) -> bool) -> Result<(), ModelError> {
        let mut unused = self
            .tensors
            .names()
            .filter(|name| !self.used.contains(*name) && !ignored(name));
        let Some(tensor) = unused.next() else {
            return Ok(());
        };
        Err(ModelError::UnusedTensor {
            path: self.tensors.dir().to_path_buf(),
            tensor: tensor.to_string(),
            found: self
                .tensors
                .entry(tensor)
                .map(|entry| entry.shape.to_vec())
                .unwrap_or_default(),
            more: unused.count(),
        })
    }
}

impl Weights for WeightReader<'_> {
    fn device(&self) -> &Device {
        &self.device
    }

    fn parameter<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
    ) -> Result<Param<Tensor<D>>, ModelError> {
        Ok(parameter(self.tensor(name, shape)?))
    }

    fn norm_scale(&mut self, name: &str, features: usize) -> Result<Param<Tensor<1>>, ModelError> {
        let tensor = self.tensor_as(name, [features], FloatDType::F32)?;
        Ok(parameter(tensor))
    }

    fn norm_shift(&mut self, name: &str, features: usize) -> Result<Param<Tensor<1>>, ModelError> {
        self.norm_scale(name, features)
    }

    fn kernel(&mut self, name: &str, shape: [usize; 4]) -> Result<Tensor<4>, ModelError> {
        self.tensor(name, shape)
    }

    fn bias(&mut self, name: &str, features: usize) -> Result<Tensor<1>, ModelError> {
        self.tensor(name, [features])
    }

    fn linear(&mut self, layer: &LinearLayer) -> Result<BlrLinear, ModelError> {
        load_linear(self, layer)
    }
}

/// The elements of a tensor: as they are where `dtype` is that of the file, so that the host holds
/// one copy of one tensor; otherwise in `f32`, from which the device rounds.
fn data<const D: usize>(
    entry: &Entry<'_>,
    shape: [usize; D],
    dtype: FloatDType,
) -> Result<TensorData, ModelError> {
    match (entry.dtype, dtype) {
        (Dtype::F16, FloatDType::F16) => {
            let values = entry.elements(f16::from_le_bytes);
            entry.check_below(&values, f16::MAX.to_f32(), "f16")?;
            Ok(TensorData::new(values, shape))
        }
        (Dtype::BF16, FloatDType::BF16) => {
            let values = entry.elements(bf16::from_le_bytes);
            entry.check_below(&values, bf16::MAX.to_f32(), "bf16")?;
            Ok(TensorData::new(values, shape))
        }
        _ => {
            let values = entry.floats()?;
            // A weight past the range of the narrower dtype would become infinite without a word.
            let max = dtype.finfo().max as f32;
            entry.check_below(&values, max, DType::from(dtype).name())?;
            Ok(TensorData::new(values, shape))
        }
    }
}
