//! Where the weights of a model come from.

use burn::module::Param;
use burn::nn::Embedding;
use burn::tensor::{Device, Tensor};
use burn_blr::BlrLinear;

use crate::{LinearLayer, ModelError, PatchEmbedding, TokenNorm};

/// The weights of a model, one after the other, by their names in a checkpoint.
pub(crate) trait Weights {
    /// Where they are made.
    fn device(&self) -> &Device;

    /// A tensor in the dtype of the model.
    fn parameter<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
    ) -> Result<Param<Tensor<D>>, ModelError>;

    /// A matrix in the dtype of the model.
    fn matrix(&mut self, name: &str, shape: [usize; 2]) -> Result<Param<Tensor<2>>, ModelError> {
        self.parameter(name, shape)
    }

    /// The scale of a normalization, `[features]`, in `f32` whatever the dtype of the model.
    fn norm_scale(&mut self, name: &str, features: usize) -> Result<Param<Tensor<1>>, ModelError>;

    /// The shift of a normalization, `[features]`, in `f32` whatever the dtype of the model.
    fn norm_shift(&mut self, name: &str, features: usize) -> Result<Param<Tensor<1>>, ModelError>;

    /// The kernel of a convolution, `[out, in, height, width]`, in the dtype of the model.
    fn kernel(&mut self, name: &str, shape: [usize; 4]) -> Result<Tensor<4>, ModelError>;

    /// A bias, `[features]`, in the dtype of the model.
    fn bias(&mut self, name: &str, features: usize) -> Result<Tensor<1>, ModelError>;

    /// A linear layer, dense or structured.
    fn linear(&mut self, layer: &LinearLayer) -> Result<BlrLinear, ModelError>;

    /// An embedding of patches, `NAME.weight` of the shape `kernel` and `NAME.bias`.
    fn patch_embedding(
        &mut self,
        name: &str,
        kernel: [usize; 4],
    ) -> Result<PatchEmbedding, ModelError> {
        let [hidden, ..] = kernel;
        let kernel = self.kernel(&format!("{name}.weight"), kernel)?;
        let bias = self.bias(&format!("{name}.bias"), hidden)?;
        Ok(PatchEmbedding::new(kernel, Some(bias)))
    }

    /// A layer norm, `NAME.weight` and `NAME.bias`.
    fn layer_norm(
        &mut self,
        name: &str,
        features: usize,
        epsilon: f64,
    ) -> Result<TokenNorm, ModelError> {
        let scale = self.norm_scale(&format!("{name}.weight"), features)?;
        let shift = self.norm_shift(&format!("{name}.bias"), features)?;
        Ok(TokenNorm::layer(scale, Some(shift), epsilon))
    }

    /// A norm to mean square one, `NAME.weight`.
    fn rms_norm(
        &mut self,
        name: &str,
        features: usize,
        epsilon: f64,
    ) -> Result<TokenNorm, ModelError> {
        let scale = self.norm_scale(&format!("{name}.weight"), features)?;
        Ok(TokenNorm::rms(scale, epsilon))
    }

    /// A table of `shape`, `[ids, features]`.
    fn embedding(&mut self, name: &str, shape: [usize; 2]) -> Result<Embedding, ModelError> {
        let weight = self.matrix(name, shape)?;
        Ok(Embedding { weight })
    }
}
