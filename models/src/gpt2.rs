//! GPT-2, [Radford et al. 2019](https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf),
//! as `GPT2LMHeadModel` of Hugging Face `transformers` computes it
//! ([model card](https://huggingface.co/openai-community/gpt2)).

use std::path::Path;

use burn::module::{Module, Param};
use burn::nn::{Embedding, LayerNorm};
use burn::tensor::{Device, FloatDType, Int, Tensor, s};
use serde_json::Value;

use crate::checkpoint::ConfigKeys;
use crate::common::{CausalMask, LayerCache, norm_in_f32, token_nll};
use crate::{
    Activation, CausalAttention, Checkpoint, KvCache, LanguageModel, Mlp, ModelError, loader,
};

/// Most blocks a configuration may ask for. A damaged number would otherwise exhaust the memory
/// before a missing tensor is noticed; published models have at most 48.
const MAX_LAYERS: usize = 4096;

/// The configuration of a GPT-2 model, with the names of its `config.json`
/// ([that of the smallest](https://huggingface.co/openai-community/gpt2/blob/main/config.json)).
#[derive(Debug, Clone, PartialEq)]
pub struct Gpt2Config {
    /// Size of the vocabulary, 50257 if not set.
    pub vocab_size: usize,
    /// Longest context in tokens, 1024 if not set.
    pub n_positions: usize,
    /// Hidden width, 768 if not set.
    pub n_embd: usize,
    /// Number of blocks, 12 if not set.
    pub n_layer: usize,
    /// Attention heads, 12 if not set; they divide `n_embd`.
    pub n_head: usize,
    /// Inner width of the MLP; `4 n_embd` if not set.
    pub n_inner: Option<usize>,
    /// Activation of the MLP, `gelu_new` if not set.
    pub activation: Activation,
    /// Added to the variance in every layer norm, 1e-5 if not set.
    pub layer_norm_epsilon: f64,
    /// Whether attention scores are divided by the square root of the head width; true if not set.
    pub scale_attn_weights: bool,
    /// Whether the scores of block `n` are divided by `n + 1` as well; false if not set.
    pub scale_attn_by_inverse_layer_idx: bool,
    /// Whether the head is the token embedding; true if not set.
    pub tie_word_embeddings: bool,
    /// The token a text begins with, if any.
    pub bos_token_id: Option<u32>,
    /// The tokens that end a text; none if not set.
    pub eos_token_ids: Vec<u32>,
}

impl Gpt2Config {
    /// Reads a `config.json`; `path` is where it came from, for the errors.
    ///
    /// # Errors
    ///
    /// [`ModelError::InvalidKey`] if a value has the wrong type, `n_head` does not divide `n_embd`,
    /// there are too many layers, the activation is unknown, or the model has cross-attention.
    pub fn from_json(json: &Value, path: &Path) -> Result<Self, ModelError> {
        let keys = ConfigKeys::new(path, json);
        if keys.flag("add_cross_attention", false)? {
            return Err(keys.invalid(
                "add_cross_attention",
                "false: cross-attention is not supported",
            ));
        }
        let activation = keys.text("activation_function", "gelu_new")?;
        let activation = Activation::from_name(activation).ok_or_else(|| {
            let names: Vec<_> = Activation::names().collect();
            keys.invalid(
                "activation_function",
                format!("one of {}", names.join(", ")),
            )
        })?;
        let config = Self {
            vocab_size: keys.count("vocab_size", 50257)?,
            n_positions: keys.count("n_positions", 1024)?,
            n_embd: keys.count("n_embd", 768)?,
            n_layer: keys.count("n_layer", 12)?,
            n_head: keys.count("n_head", 12)?,
            n_inner: keys.optional_count("n_inner")?,
            activation,
            layer_norm_epsilon: keys.positive("layer_norm_epsilon", 1e-5)?,
            scale_attn_weights: keys.flag("scale_attn_weights", true)?,
            scale_attn_by_inverse_layer_idx: keys.flag("scale_attn_by_inverse_layer_idx", false)?,
            tie_word_embeddings: keys.flag("tie_word_embeddings", true)?,
            bos_token_id: keys.token_ids("bos_token_id")?.first().copied(),
            eos_token_ids: keys.token_ids("eos_token_id")?,
        };
        if config.n_layer > MAX_LAYERS {
            return Err(keys.invalid("n_layer", format!("at most {MAX_LAYERS}")));
        }
        if !config.n_embd.is_multiple_of(config.n_head) {
            return Err(keys.invalid("n_head", format!("a divisor of n_embd {}", config.n_embd)));
        }
        Ok(config)
    }

    /// Inner width of the MLP.
    pub fn inner(&self) -> usize {
        self.n_inner.unwrap_or(4 * self.n_embd)
    }

