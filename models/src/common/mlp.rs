//! The two-layer feed-forward block.

use burn::module::Module;
use burn::tensor::Tensor;
use burn_blr::BlrLinear;

use super::Activation;

/// Feed-forward block: `proj(activation(fc(x)))`.
#[derive(Module, Debug)]
pub struct Mlp {
    /// From the hidden width to the inner width.
    pub fc: BlrLinear,
    /// Back to the hidden width.
    pub proj: BlrLinear,
    #[module(skip)]
    activation: Activation,
}

impl Mlp {
    /// Joins the two layers.
    pub fn new(fc: BlrLinear, proj: BlrLinear, activation: Activation) -> Self {
        Self {
            fc,
            proj,
            activation,
        }
    }

    /// Applies the block.
    ///
    /// # Shapes
    ///
    /// - `x`, output: `[batch, tokens, features]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let inner = self.activation.forward(self.fc.forward(x)); // [batch, tokens, inner]
        self.proj.forward(inner)
    }
}
