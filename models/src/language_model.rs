//! What generation and evaluation need of a model, whatever its family.

use burn::tensor::{Device, Int, Tensor, TensorData};

use burn_blr::ops::{Epilogue, dense_linear};

use crate::common::token_nll;
use crate::{Context, KvCache, LeftPadding, ModelError};

/// A causal language model.
///
/// A family says what its hidden states are and what its head is; logits and losses follow here.
pub trait LanguageModel {
    /// Longest context in tokens.
    fn max_tokens(&self) -> usize;

    /// Number of token ids.
    fn vocab_size(&self) -> usize;

    /// The tokens that end a text, from the configuration.
    fn end_tokens(&self) -> &[u32];

    /// Number of blocks, each of which has a part of a cache.
    fn layers(&self) -> usize;

    /// Hidden states before the head; adds the tokens to the cache of `context`, if it has one.
    ///
    /// # Shapes
    ///
    /// - `input_ids`: `[batch, tokens]`, from [`Self::input_ids`]; those that follow the ones in the
    ///   cache
    /// - output: `[batch, tokens, features]`
    ///
    /// # Errors
    ///
    /// [`ModelError::TooManyTokens`] if cached and new tokens are more than [`Self::max_tokens`] or
    /// than the cache holds, [`ModelError::TooFewTokens`] for none; [`ModelError::CacheMismatch`]
    /// and [`ModelError::PaddingMismatch`] if cache or padding were made for another model or batch.
    fn hidden(
        &self,
        input_ids: Tensor<2, Int>,
        context: Context<'_>,
    ) -> Result<Tensor<3>, ModelError>;

    /// The weight of the head, `[vocab_size, features]`.
    fn head(&self) -> Tensor<2>;

    /// Where the weights are.
    fn device(&self) -> Device {
        self.head().device()
    }

    /// An empty cache for `batch` rows and `capacity` tokens a row, or [`Self::max_tokens`] if that
    /// is less.
    fn cache(&self, batch: usize, capacity: usize) -> KvCache {
        KvCache::new(self.layers(), batch, capacity.min(self.max_tokens()))
    }

    /// Logits of the token after each token.
    ///
    /// The ids must be below [`Self::vocab_size`]: what an id past it does depends on the backend.
    /// To have ids from outside checked, make them a tensor with [`Self::input_ids`].
    ///
    /// # Shapes
    ///
    /// - `input_ids`: `[batch, tokens]`
    /// - output: `[batch, tokens, vocab_size]`
    ///
    /// # Errors
    ///
    /// Those of [`Self::hidden`].
    fn forward(&self, input_ids: Tensor<2, Int>) -> Result<Tensor<3>, ModelError> {
        Ok(logits(self.hidden(input_ids, Context::Empty)?, self.head()))
    }

    /// As [`Self::forward`], for rows of which the first tokens are padding. What the logits of
    /// padding are is not said.
    ///
    /// # Shapes
    ///
    /// - `input_ids`: `[batch, tokens]`
    /// - output: `[batch, tokens, vocab_size]`
    ///
    /// # Errors
    ///
    /// Those of [`Self::hidden`].
    fn forward_padded(
        &self,
        input_ids: Tensor<2, Int>,
        padding: &LeftPadding,
    ) -> Result<Tensor<3>, ModelError> {
        let hidden = self.hidden(input_ids, Context::Padded(padding))?;
        Ok(logits(hidden, self.head()))
    }

    /// As [`Self::forward`], for tokens that follow those in `cache`, which it adds to the cache.
    ///
    /// # Shapes
    ///
    /// - `input_ids`: `[batch, tokens]`, the new tokens alone
    /// - output: `[batch, tokens, vocab_size]`
    ///
    /// # Errors
    ///
    /// Those of [`Self::hidden`].
    fn forward_cached(
        &self,
        input_ids: Tensor<2, Int>,
        cache: &mut KvCache,
    ) -> Result<Tensor<3>, ModelError> {
        let hidden = self.hidden(input_ids, Context::Cached(cache))?;
        Ok(logits(hidden, self.head()))
    }

    /// Logits of the token after the last one.
    ///
    /// # Shapes
    ///
    /// - `input_ids`: `[batch, tokens]`, those that follow the ones in the cache of `context`
    /// - output: `[batch, vocab_size]`
    ///
    /// # Errors
    ///
    /// Those of [`Self::hidden`].
    fn last_logits(
        &self,
        input_ids: Tensor<2, Int>,
        context: Context<'_>,
    ) -> Result<Tensor<2>, ModelError> {
        let hidden = self.hidden(input_ids, context)?;
        let [batch, tokens, _] = hidden.dims();
        // The head for the last token alone: for a long prompt it would cost more than a block.
        let last = hidden.narrow(1, tokens - 1, 1);
        let logits = logits(last, self.head()); // [batch, 1, vocab]
        Ok(logits.reshape([batch, self.vocab_size()]))
    }