    /// What the product of query and key is multiplied with in block `n`.
    pub(crate) fn attention_scale(&self, n: usize) -> f64 {
        let mut scale = 1.0;
        if self.scale_attn_weights {
            scale /= ((self.n_embd / self.n_head) as f64).sqrt();
        }
        if self.scale_attn_by_inverse_layer_idx {
            scale /= (n + 1) as f64;
        }
        scale
    }
}

/// One transformer block: attention and MLP, each behind a norm and added to its input.
#[derive(Module, Debug)]
pub struct Gpt2Block {
    /// Norm before attention, in `f32`.
    pub ln_1: LayerNorm,
    /// Self-attention.
    pub attention: CausalAttention,
    /// Norm before the MLP, in `f32`.
    pub ln_2: LayerNorm,
    /// Feed-forward block.
    pub mlp: Mlp,
}

impl Gpt2Block {
    /// Applies the block.
    ///
    /// # Shapes
    ///
    /// - `x`, output: `[batch, tokens, n_embd]`
    fn forward(
        &self,
        x: Tensor<3>,
        mask: &CausalMask,
        cache: Option<&mut LayerCache>,
    ) -> Tensor<3> {
        let normed = norm_in_f32(&self.ln_1, x.clone());
        let x = x + self.attention.forward(normed, mask, cache);
        let normed = norm_in_f32(&self.ln_2, x.clone());
        x + self.mlp.forward(normed)
    }
}

/// GPT-2 with its language-modelling head. Load it with [`Gpt2::load`].
///
/// Norms, softmax and loss are computed in `f32`, everything else in the dtype of the weights.
#[derive(Module, Debug)]
pub struct Gpt2 {
    /// Token embedding, `[vocab_size, n_embd]`; the head too when that is tied.
    pub token_embedding: Embedding,
    /// Position embedding, `[n_positions, n_embd]`.
    pub position_embedding: Embedding,
    /// The blocks, first to last.
    pub blocks: Vec<Gpt2Block>,
    /// Norm before the head, in `f32`.
    pub ln_f: LayerNorm,
    /// Head, `[vocab_size, n_embd]`, when it is not tied.
    pub head: Option<Param<Tensor<2>>>,
    #[module(skip)]
    pub(crate) config: Gpt2Config,
}

impl Gpt2 {
    /// Loads a checkpoint onto `device` with weights of `dtype`.
    ///
    /// # Errors
    ///
    /// [`ModelError::MissingTensor`], [`ModelError::UnusedTensor`], [`ModelError::TensorShape`],
    /// [`ModelError::TensorDtype`], [`ModelError::NonFiniteWeight`] and
    /// [`ModelError::TiedTensorDiffers`] for weights that are not those of the configuration;
    /// [`ModelError::InvalidKey`], [`ModelError::UnknownBlrLayer`] and [`ModelError::Structure`] for
    /// a configuration that cannot be used; [`ModelError::UnsupportedDtype`] if the device cannot
    /// compute in `dtype`.
    pub fn load(
        checkpoint: &Checkpoint,
        device: &Device,
        dtype: FloatDType,
    ) -> Result<Self, ModelError> {
        loader::gpt2::load(checkpoint, device, dtype)
    }

    /// The configuration.
    pub fn config(&self) -> &Gpt2Config {
        &self.config
    }

    /// Logits of the token after each token.
    ///
    /// The ids must be below `vocab_size`: what an id past it does depends on the backend. To have
    /// ids from outside checked, make them a tensor with [`LanguageModel::input_ids`].
    ///
    /// # Shapes
    ///
    /// - `input_ids`: `[batch, tokens]`
    /// - output: `[batch, tokens, vocab_size]`
    ///
    /// # Errors
    ///
    /// [`ModelError::TooManyTokens`] if `tokens` is more than `n_positions`,
    /// [`ModelError::TooFewTokens`] if it is zero.
    pub fn forward(&self, input_ids: Tensor<2, Int>) -> Result<Tensor<3>, ModelError> {
        let hidden = self.hidden(input_ids, None)?;
        Ok(self.logits(hidden))
    }

    /// As [`Gpt2::forward`], for tokens that follow those in `cache`, which it adds to the cache.
    ///
    /// # Shapes
    ///
    /// - `input_ids`: `[batch, tokens]`, the new tokens alone
    /// - output: `[batch, tokens, vocab_size]`
    ///
    /// # Errors
    ///
    /// Those of [`Gpt2::forward`] for cached and new tokens together, and
    /// [`ModelError::CacheMismatch`] if the cache was made for another model or batch.
    pub fn forward_cached(
        &self,
        input_ids: Tensor<2, Int>,
        cache: &mut KvCache,
    ) -> Result<Tensor<3>, ModelError> {
        let hidden = self.hidden(input_ids, Some(cache))?;
        Ok(self.logits(hidden))
    }

