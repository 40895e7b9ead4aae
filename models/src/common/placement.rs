//! Where the tokens of one forward pass stand.

use burn::tensor::{Int, Tensor};
use burn_blr::network::VisibleKeys;

use super::kv_cache::{CacheRows, Located};
use super::{LeftPadding, Positions};
use crate::{KvCache, ModelError};

/// What stands before the tokens of a forward pass.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one for a whole pass")]
pub enum Context<'a> {
    /// Nothing.
    Empty,
    /// Nothing, and some of the tokens at the start of each row are padding.
    Padded(&'a LeftPadding),
    /// The tokens in a cache, which takes up those of this pass. Padding is that of the cache.
    Cached(&'a mut KvCache),
    /// The first `position` tokens of a cache, which takes up those of this pass behind them and
    /// does not count them: a place that the host need not know, so that one captured graph serves
    /// every token. See [`crate::Decoder`].
    Located {
        /// The cache; its padding counts.
        cache: &'a mut KvCache,
        /// Tokens before those of this pass, `[1]`; with them no more than the capacity.
        position: Tensor<1, Int>,
    },
}

/// The place of the tokens of one forward pass in their rows.
pub(crate) struct Placement<'a> {
    tokens: usize,
    /// Places of the tokens, `[tokens]`.
    queries: Tensor<1, Int>,
    /// Keys that there are.
    seen: usize,
    table: &'a Positions,
    /// Padding of each row, `[batch, 1]`.
    pads: Option<Tensor<2, Int>>,
    cache: Option<&'a mut KvCache>,
    located: Option<Located>,
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
        let device = input_ids.device();
        let (padding, mut cache, position) = match context {
            Context::Empty => (None, None, None),
            Context::Padded(padding) => (Some(padding), None, None),
            Context::Cached(cache) => (None, Some(cache), None),
            Context::Located { cache, position } => (None, Some(cache), Some(position)),
        };
        let past = match (&cache, &position) {
            (Some(cache), None) => cache.tokens(),
            _ => 0,
        };
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
            cache.check(layers, batch, past + tokens)?;
        }
        let padded = padding.or(cache.as_ref().and_then(|cache| cache.padding()));
        if let Some(padding) = padded
            && padding.rows() != batch
        {
            return Err(ModelError::PaddingMismatch {
                found: padding.rows(),
                expected: batch,
            });
        }
        let pads = match &mut cache {
            Some(cache) => cache.pads(&device),
            None => padding.and_then(|padding| padding.pads(&device)),
        };
        let (queries, seen) = match (&position, &cache) {
            (Some(position), Some(cache)) => {
                let queries = match tokens {
                    1 => position.clone(),
                    _ => table.range(0, tokens) + position.clone(),
                };
                (queries, cache.capacity())
            }
            _ => (table.range(past, past + tokens), past + tokens),
        };
        let located = position.map(|position| Located {
            position,
            slots: table.range(0, seen),
        });
        Ok(Self {
            tokens,
            queries,
            seen,
            table,
            pads,
            cache,
            located,
        })
    }

    /// What each token of a causal model sees.
    pub(crate) fn visible(&self) -> VisibleKeys {
        let Some(pads) = &self.pads else {
            // The last token sees every key, so a single one needs no mask.
            if self.tokens == 1 && self.located.is_none() {
                return VisibleKeys::All;
            }
            return VisibleKeys::Causal {
                queries: self.queries.clone(),
                keys: self.keys(),
            };
        };
        let [batch, _] = pads.dims();
        let seen = self.seen;
        let keys = self.keys().reshape([1, 1, 1, seen]);
        let queries = self.queries.clone().reshape([1, 1, self.tokens, 1]);
        let pads = pads.clone().reshape([batch, 1, 1, 1]);
        let all = [batch, 1, self.tokens, seen];
        let keys = keys.expand(all);
        let later = keys.clone().greater(queries.expand(all));
        VisibleKeys::Except(keys.lower(pads.expand(all)).bool_or(later))
    }

    /// Places of the keys, `[keys]`.
    fn keys(&self) -> Tensor<1, Int> {
        match &self.located {
            Some(located) => located.slots.clone(),
            None => self.table.range(0, self.seen),
        }
    }

    /// Positions of the tokens, `[1 or batch, tokens]`: one row where all are the same. Padding has
    /// position zero.
    pub(crate) fn positions(&self) -> Tensor<2, Int> {
        let queries = self.queries.clone().unsqueeze(); // [tokens] -> [1, tokens]
        match &self.pads {
            None => queries,
            Some(pads) => (queries - pads.clone()).clamp_min(0),
        }
    }

    /// The rows of layer `n` in the cache, where there is one.
    pub(crate) fn layer_cache(&mut self, n: usize) -> Option<CacheRows<'_>> {
        let layer = self.cache.as_mut()?.layers.get_mut(n)?;
        Some(CacheRows::new(layer, self.located.as_ref()))
    }

    /// Counts the tokens that every layer has appended to the cache.
    pub(crate) fn finish(self) {
        if let Some(cache) = self.cache
            && self.located.is_none()
        {
            cache.advance(self.tokens);
        }
    }
}