    /// Logits of the token after the last one; adds the tokens to `cache`.
    ///
    /// # Shapes
    ///
    /// - `input_ids`: `[batch, tokens]`, those that follow the ones in the cache
    /// - output: `[batch, vocab_size]`
    ///
    /// # Errors
    ///
    /// Those of [`Self::hidden`].
    fn next_token_logits(
        &self,
        input_ids: Tensor<2, Int>,
        cache: &mut KvCache,
    ) -> Result<Tensor<2>, ModelError> {
        self.last_logits(input_ids, Context::Cached(cache))
    }

    /// Mean cross entropy of each token given those before it in its row, in nats per token.
    ///
    /// # Shapes
    ///
    /// - `input_ids`: `[batch, tokens]`, at least two tokens
    /// - output: `[1]`, `f32`
    ///
    /// # Errors
    ///
    /// Those of [`Self::nll`].
    fn loss(&self, input_ids: Tensor<2, Int>) -> Result<Tensor<1>, ModelError> {
        let [batch, tokens] = input_ids.dims();
        let predicted = batch * tokens.saturating_sub(1);
        Ok(self.nll(input_ids)? / predicted.max(1) as f64)
    }

    /// Sum of the cross entropies of each token given those before it in its row, in nats.
    ///
    /// The first token of a row is not predicted, so `batch (tokens - 1)` predictions count. Logits
    /// are made in pieces, so that a long text does not need the memory of all of them.
    ///
    /// # Shapes
    ///
    /// - `input_ids`: `[batch, tokens]`, at least two tokens; ids as in [`Self::forward`]
    /// - output: `[1]`, `f32`
    ///
    /// # Errors
    ///
    /// [`ModelError::TooFewTokens`] and [`ModelError::TooManyTokens`].
    fn nll(&self, input_ids: Tensor<2, Int>) -> Result<Tensor<1>, ModelError> {
        let [batch, tokens] = input_ids.dims();
        if tokens < 2 {
            return Err(ModelError::TooFewTokens {
                found: tokens,
                min: 2,
            });
        }
        let inputs = input_ids.clone().narrow(1, 0, tokens - 1);
        let hidden = self.hidden(inputs, Context::Empty)?;
        let [_, _, features] = hidden.dims();
        let rows = batch * (tokens - 1);
        let hidden = hidden.reshape([rows, features]);
        let targets = input_ids.narrow(1, 1, tokens - 1).reshape([rows]);
        Ok(token_nll(hidden, self.head(), targets))
    }

    /// Makes token ids a tensor on the device of the model, after checking them.
    ///
    /// # Shapes
    ///
    /// - `ids`: `batch · tokens` ids, row by row
    /// - output: `[batch, tokens]`
    ///
    /// # Errors
    ///
    /// [`ModelError::TokenOutOfRange`] for an id that is negative or not below
    /// [`Self::vocab_size`]; [`ModelError::Batch`] if the ids do not fill `batch` rows.
    fn input_ids<I: Copy + Into<i64>>(
        &self,
        ids: &[I],
        batch: usize,
    ) -> Result<Tensor<2, Int>, ModelError>
    where
        Self: Sized,
    {
        let data = self.checked_ids(ids, batch)?;
        Ok(Tensor::from_data(data, &self.device()))
    }

    /// Token ids as data for a tensor `[batch, tokens]`, checked as [`Self::input_ids`] does.
    ///
    /// # Errors
    ///
    /// Those of [`Self::input_ids`].
    fn checked_ids<I: Copy + Into<i64>>(
        &self,
        ids: &[I],
        batch: usize,
    ) -> Result<TensorData, ModelError>
    where
        Self: Sized,
    {
        if batch == 0 || ids.is_empty() || !ids.len().is_multiple_of(batch) {
            return Err(ModelError::Batch {
                found: ids.len(),
                batch,
            });
        }
        let ids: Vec<i64> = ids.iter().map(|&id| id.into()).collect();
        let known = |id: i64| usize::try_from(id).is_ok_and(|id| id < self.vocab_size());
        if let Some(position) = ids.iter().position(|&id| !known(id)) {
            return Err(ModelError::TokenOutOfRange {
                found: ids.get(position).copied().unwrap_or_default(),
                position,
                vocab_size: self.vocab_size(),
            });
        }
        let tokens = ids.len() / batch;
        Ok(TensorData::new(ids, [batch, tokens]))
    }
}

/// Logits `[batch, tokens, vocab_size]` of hidden states `[batch, tokens, features]`.
fn logits(hidden: Tensor<3>, head: Tensor<2>) -> Tensor<3> {
    let [batch, tokens, features] = hidden.dims();
    let [vocab, _] = head.dims();
    let hidden: Tensor<2> = hidden.reshape([batch * tokens, features]);
    // [vocab, features] -> [features, vocab]
    dense_linear(hidden, head.transpose(), Epilogue::default()).reshape([batch, tokens, vocab])
}
