//! Keys and values of the tokens seen so far.

use burn::tensor::{Device, Int, Tensor, s};
use burn_blr::network::{Angles, VisibleKeys, append_and_attend, attention};

use super::LeftPadding;
use super::attention::turned;
use crate::ModelError;

/// The keys and values of every layer for the tokens a model has seen, so that the next token costs
/// one row of work. Made by [`crate::LanguageModel::cache`], for one model and batch size.
#[derive(Debug, Clone)]
pub struct KvCache {
    batch: usize,
    capacity: usize,
    used: usize,
    padding: Option<LeftPadding>,
    pads: Option<Tensor<2, Int>>,
    pub(crate) layers: Vec<LayerCache>,
}

/// The part of one layer.
#[derive(Debug, Clone)]
pub(crate) struct LayerCache {
    capacity: usize,
    used: usize,
    /// Keys and values, `[batch, heads, capacity, head_features]`; nothing before the first token,
    /// whose dtype and device they take.
    store: Option<[Tensor<4>; 2]>,
}

impl KvCache {
    /// An empty cache for `layers` layers, `batch` rows and at most `capacity` tokens a row.
    pub(crate) fn new(layers: usize, batch: usize, capacity: usize) -> Self {
        let layer = LayerCache {
            capacity,
            used: 0,
            store: None,
        };
        Self {
            batch,
            capacity,
            used: 0,
            padding: None,
            pads: None,
            layers: vec![layer; layers],
        }
    }

    /// The same for rows of which the first tokens are `padding`.
    ///
    /// # Errors
    ///
    /// [`ModelError::PaddingMismatch`] if the padding is for another number of rows.
    pub fn with_padding(mut self, padding: LeftPadding) -> Result<Self, ModelError> {
        if padding.rows() != self.batch {
            return Err(ModelError::PaddingMismatch {
                found: padding.rows(),
                expected: self.batch,
            });
        }
        self.padding = Some(padding);
        self.pads = None;
        Ok(self)
    }

    /// The padding of the rows, where there is any.
    pub fn padding(&self) -> Option<&LeftPadding> {
        self.padding.as_ref()
    }

    /// Rows.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Tokens a row can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Tokens each row holds.
    pub fn tokens(&self) -> usize {
        self.used
    }

    /// Bytes on the device, which are taken when the first token comes.
    pub fn bytes(&self) -> usize {
        let bytes = |tensor: &Tensor<4>| tensor.shape().num_elements() * tensor.dtype().size();
        let stores = self.layers.iter().filter_map(|layer| layer.store.as_ref());
        stores
            .map(|cache| cache.iter().map(bytes).sum::<usize>())
            .sum()
    }

    /// Forgets all tokens and keeps the memory.
    pub fn clear(&mut self) {
        self.used = 0;
        for layer in &mut self.layers {
            layer.used = 0;
        }
    }

    /// Checks that it holds `tokens` tokens of `batch` rows of a model of `layers` layers.
    pub(crate) fn check(
        &self,
        layers: usize,
        batch: usize,
        tokens: usize,
    ) -> Result<(), ModelError> {
        let mismatch = |key, found, expected| ModelError::CacheMismatch {
            key,
            found,
            expected,
        };
        if self.layers.len() != layers {
            return Err(mismatch("layers", self.layers.len(), layers));
        }
        if self.batch != batch {
            return Err(mismatch("rows", self.batch, batch));
        }
        if tokens > self.capacity {
            return Err(ModelError::TooManyTokens {
                found: tokens,
                max: self.capacity,
            });
        }
        Ok(())
    }

    /// Counts `tokens` tokens that every layer has appended.
    pub(crate) fn advance(&mut self, tokens: usize) {
        self.used += tokens;
    }

    /// Counts `tokens` tokens in all that were written at places on the device.
    pub(crate) fn set_tokens(&mut self, tokens: usize) {
        self.used = tokens;
        for layer in &mut self.layers {
            layer.used = tokens;
        }
    }

    /// The padding of each row as the layers need it, `[batch, 1]` on `device`; nothing where no row
    /// has any.
    pub(crate) fn pads(&mut self, device: &Device) -> Option<Tensor<2, Int>> {
        // Kept: a captured graph takes nothing from the host.
        if self.pads.is_none() {
            self.pads = self
                .padding
                .as_ref()
                .and_then(|padding| padding.pads(device));
        }
        self.pads.clone()
    }
}

/// Where new rows go that have no place the host knows: on the device, and read from there.
#[derive(Debug, Clone)]
pub(crate) struct Located {
    /// Tokens before the new ones, `[1]`.
    pub(crate) position: Tensor<1, Int>,
    /// The numbers of all places, `[capacity]`.
    pub(crate) slots: Tensor<1, Int>,
}

/// The rows of one layer that a forward pass appends.
pub(crate) struct CacheRows<'a> {
    layer: &'a mut LayerCache,
    located: Option<&'a Located>,
}

impl<'a> CacheRows<'a> {
    /// New rows of `layer`, after those that it holds or at a place on the device.
    pub(crate) fn new(layer: &'a mut LayerCache, located: Option<&'a Located>) -> Self {
        Self { layer, located }
    }

    /// Adds the keys and values of new tokens, queries and keys turned by their angles where there are some,
    /// and attends the queries to all; with a place on the device that is the whole cache, whatever it
    /// holds behind the new tokens.
    ///
    /// # Shapes
    ///
    /// - `query`: `[batch, query heads, tokens, head_features]`
    /// - `key`, `value`: `[batch, heads, tokens, head_features]`
    /// - output: `[batch, tokens, query heads, head_features]`
    pub(crate) fn attend(
        self,
        [query, key, value]: [Tensor<4>; 3],
        angles: Option<&Angles>,
        visible: &VisibleKeys,
        scale: f64,
    ) -> Tensor<4> {
        let Self { layer, located } = self;
        let [batch, heads, tokens, head_features] = key.dims();
        // Taken out, not cloned: as the only owner, what follows writes in place.
        let cache = layer.store.take().unwrap_or_else(|| {
            let shape = [batch, heads, layer.capacity, head_features];
            let options = (&key.device(), key.dtype());
            [(); 2].map(|()| Tensor::zeros(shape, options))
        });
        if let Some(Located { position, slots }) = located {
            let (position, slots) = (position.clone(), slots.clone());
            let new = [query, key, value];
            let (cache, attended) =
                append_and_attend(cache, new, angles, position, slots, visible, scale);
            layer.store = Some(cache);
            return attended;
        }
        let (start, end) = (layer.used, layer.used + tokens);
        layer.used = end;
        let (query, key) = (turned(query, angles), turned(key, angles));
        let [keys, values] = cache;
        let rows = s![.., .., start..end, ..];
        let cache = [
            keys.slice_assign(rows, key),
            values.slice_assign(rows, value),
        ];
        layer.store = Some(cache.clone());
        let [keys, values] = match end == layer.capacity {
            true => cache,
            false => cache.map(|all| all.slice(s![.., .., 0..end, ..])),
        };
        attention(query, keys, values, visible, scale)
    }
}
