//! Causal self-attention over a joined query, key and value projection.

use burn::module::Module;
use burn::tensor::{Bool, Device, FloatDType, Tensor, activation};
use burn_blr::BlrLinear;

use super::LayerCache;

/// Multi-head causal self-attention.
///
/// `softmax(scale · Q Kᵀ + mask) V` per head, between two linear layers. The softmax is in `f32`
/// whatever the dtype of the model.
#[derive(Module, Debug)]
pub struct CausalAttention {
    /// Query, key and value at once, `[features] -> [3 · features]` in this order.
    pub qkv: BlrLinear,
    /// Output projection.
    pub proj: BlrLinear,
    heads: usize,
    scale: f64,
}

/// Which keys a query must not see: those after it.
///
/// One per forward pass, for all layers.
pub(crate) struct CausalMask(Option<Tensor<2, Bool>>);

impl CausalMask {
    /// The mask for `tokens` queries after `past` keys that are in the cache.
    pub(crate) fn new(past: usize, tokens: usize, device: &Device) -> Self {
        // The last token sees everything, so a single one needs no mask.
        let mask =
            (tokens > 1).then(|| Tensor::tril_mask([tokens, past + tokens], past as i64, device));
        Self(mask)
    }
}

impl CausalAttention {
    /// Joins the two layers; `scale` multiplies the product of query and key, usually
    /// `1 / √(features / heads)`.
    pub fn new(qkv: BlrLinear, proj: BlrLinear, heads: usize, scale: f64) -> Self {
        Self {
            qkv,
            proj,
            heads,
            scale,
        }
    }

    /// Attends `x` to itself and to what `cache` holds, and adds it to the cache.
    ///
    /// # Shapes
    ///
    /// - `x`, output: `[batch, tokens, features]`
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        mask: &CausalMask,
        cache: Option<&mut LayerCache>,
    ) -> Tensor<3> {
        let [batch, tokens, features] = x.dims();
        let head_features = features / self.heads;
        // [batch, tokens, 3 · features] -> three times [batch, heads, tokens, head_features]
        let qkv = self.qkv.forward(x);
        let split = |part: usize| {
            qkv.clone()
                .narrow(2, part * features, features)
                .reshape([batch, tokens, self.heads, head_features])
                .swap_dims(1, 2)
        };
        // Scaling the query is one pass over [tokens, features] instead of [tokens, keys], and
        // keeps the product in the range of f16.
        let query = split(0) * self.scale;
        let (key, value) = match cache {
            Some(cache) => cache.append(split(1), split(2)),
            None => (split(1), split(2)),
        };

        let dtype: FloatDType = query.dtype().into();
        // [batch, heads, tokens, keys]
        let scores = query.matmul(key.swap_dims(2, 3)).cast(FloatDType::F32);
        let scores = match &mask.0 {
            // [tokens, keys] -> [1, 1, tokens, keys] -> [batch, heads, tokens, keys]
            Some(mask) => {
                let mask = mask.clone().unsqueeze::<4>().expand(scores.dims());
                scores.mask_fill(mask, f32::NEG_INFINITY)
            }
            None => scores,
        };
        let weights = activation::softmax(scores, 3).cast(dtype);
        // [batch, heads, tokens, head_features] -> [batch, tokens, features]
        let mixed = weights
            .matmul(value)
            .swap_dims(1, 2)
            .reshape([batch, tokens, features]);
        self.proj.forward(mixed)
    }
}
