//! A transformer block, for every family whose norms have weights.

use burn::module::Module;
use burn_blr::network::{Angles, VisibleKeys};

use super::{Attention, CacheRows, Mlp, ResidualStream, TokenNorm};

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
    /// Applies the block to the stream.
    pub(crate) fn forward(
        &self,
        stream: &mut ResidualStream,
        visible: &VisibleKeys,
        angles: Option<&Angles>,
        cache: Option<CacheRows<'_>>,
    ) {
        let normed = stream.normed(&self.attention_norm);
        stream.add(self.attention.forward(normed, visible, angles, cache), None);
        let normed = stream.normed(&self.mlp_norm);
        stream.add(self.mlp.forward(normed), None);
    }
}
