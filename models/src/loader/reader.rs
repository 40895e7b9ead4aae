//! Strict reading: every tensor has the expected shape, and none is left over.

use std::collections::BTreeSet;

use burn::module::Param;
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};

use crate::{Checkpoint, ModelError};

/// Reads the tensors of a checkpoint onto a device and remembers which were asked for.
pub(crate) struct WeightReader<'a> {
    checkpoint: &'a Checkpoint,
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
        if !device.supports_dtype(DType::from(dtype)) {
            return Err(ModelError::unsupported_dtype(device, dtype.into()));
        }
        Ok(Self {
            checkpoint,
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

    /// The tensor `name` as a parameter in `f32`, whatever the dtype of the reader: the scale and
    /// shift of a normalization, which computes in `f32`.
    pub(crate) fn f32_param(
        &mut self,
        name: &str,
        features: usize,
    ) -> Result<Param<Tensor<1>>, ModelError> {
        let tensor = self.tensor_as(name, [features], FloatDType::F32)?;
        Ok(Param::from_tensor(tensor))
    }

    /// The tensor `name` as a parameter in the dtype of the reader.
    pub(crate) fn param<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
    ) -> Result<Param<Tensor<D>>, ModelError> {
        Ok(Param::from_tensor(self.tensor(name, shape)?))
    }

    fn tensor_as<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
        dtype: FloatDType,
    ) -> Result<Tensor<D>, ModelError> {
        let Some(entry) = self.checkpoint.entry(name) else {
            return Err(ModelError::MissingTensor {
                path: self.checkpoint.dir().to_path_buf(),
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
        let values = entry.floats()?;
        // A weight past the range of the narrower dtype would become infinite without a word.
        entry.check_below(&values, dtype.finfo().max as f32, DType::from(dtype).name())?;
        self.used.insert(name.to_string());
        let data = TensorData::new(values, shape);
        Ok(Tensor::from_data(data, (&self.device, DType::from(dtype))))
    }

    /// Checks that nothing is left over but what `ignored` lists.
    pub(crate) fn finish(self, ignored: impl Fn(&str) -> bool) -> Result<(), ModelError> {
        let mut unused = self
            .checkpoint
            .names()
            .filter(|name| !self.used.contains(*name) && !ignored(name));
        let Some(tensor) = unused.next() else {
            return Ok(());
        };
        Err(ModelError::UnusedTensor {
            path: self.checkpoint.dir().to_path_buf(),
            tensor: tensor.to_string(),
            found: self
                .checkpoint
                .entry(tensor)
                .map(|entry| entry.shape.to_vec())
                .unwrap_or_default(),
            more: unused.count(),
        })
    }
}
