//! GPT-2, [Radford et al. 2019](https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf),
//! as `GPT2LMHeadModel` of Hugging Face `transformers` computes it
//! ([model card](https://huggingface.co/openai-community/gpt2)).

use std::path::Path;

use burn::module::{Module, Param};
use burn::nn::Embedding;
use burn::tensor::{Device, FloatDType, Int, Tensor};
use serde_json::Value;

use crate::checkpoint::{ConfigKeys, MAX_LAYERS};
use crate::common::{Placement, Positions, ResidualStream};
use crate::{
    Activation, Checkpoint, Context, Heads, LanguageModel, ModelError, Plan, TokenNorm,
    TransformerBlock, loader,
};

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
    /// GPT-2 small
    /// ([`config.json`](https://huggingface.co/openai-community/gpt2/blob/main/config.json)).
    pub fn gpt2_small() -> Self {
        Self {
            vocab_size: 50257,
            n_positions: 1024,
            n_embd: 768,
            n_layer: 12,
            n_head: 12,
            n_inner: None,
            activation: Activation::GeluTanh,
            layer_norm_epsilon: 1e-5,
            scale_attn_weights: true,
            scale_attn_by_inverse_layer_idx: false,
            tie_word_embeddings: true,
            bos_token_id: Some(50256),
            eos_token_ids: vec![50256],
        }
    }

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
        let config = Self {
            vocab_size: keys.count("vocab_size", 50257)?,
            n_positions: keys.count("n_positions", 1024)?,
            n_embd: keys.count("n_embd", 768)?,
            n_layer: keys.count("n_layer", 12)?,
            n_head: keys.count("n_head", 12)?,
            n_inner: keys.optional_count("n_inner")?,
            activation: keys.activation("activation_function", "gelu_new")?,
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

    /// Heads and their width.
    pub(crate) fn heads(&self) -> Heads {
        Heads {
            query: self.n_head,
            key: self.n_head,
            width: self.n_embd / self.n_head,
        }
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

/// GPT-2 with its language-modelling head. Load it with [`Gpt2::load`], or make one with random
/// weights with [`Gpt2::init`].
///
/// Norms, softmax and loss are computed in `f32`, everything else in the dtype of the weights.
#[derive(Module, Debug)]
pub struct Gpt2 {
    /// Token embedding, `[vocab_size, n_embd]`; the head too when that is tied.
    pub token_embedding: Embedding,
    /// Position embedding, `[n_positions, n_embd]`.
    pub position_embedding: Embedding,
    /// The blocks, first to last.
    pub blocks: Vec<TransformerBlock>,
    /// Norm before the head.
    pub ln_f: TokenNorm,
    /// Head, `[vocab_size, n_embd]`, when it is not tied.
    pub head: Option<Param<Tensor<2>>>,
    pub(crate) positions: Positions,
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
        let (model, _) = loader::gpt2::load(checkpoint, device, dtype)?;
        Ok(model)
    }

    /// Makes a model with random weights on `device`, its linear layers as `plan` says, or dense.
    ///
    /// The layers are named as in a checkpoint, `transformer.h.0.attn.c_attn` and so on.
    ///
    /// ```
    /// use burn::tensor::{Device, FloatDType};
    /// use burn_blr::Method;
    /// use models::{Gpt2, Gpt2Config, LanguageModel, Plan};
    ///
    /// # fn main() -> Result<(), models::ModelError> {
    /// # let small = Gpt2Config { vocab_size: 96, n_embd: 48, n_layer: 2, ..Gpt2Config::gpt2_small() };
    /// let config = Gpt2Config::gpt2_small();
    /// # let config = small;
    /// let plan = Plan::keep(Method::Blast, 0.5); // or Plan::preset("gpt2s", Method::Blast)?
    /// let model = Gpt2::init(&config, Some(&plan), &Device::flex(), FloatDType::F32)?;
    ///
    /// let logits = model.forward(model.input_ids(&[1u32, 2, 3], 1)?)?;
    /// assert_eq!(logits.dims(), [1, 3, config.vocab_size]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Plan::resolve`]; [`ModelError::UnsupportedDtype`] if the device cannot compute in
    /// `dtype`.
    pub fn init(
        config: &Gpt2Config,
        plan: Option<&Plan>,
        device: &Device,
        dtype: FloatDType,
    ) -> Result<Self, ModelError> {
        let (model, _) = loader::gpt2::init(config, plan, device, dtype)?;
        Ok(model)
    }

    /// The configuration.
    pub fn config(&self) -> &Gpt2Config {
        &self.config
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

    fn layers(&self) -> usize {
        self.blocks.len()
    }

    fn hidden(
        &self,
        input_ids: Tensor<2, Int>,
        context: Context<'_>,
    ) -> Result<Tensor<3>, ModelError> {
        let (layers, max_tokens) = (self.layers(), self.max_tokens());
        let mut placement =
            Placement::new(&input_ids, context, layers, max_tokens, &self.positions)?;
        let visible = placement.visible();
        let positions = self.position_embedding.forward(placement.positions());
        // [batch, tokens, n_embd] + [1 or batch, tokens, n_embd]
        let x = self.token_embedding.forward(input_ids) + positions;
        let mut stream = ResidualStream::new(x);
        for (n, block) in self.blocks.iter().enumerate() {
            block.forward(&mut stream, &visible, None, placement.layer_cache(n));
        }
        placement.finish();
        Ok(stream.normed(&self.ln_f))
    }

    fn head(&self) -> Tensor<2> {
        match &self.head {
            Some(head) => head.val(),
            None => self.token_embedding.weight.val(),
        }
    }
}
