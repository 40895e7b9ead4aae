//! Self-attention, for every family.

use burn::module::Module;
use burn::tensor::Tensor;
use burn_blr::BlrLinear;
use burn_blr::network::{Angles, VisibleKeys, attention, narrow, rotate};

use super::CacheRows;

/// Multi-head self-attention.
///
/// `softmax(scale · Q Kᵀ + mask) V` per head, between the layers that make query, key and value and
/// the one that mixes the heads. The softmax is in `f32` whatever the dtype of the model. Several
/// query heads may share a key and value head (grouped-query attention).
#[derive(Module, Debug)]
pub struct Attention {
    /// The layers that make query, key and value.
    pub qkv: QueryKeyValue,
    /// Output projection, `[query heads · head width] -> [features]`.
    pub proj: BlrLinear,
    #[module(skip)]
    heads: Heads,
    #[module(skip)]
    scale: f64,
}

/// The layers that make query, key and value.
#[derive(Module, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a model holds few layers, and boxes are no modules"
)]
pub enum QueryKeyValue {
    /// One layer that makes all three, in this order.
    Joined(BlrLinear),
    /// A layer for each.
    Separate(SeparateQueryKeyValue),
}

impl QueryKeyValue {
    /// The layers: the joined one, or those of query, key and value.
    pub fn layers(&self) -> Vec<&BlrLinear> {
        match self {
            Self::Joined(layer) => vec![layer],
            Self::Separate(layers) => vec![&layers.query, &layers.key, &layers.value],
        }
    }

    /// Joins separate layers, where that [can be done](BlrLinear::join).
    pub(crate) fn join(&mut self) {
        if let Self::Separate(_) = self
            && let Some(joined) = BlrLinear::join(&self.layers())
        {
            *self = Self::Joined(joined);
        }
    }
}

/// A layer for each of query, key and value.
#[derive(Module, Debug)]
pub struct SeparateQueryKeyValue {
    /// `[features] -> [query heads · head width]`.
    pub query: BlrLinear,
    /// `[features] -> [key heads · head width]`.
    pub key: BlrLinear,
    /// `[features] -> [key heads · head width]`.
    pub value: BlrLinear,
}

/// Numbers of heads, and their width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub query: usize,
    /// Key and value heads; they divide the query heads, as many of which share each.
    pub key: usize,
    /// Width of a head.
    pub width: usize,
}

impl Attention {
    /// Joins the layers; `scale` multiplies the product of query and key, usually
    /// `1 / √(head width)`.
    pub fn new(qkv: QueryKeyValue, proj: BlrLinear, heads: Heads, scale: f64) -> Self {
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
        visible: &VisibleKeys,
        angles: Option<&Angles>,
        cache: Option<CacheRows<'_>>,
    ) -> Tensor<3> {
        let [batch, tokens, _] = x.dims();
        let [query, key, value] = self.project(x);
        // [batch, tokens, heads, width]
        let mixed = match cache {
            Some(cache) => cache.attend([query, key, value], angles, visible, self.scale),
            None => {
                let (query, key) = (turned(query, angles), turned(key, angles));
                attention(query, key, value, visible, self.scale)
            }
        };
        let features = self.heads.query * self.heads.width;
        self.proj.forward(mixed.reshape([batch, tokens, features]))
    }

    /// Query `[batch, heads, tokens, width]`, key and value `[batch, key heads, tokens, width]`.
    fn project(&self, x: Tensor<3>) -> [Tensor<4>; 3] {
        let [batch, tokens, _] = x.dims();
        let Heads { query, key, width } = self.heads;
        // [batch, tokens, heads · width] -> [batch, tokens, heads, width]
        let split = |joined: Tensor<3>, heads| joined.reshape([batch, tokens, heads, width]);
        let parts = match &self.qkv {
            QueryKeyValue::Joined(layer) => {
                let all = layer.forward(x); // [batch, tokens, (heads + 2 key heads) · width]
                let all = split(all, query + 2 * key);
                let part = |start, heads| narrow(all.clone(), 2, start, heads);
                [part(0, query), part(query, key), part(query + key, key)]
            }
            QueryKeyValue::Separate(layers) => [
                split(layers.query.forward(x.clone()), query),
                split(layers.key.forward(x.clone()), key),
                split(layers.value.forward(x), key),
            ],
        };
        parts.map(|part| part.swap_dims(1, 2))
    }
}

/// Queries or keys turned by the angles of their positions, where they are.
pub(super) fn turned(rows: Tensor<4>, angles: Option<&Angles>) -> Tensor<4> {
    match angles {
        Some(angles) => rotate(rows, angles),
        None => rows,
    }
}
