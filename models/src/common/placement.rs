//! Where the tokens of one forward pass stand.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::{AttentionMask, LayerCache, LeftPadding, Positions};
use crate::{KvCache, ModelError};

/// What stands before the tokens of a forward pass.
#[derive(Debug)]
pub enum Context<'a> {
    /// Nothing.
    Empty,
    /// Nothing, and some of the tokens at the start of each row are padding.
    Padded(&'a LeftPadding),
    /// The tokens in a cache, which takes up those of this pass. Padding is that of the cache.
    Cached(&'a mut KvCache),
}

/// The place of the tokens of one forward pass in their rows.
pub(crate) struct Placement<'a> {
    past: usize,
    tokens: usize,
    padding: Option<LeftPadding>,
    table: &'a Positions,
    device: Device,
    cache: Option<&'a mut KvCache>,
}

impl<'a> Placement<'a> {
    /// The place of `input_ids [batch, tokens]` behind `context`, for a model of `layers` layers and
    /// `max_tokens` positions, which `table` has on its device.
    ///
    /// Fails if there are no tokens or too many, or cache or padding are for another batch.
    pub(crate) fn new(
        input_ids: &Tensor<2, Int>,
        context: Context<'a>,
        layers: usize,
        max_tokens: usize,
        table: &'a Positions,
    ) -> Result<Self, ModelError> {
        let [batch, tokens] = input_ids.dims();
        let (padding, cache) = match context {
            Context::Empty => (None, None),
            Context::Padded(padding) => (Some(padding.clone()), None),
            Context::Cached(cache) => (cache.padding().cloned(), Some(cache)),
        };
        let past = cache.as_ref().map_or(0, |cache| cache.tokens());
        if tokens == 0 {
            return Err(ModelError::TooFewTokens { found: 0, min: 1 });
        }
        if past + tokens > max_tokens {
            return Err(ModelError::TooManyTokens {
                found: past + tokens,
                max: max_tokens,
            });
        }
        if let Some(cache) = &cache {
            cache.check(layers, batch, tokens)?;
        }
        if let Some(padding) = &padding
            && padding.rows() != batch
        {
            return Err(ModelError::PaddingMismatch {
                found: padding.rows(),
                expected: batch,
            });
        }
        Ok(Self {
            past,
            tokens,
            padding: padding.filter(|padding| !padding.is_none()),
            table,
            device: input_ids.device(),
            cache,
        })
    }

    /// The mask of a causal model.
    pub(crate) fn mask(&self) -> AttentionMask {
        match &self.padding {
            None => AttentionMask::causal(self.past, self.tokens, self.table),
            Some(padding) => AttentionMask::padded(padding, self.past, self.tokens, &self.device),
        }
    }

    /// Positions of the tokens, `[1 or batch, tokens]`: one row where all are the same.
    pub(crate) fn positions(&self) -> Tensor<2, Int> {
        match &self.padding {
            None => {
                let range = self.table.range(self.past, self.past + self.tokens);
                range.unsqueeze() // [tokens] -> [1, tokens]
            }
            Some(padding) => {
                let positions = padding.positions(self.past, self.tokens);
                let data = TensorData::new(positions, [padding.rows(), self.tokens]);
                Tensor::from_data(data, &self.device)
            }
        }
    }

    /// The part of layer `n` in the cache, where there is one.
    pub(crate) fn layer_cache(&mut self, n: usize) -> Option<&mut LayerCache> {
        let cache = self.cache.as_mut()?;
        cache.layers.get_mut(n)
    }

    /// Counts the tokens that every layer has appended to the cache.
    pub(crate) fn finish(self) {
        if let Some(cache) = self.cache {
            cache.advance(self.tokens);
        }
    }
}