    /// Mean cross entropy of each token given those before it, in nats per token.
    ///
    /// The first token of a row is not predicted, so `batch (tokens - 1)` predictions count. Logits
    /// are made in pieces, so that a long text does not need the memory of all of them.
    ///
    /// # Shapes
    ///
    /// - `input_ids`: `[batch, tokens]`, at least two tokens; ids as in [`Gpt2::forward`]
    /// - output: `[1]`, `f32`
    ///
    /// # Errors
    ///
    /// [`ModelError::TooFewTokens`] and [`ModelError::TooManyTokens`].
    pub fn loss(&self, input_ids: Tensor<2, Int>) -> Result<Tensor<1>, ModelError> {
        let [batch, tokens] = input_ids.dims();
        let predicted = batch * tokens.saturating_sub(1);
        Ok(self.nll(input_ids)? / predicted.max(1) as f64)
    }

    /// As [`Gpt2::loss`], summed over the predictions instead of averaged.
    ///
    /// # Errors
    ///
    /// Those of [`Gpt2::loss`].
    pub fn nll(&self, input_ids: Tensor<2, Int>) -> Result<Tensor<1>, ModelError> {
        let [batch, tokens] = input_ids.dims();
        if tokens < 2 {
            return Err(ModelError::TooFewTokens {
                found: tokens,
                min: 2,
            });
        }
        let hidden = self.hidden(input_ids.clone().narrow(1, 0, tokens - 1), None)?;
        let rows = batch * (tokens - 1);
        let hidden = hidden.reshape([rows, self.config.n_embd]);
        let targets = input_ids.narrow(1, 1, tokens - 1).reshape([rows]);
        Ok(token_nll(hidden, self.head_weight(), targets))
    }

    /// Hidden states before the head, `[batch, tokens, n_embd]`.
    fn hidden(
        &self,
        input_ids: Tensor<2, Int>,
        mut cache: Option<&mut KvCache>,
    ) -> Result<Tensor<3>, ModelError> {
        let [batch, tokens] = input_ids.dims();
        let past = cache.as_ref().map_or(0, |cache| cache.tokens());
        if tokens == 0 {
            return Err(ModelError::TooFewTokens { found: 0, min: 1 });
        }
        if past + tokens > self.config.n_positions {
            return Err(ModelError::TooManyTokens {
                found: past + tokens,
                max: self.config.n_positions,
            });
        }
        if let Some(cache) = &cache {
            cache.check(self.blocks.len(), batch, tokens)?;
        }

        let mask = CausalMask::new(past, tokens, &input_ids.device());
        let positions = self
            .position_embedding
            .weight
            .val()
            .slice(s![past..past + tokens, ..]); // [tokens, n_embd]
        // [tokens, n_embd] -> [1, tokens, n_embd]
        let mut x = self.token_embedding.forward(input_ids) + positions.unsqueeze::<3>();
        for (n, block) in self.blocks.iter().enumerate() {
            let layer = cache.as_mut().and_then(|cache| cache.layers.get_mut(n));
            x = block.forward(x, &mask, layer);
        }
        if let Some(cache) = cache {
            cache.advance(tokens);
        }
        Ok(norm_in_f32(&self.ln_f, x))
    }

    /// The weight of the head, `[vocab_size, n_embd]`.
    fn head_weight(&self) -> Tensor<2> {
        match &self.head {
            Some(head) => head.val(),
            None => self.token_embedding.weight.val(),
        }
    }

    /// Logits `[batch, tokens, vocab_size]` of hidden states `[batch, tokens, n_embd]`.
    fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        let [batch, tokens, features] = hidden.dims();
        hidden
            .reshape([batch * tokens, features])
            .matmul(self.head_weight().transpose()) // [vocab, n_embd] -> [n_embd, vocab]
            .reshape([batch, tokens, self.config.vocab_size])
    }
}

impl LanguageModel for Gpt2 {
    fn max_tokens(&self) -> usize {
        self.config.n_positions
    }

    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn end_tokens(&self) -> &[u32] {
        &self.config.eos_token_ids
    }

    fn device(&self) -> Device {
        self.token_embedding.weight.val().device()
    }

    fn cache(&self, batch: usize, capacity: usize) -> KvCache {
        KvCache::new(
            self.blocks.len(),
            batch,
            capacity.min(self.config.n_positions),
        )
    }

    fn forward(&self, input_ids: Tensor<2, Int>) -> Result<Tensor<3>, ModelError> {
        Gpt2::forward(self, input_ids)
    }

    fn next_token_logits(
        &self,
        input_ids: Tensor<2, Int>,
        cache: &mut KvCache,
    ) -> Result<Tensor<2>, ModelError> {
        let hidden = self.hidden(input_ids, Some(cache))?;
        let [batch, tokens, _] = hidden.dims();
        // The head for the last token alone: for a long prompt it would cost more than a block.
        let last = hidden.narrow(1, tokens - 1, 1);
        let logits = self.logits(last); // [batch, 1, vocab]
        Ok(logits.reshape([batch, self.config.vocab_size]))
    }

    fn nll(&self, input_ids: Tensor<2, Int>) -> Result<Tensor<1>, ModelError> {
        Gpt2::nll(self, input_ids)
    }
}
