//! Which parameter of a model is which tensor of its checkpoint.

use std::collections::HashMap;

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, Tensor};
use burn_blr::{BlrLinear, Structure};

use super::Weights;
use crate::stored::{StoredParameter, StoredParameters};
use crate::{LinearLayer, ModelError, PatchEmbedding, WeightLayout};

/// Passes on what other weights give, and remembers where each parameter came from.
pub(crate) struct Recorder<W> {
    weights: W,
    stored: HashMap<ParamId, StoredParameter>,
}

impl<W: Weights> Recorder<W> {
    /// A recorder of `weights`.
    pub(crate) fn new(weights: W) -> Self {
        Self {
            weights,
            stored: HashMap::new(),
        }
    }

    /// Where the parameters of `model` are stored, which was built from these weights; and the
    /// weights.
    pub(crate) fn finish(mut self, model: &impl Module) -> (StoredParameters, W) {
        let stored = StoredParameters::in_order_of(model, &mut self.stored);
        (stored, self.weights)
    }

    fn record(&mut self, id: ParamId, parameter: StoredParameter) {
        self.stored.insert(id, parameter);
    }

    fn record_linear(&mut self, layer: &LinearLayer, made: &BlrLinear) {
        let dense = layer.structure == Structure::Dense;
        let transposed = dense && layer.layout != WeightLayout::InOut;
        let tensors = layer.weight_tensors(&layer.structure);
        if dense {
            let parameter = StoredParameter::new(tensors, transposed);
            self.record(made.id(), parameter);
        } else {
            for (factor, tensor) in made.factor_ids().into_iter().zip(tensors) {
                self.record(factor, StoredParameter::new(vec![tensor], false));
            }
        }
        if let Some(bias) = made.bias_id() {
            let parts = layer.bias_tensors().into_iter();
            let parts = parts.map(|(name, length)| (name, vec![length])).collect();
            self.record(bias, StoredParameter::new(parts, false));
        }
    }
}

impl<W: Weights> Weights for Recorder<W> {
    fn device(&self) -> &Device {
        self.weights.device()
    }

    fn parameter<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
    ) -> Result<Param<Tensor<D>>, ModelError> {
        let parameter = self.weights.parameter(name, shape)?;
        self.record(parameter.id, StoredParameter::same(name, &shape));
        Ok(parameter)
    }

    fn norm_scale(&mut self, name: &str, features: usize) -> Result<Param<Tensor<1>>, ModelError> {
        let scale = self.weights.norm_scale(name, features)?;
        self.record(scale.id, StoredParameter::same(name, &[features]));
        Ok(scale)
    }

    fn norm_shift(&mut self, name: &str, features: usize) -> Result<Param<Tensor<1>>, ModelError> {
        let shift = self.weights.norm_shift(name, features)?;
        self.record(shift.id, StoredParameter::same(name, &[features]));
        Ok(shift)
    }

    fn kernel(&mut self, name: &str, shape: [usize; 4]) -> Result<Tensor<4>, ModelError> {
        self.weights.kernel(name, shape)
    }

    fn bias(&mut self, name: &str, features: usize) -> Result<Tensor<1>, ModelError> {
        self.weights.bias(name, features)
    }

    fn linear(&mut self, layer: &LinearLayer) -> Result<BlrLinear, ModelError> {
        let made = self.weights.linear(layer)?;
        self.record_linear(layer, &made);
        Ok(made)
    }

    fn patch_embedding(
        &mut self,
        name: &str,
        kernel: [usize; 4],
    ) -> Result<PatchEmbedding, ModelError> {
        let made = self.weights.patch_embedding(name, kernel)?;
        // The kernel [hidden, channels, height, width] lies as the transposed weight
        // [channels · height · width, hidden] of the layer does.
        let weight = vec![(format!("{name}.weight"), kernel.to_vec())];
        self.record(made.proj.id(), StoredParameter::new(weight, true));
        if let Some(bias) = made.proj.bias_id() {
            let name = format!("{name}.bias");
            self.record(bias, StoredParameter::same(&name, &kernel[..1]));
        }
        Ok(made)
    }
}
