//! Random weights, made on the device.

use burn::module::Param;
use burn::tensor::{DType, Device, Distribution, FloatDType, Tensor};
use burn_blr::BlrLinear;
use burn_blr::init::parameter;

use super::Weights;
use crate::{LinearLayer, ModelError};

/// Standard deviation of embeddings and heads, `initializer_range` of the families that have one.
const STD: f64 = 0.02;

/// Random weights for a model that is not read from a checkpoint: embeddings and head are normal
/// with standard deviation 0.02, linear layers as [`BlrLinear::random`] makes them, norms neutral.
pub(crate) struct RandomWeights {
    device: Device,
    dtype: FloatDType,
}

impl RandomWeights {
    /// Weights of `dtype` on `device`.
    pub(crate) fn new(device: &Device, dtype: FloatDType) -> Result<Self, ModelError> {
        if !device.supports_dtype(DType::from(dtype)) {
            return Err(ModelError::unsupported_dtype(device, dtype.into()));
        }
        Ok(Self {
            device: device.clone(),
            dtype,
        })
    }
}

impl Weights for RandomWeights {
    fn device(&self) -> &Device {
        &self.device
    }

    fn parameter<const D: usize>(
        &mut self,
        _name: &str,
        shape: [usize; D],
    ) -> Result<Param<Tensor<D>>, ModelError> {
        let options = (&self.device, DType::from(self.dtype));
        let tensor = Tensor::random(shape, Distribution::Normal(0.0, STD), options);
        Ok(parameter(tensor))
    }

    fn norm_scale(&mut self, _name: &str, features: usize) -> Result<Param<Tensor<1>>, ModelError> {
        let ones = Tensor::ones([features], (&self.device, DType::F32));
        Ok(parameter(ones))
    }

    fn norm_shift(&mut self, _name: &str, features: usize) -> Result<Param<Tensor<1>>, ModelError> {
        let zeros = Tensor::zeros([features], (&self.device, DType::F32));
        Ok(parameter(zeros))
    }

    fn kernel(&mut self, _name: &str, shape: [usize; 4]) -> Result<Tensor<4>, ModelError> {
        let [_, inputs, height, width] = shape;
        let bound = 1.0 / ((inputs * height * width) as f64).sqrt();
        let options = (&self.device, DType::from(self.dtype));
        Ok(Tensor::random(
            shape,
            Distribution::Uniform(-bound, bound),
            options,
        ))
    }

    fn bias(&mut self, _name: &str, features: usize) -> Result<Tensor<1>, ModelError> {
        let options = (&self.device, DType::from(self.dtype));
        Ok(Tensor::random(
            [features],
            Distribution::Normal(0.0, STD),
            options,
        ))
    }

    fn linear(&mut self, layer: &LinearLayer) -> Result<BlrLinear, ModelError> {
        Ok(BlrLinear::random(
            layer.structure,
            layer.in_features,
            layer.out_features,
            layer.has_bias,
            self.dtype,
            &self.device,
        )?)
    }
}
