//! Where the weights of a model come from.

use burn::module::Param;
use burn::nn::Embedding;
use burn::tensor::{Device, Tensor};
use burn_blr::BlrLinear;

use crate::{LinearLayer, ModelError};

/// The weights of a model, one after the other, by their names in a checkpoint.
pub(crate) trait Weights {
    /// Where they are made.
    fn device(&self) -> &Device;

    /// A matrix in the dtype of the model.
    fn matrix(&mut self, name: &str, shape: [usize; 2]) -> Result<Param<Tensor<2>>, ModelError>;

    /// The scale of a normalization, `[features]`, in `f32` whatever the dtype of the model.
    fn norm_scale(&mut self, name: &str, features: usize) -> Result<Param<Tensor<1>>, ModelError>;

    /// The shift of a normalization, `[features]`, in `f32` whatever the dtype of the model.
    fn norm_shift(&mut self, name: &str, features: usize) -> Result<Param<Tensor<1>>, ModelError>;

    /// A linear layer, dense or structured.
    fn linear(&mut self, layer: &LinearLayer) -> Result<BlrLinear, ModelError>;

    /// A table of `shape`, `[ids, features]`.
    fn embedding(&mut self, name: &str, shape: [usize; 2]) -> Result<Embedding, ModelError> {
        let weight = self.matrix(name, shape)?;
        Ok(Embedding { weight })
    }
}
