//! A transformer block, for every family whose norms have weights.

use burn::module::Module;
use burn::tensor::Tensor;
use burn_blr::network::{Angles, VisibleKeys};

use super::{Attention, CacheRows, Mlp, TokenNorm};

/// Attention and MLP, each behind a norm and added to its input.
#[derive(Module, Debug)]
pub struct TransformerBlock {
    /// Norm before attention.
    pub attention_norm: TokenNorm,
    /// Self-attention.
    pub attention: Attention,
    /// Norm before the MLP.
    pub mlp_norm: TokenNorm,
    /// Feed-forward block; with a gate, its `gate`, `fc` and `proj` are `gate_proj`, `up_proj` and
    /// `down_proj` of Llama.
    pub mlp: Mlp,
}

impl TransformerBlock {
    /// Applies the block.
    ///
    /// # Shapes
    ///
    /// - `x`, output: `[batch, tokens, features]`
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        visible: &VisibleKeys,
        angles: Option<&Angles>,
        cache: Option<CacheRows<'_>>,
    ) -> Tensor<3> {
        let normed = self.attention_norm.forward(x.clone());
        let attention = &self.attention;
        let x = attention.forward(normed, visible, angles, cache, Some(x));
        let normed = self.mlp_norm.forward(x.clone());
        self.mlp.forward(normed, Some(x))
    }
}
