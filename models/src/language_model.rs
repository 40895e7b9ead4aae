//! What generation and evaluation need of a model, whatever its family.

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::{KvCache, ModelError};

/// A causal language model.
pub trait LanguageModel {
    /// Longest context in tokens.
    fn max_tokens(&self) -> usize;

    /// Number of token ids.
    fn vocab_size(&self) -> usize;

    /// The tokens that end a text, from the configuration.
    fn end_tokens(&self) -> &[u32];

    /// Where the weights are.
    fn device(&self) -> Device;

    /// An empty cache for `batch` rows and `capacity` tokens a row, or [`Self::max_tokens`] if that
    /// is less.
    fn cache(&self, batch: usize, capacity: usize) -> KvCache;

    /// Logits of the token after each token.
    ///
    /// # Shapes
    ///
    /// - `input_ids`: `[batch, tokens]`, from [`Self::input_ids`]
    /// - output: `[batch, tokens, vocab_size]`
    ///
    /// # Errors
    ///
    /// [`ModelError::TooManyTokens`] past [`Self::max_tokens`], [`ModelError::TooFewTokens`] for none.
    fn forward(&self, input_ids: Tensor<2, Int>) -> Result<Tensor<3>, ModelError>;

    /// Logits of the token after the last one; adds the tokens to `cache`.
    ///
    /// # Shapes
    ///
    /// - `input_ids`: `[batch, tokens]`, those that follow the ones in the cache
    /// - output: `[batch, vocab_size]`
    ///
    /// # Errors
    ///
    /// Those of [`Self::forward`] for cached and new tokens together, and
    /// [`ModelError::CacheMismatch`].
    fn next_token_logits(
        &self,
        input_ids: Tensor<2, Int>,
        cache: &mut KvCache,
    ) -> Result<Tensor<2>, ModelError>;

    /// Sum of the cross entropies of each token given those before it in its row, in nats; the first
    /// token of a row is not predicted.
    ///
    /// # Shapes
    ///
    /// - `input_ids`: `[batch, tokens]`, at least two tokens
    /// - output: `[1]`, `f32`
    ///
    /// # Errors
    ///
    /// [`ModelError::TooFewTokens`] and [`ModelError::TooManyTokens`].
    fn nll(&self, input_ids: Tensor<2, Int>) -> Result<Tensor<1>, ModelError>;

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
        let data = TensorData::new(ids, [batch, tokens]);
        Ok(Tensor::from_data(data, &self.device()))
    }
}
