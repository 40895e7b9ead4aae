//! Keys and values of the tokens seen so far.

use burn::tensor::{Tensor, s};

use super::LeftPadding;
use crate::ModelError;

/// The keys and values of every layer for the tokens a model has seen, so that the next token costs
/// one row of work. Made by [`crate::LanguageModel::cache`], for one model and batch size.
#[derive(Debug, Clone)]
pub struct KvCache {
    batch: usize,
    capacity: usize,
    used: usize,
    padding: Option<LeftPadding>,
    pub(crate) layers: Vec<LayerCache>,
}

/// The part of one layer.
#[derive(Debug, Clone)]
pub(crate) struct LayerCache {
    capacity: usize,
    used: usize,
    /// Keys and values, `[batch, heads, capacity, head_features]`; nothing before the first token,
    /// whose dtype and device they take.
    store: Option<(Tensor<4>, Tensor<4>)>,
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

    /// Forgets all tokens and keeps the memory.
    pub fn clear(&mut self) {
        self.used = 0;
        for layer in &mut self.layers {
            layer.used = 0;
        }
    }

    /// Checks that `tokens` more tokens of `batch` rows of a model of `layers` layers fit.
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
        if self.used + tokens > self.capacity {
            return Err(ModelError::TooManyTokens {
                found: self.used + tokens,
                max: self.capacity,
            });
        }
        Ok(())
    }

    /// Counts `tokens` tokens that every layer has appended.
    pub(crate) fn advance(&mut self, tokens: usize) {
        self.used += tokens;
    }
}

impl LayerCache {
    /// Adds the keys and values of new tokens and returns those of all.
    ///
    /// # Shapes
    ///
    /// - `key`, `value`: `[batch, heads, tokens, head_features]`
    /// - output: `[batch, heads, used + tokens, head_features]` each
    pub(crate) fn append(&mut self, key: Tensor<4>, value: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let [batch, heads, tokens, head_features] = key.dims();
        let (start, end) = (self.used, self.used + tokens);
        // Taken out, not cloned: as the only owner, the assignment below writes in place.
        let (keys, values) = self.store.take().unwrap_or_else(|| {
            let shape = [batch, heads, self.capacity, head_features];
            let options = (&key.device(), key.dtype());
            (Tensor::zeros(shape, options), Tensor::zeros(shape, options))
        });
        let keys = keys.slice_assign(s![.., .., start..end, ..], key);
        let values = values.slice_assign(s![.., .., start..end, ..], value);
        self.used = end;
        let seen = (
            keys.clone().slice(s![.., .., 0..end, ..]),
            values.clone().slice(s![.., .., 0..end, ..]),
        );
        self.store = Some((keys, values));
        seen
    }
}
