//! Llama, [Touvron et al. 2023](https://arxiv.org/abs/2302.13971) and its successors up to version
//! 3.2, as `LlamaForCausalLM` of Hugging Face `transformers` computes it.

use std::path::Path;

use burn::module::{Module, Param};
use burn::nn::Embedding;
use burn::tensor::{Device, FloatDType, Int, Tensor};
use serde_json::Value;

use crate::checkpoint::{ConfigKeys, MAX_LAYERS};
use crate::common::{Placement, Positions, ResidualStream};
use crate::{
    Activation, Checkpoint, Context, Heads, LanguageModel, ModelError, Plan, Rotary, RotaryConfig,
    RotaryScaling, TokenNorm, TransformerBlock, loader,
};

/// The configuration of a Llama model, with the names of its `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Size of the vocabulary, 32000 if not set.
    pub vocab_size: usize,
    /// Hidden width, 4096 if not set.
    pub hidden_size: usize,
    /// Inner width of the MLP, 11008 if not set.
    pub intermediate_size: usize,
    /// Number of blocks, 32 if not set.
    pub num_hidden_layers: usize,
    /// Query heads, 32 if not set.
    pub num_attention_heads: usize,
    /// Key and value heads, which divide the query heads; as many as those if not set.
    pub num_key_value_heads: usize,
    /// Width of a head, an even number; `hidden_size / num_attention_heads` if not set.
    pub head_dim: usize,
    /// Activation of the gate, `silu` if not set.
    pub hidden_act: Activation,
    /// Longest context in tokens, 2048 if not set.
    pub max_position_embeddings: usize,
    /// Added to the mean square in every norm, 1e-6 if not set.
    pub rms_norm_eps: f64,
    /// Base and scaling of the rotary frequencies, from `rope_scaling` and `rope_theta` or from
    /// `rope_parameters`.
    pub rotary: RotaryConfig,
    /// Whether the layers of attention have biases; false if not set.
    pub attention_bias: bool,
    /// Whether the layers of the MLP have biases; false if not set.
    pub mlp_bias: bool,
    /// Whether the head is the token embedding; false if not set.
    pub tie_word_embeddings: bool,
    /// The token a text begins with, if any; 1 if not set.
    pub bos_token_id: Option<u32>,
    /// The tokens that end a text; 2 if not set.
    pub eos_token_ids: Vec<u32>,
}

impl LlamaConfig {
    /// Llama 7B ([`config.json`](https://huggingface.co/huggyllama/llama-7b/blob/main/config.json)).
    pub fn llama_7b() -> Self {
        Self {
            vocab_size: 32000,
            hidden_size: 4096,
            intermediate_size: 11008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: 32,
            head_dim: 128,
            hidden_act: Activation::Silu,
            max_position_embeddings: 2048,
            rms_norm_eps: 1e-6,
            rotary: RotaryConfig {
                theta: 10_000.0,
                scaling: RotaryScaling::Default,
            },
            attention_bias: false,
            mlp_bias: false,
            tie_word_embeddings: false,
            bos_token_id: Some(1),
            eos_token_ids: vec![2],
        }
    }

    /// Llama 3.2 1B
    /// ([`config.json`](https://huggingface.co/meta-llama/Llama-3.2-1B/blob/main/config.json)).
    pub fn llama_3_2_1b() -> Self {
        Self {
            vocab_size: 128_256,
            hidden_size: 2048,
            intermediate_size: 8192,
            num_hidden_layers: 16,
            num_attention_heads: 32,
            num_key_value_heads: 8,
            head_dim: 64,
            hidden_act: Activation::Silu,
            max_position_embeddings: 131_072,
            rms_norm_eps: 1e-5,
            rotary: RotaryConfig {
                theta: 500_000.0,
                scaling: RotaryScaling::Llama3 {
                    factor: 32.0,
                    low_freq_factor: 1.0,
                    high_freq_factor: 4.0,
                    original_max_position_embeddings: 8192,
                },
            },
            attention_bias: false,
            mlp_bias: false,
            tie_word_embeddings: true,
            bos_token_id: Some(128_000),
            eos_token_ids: vec![128_001],
        }
    }

    /// Reads a `config.json`; `path` is where it came from, for the errors.
    ///
    /// # Errors
    ///
    /// [`ModelError::InvalidKey`] and [`ModelError::MissingKey`] if a value has the wrong type, heads
    /// do not divide, a head has an odd width, there are too many layers, or activation or rotary
    /// scaling are unknown.
    pub fn from_json(json: &Value, path: &Path) -> Result<Self, ModelError> {
        let keys = ConfigKeys::new(path, json);
        let default = Self::llama_7b();
        let num_attention_heads = keys.count("num_attention_heads", default.num_attention_heads)?;
        let hidden_size = keys.count("hidden_size", default.hidden_size)?;
        let max_position_embeddings =
            keys.count("max_position_embeddings", default.max_position_embeddings)?;
        let head_dim = match keys.optional_count("head_dim")? {
            Some(width) if width.is_multiple_of(2) => width,
            Some(_) => return Err(keys.invalid("head_dim", "an even number")),
            None if !hidden_size.is_multiple_of(2 * num_attention_heads) => {
                let expected = format!(
                    "a divisor of hidden_size {hidden_size} that leaves heads of an even width"
                );
                return Err(keys.invalid("num_attention_heads", expected));
            }
            None => hidden_size / num_attention_heads,
        };
        let config = Self {
            vocab_size: keys.count("vocab_size", default.vocab_size)?,
            hidden_size,
            intermediate_size: keys.count("intermediate_size", default.intermediate_size)?,
            num_hidden_layers: keys.count("num_hidden_layers", default.num_hidden_layers)?,
            num_attention_heads,
            num_key_value_heads: keys.count("num_key_value_heads", num_attention_heads)?,
            head_dim,
            hidden_act: keys.activation("hidden_act", "silu")?,
            max_position_embeddings,
            rms_norm_eps: keys.positive("rms_norm_eps", default.rms_norm_eps)?,
            rotary: RotaryConfig::from_keys(&keys, max_position_embeddings)?,
            attention_bias: keys.flag("attention_bias", false)?,
            mlp_bias: keys.flag("mlp_bias", false)?,
            tie_word_embeddings: keys.flag("tie_word_embeddings", false)?,
            bos_token_id: match json.get("bos_token_id") {
                None => default.bos_token_id,
                Some(_) => keys.token_ids("bos_token_id")?.first().copied(),
            },
            eos_token_ids: match json.get("eos_token_id") {
                None => default.eos_token_ids,
                Some(_) => keys.token_ids("eos_token_id")?,
            },
        };
        if config.num_hidden_layers > MAX_LAYERS {
            return Err(keys.invalid("num_hidden_layers", format!("at most {MAX_LAYERS}")));
        }
        if !num_attention_heads.is_multiple_of(config.num_key_value_heads) {
            let expected = format!("a divisor of num_attention_heads {num_attention_heads}");
            return Err(keys.invalid("num_key_value_heads", expected));
        }
        Ok(config)
    }

    /// Heads and their width.
    pub(crate) fn heads(&self) -> Heads {
        Heads {
            query: self.num_attention_heads,
            key: self.num_key_value_heads,
            width: self.head_dim,
        }
    }

    /// What the product of query and key is multiplied with.
    pub(crate) fn attention_scale(&self) -> f64 {
        1.0 / (self.head_dim as f64).sqrt()
    }
}

/// Llama with its language-modelling head. Load it with [`Llama::load`], or make one with random
/// weights with [`Llama::init`].
///
/// Norms, rotary angles, softmax and loss are computed in `f32`, everything else in the dtype of the
/// weights.
#[derive(Module, Debug)]
pub struct Llama {
    /// Token embedding, `[vocab_size, hidden_size]`; the head too when that is tied.
    pub embed_tokens: Embedding,
    /// The blocks, first to last.
    pub blocks: Vec<TransformerBlock>,
    /// Norm before the head.
    pub norm: TokenNorm,
    /// Head, `[vocab_size, hidden_size]`, when it is not tied.
    pub head: Option<Param<Tensor<2>>>,
    pub(crate) rotary: Rotary,
    pub(crate) positions: Positions,
    #[module(skip)]
    pub(crate) config: LlamaConfig,
}

impl Llama {
    /// Loads a checkpoint onto `device` with weights of `dtype`, tensor by tensor.
    ///
    /// # Errors
    ///
    /// [`ModelError::MissingTensor`], [`ModelError::UnusedTensor`], [`ModelError::TensorShape`],
    /// [`ModelError::TensorDtype`], [`ModelError::NonFiniteWeight`] and
    /// [`ModelError::TiedTensorDiffers`] for weights that are not those of the configuration;
    /// [`ModelError::InvalidKey`], [`ModelError::MissingKey`], [`ModelError::UnknownBlrLayer`] and
    /// [`ModelError::Structure`] for a configuration that cannot be used;
    /// [`ModelError::UnsupportedDtype`] if the device cannot compute in `dtype`.
    pub fn load(
        checkpoint: &Checkpoint,
        device: &Device,
        dtype: FloatDType,
    ) -> Result<Self, ModelError> {
        let (model, _) = loader::llama::load(checkpoint, device, dtype)?;
        Ok(model)
    }

    /// Makes a model with random weights on `device`, its linear layers as `plan` says, or dense.
    ///
    /// The layers are named as in a checkpoint, `model.layers.0.self_attn.q_proj` and so on.
    ///
    /// ```
    /// use burn::tensor::{Device, FloatDType};
    /// use burn_blr::Method;
    /// use models::{LanguageModel, Llama, LlamaConfig, Plan};
    ///
    /// # fn main() -> Result<(), models::ModelError> {
    /// # let small = LlamaConfig {
    /// #     vocab_size: 96,
    /// #     hidden_size: 64,
    /// #     intermediate_size: 128,
    /// #     num_hidden_layers: 2,
    /// #     num_attention_heads: 4,
    /// #     num_key_value_heads: 2,
    /// #     head_dim: 16,
    /// #     ..LlamaConfig::llama_3_2_1b()
    /// # };
    /// let config = LlamaConfig::llama_3_2_1b();
    /// # let config = small;
    /// let plan = Plan::keep(Method::Blast, 0.5); // or Plan::preset("llama1b", Method::Blast)?
    /// let model = Llama::init(&config, Some(&plan), &Device::flex(), FloatDType::BF16)?;
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
        config: &LlamaConfig,
        plan: Option<&Plan>,
        device: &Device,
        dtype: FloatDType,
    ) -> Result<Self, ModelError> {
        let (model, _) = loader::llama::init(config, plan, device, dtype)?;
        Ok(model)
    }

    /// The same model with query, key and value of each block as one layer, and with gate and up
    /// projection as one, where their widths and structures are the same (dense ones may differ in
    /// width): fewer launches, the same outputs.
    ///
    /// For inference: a joined model has other layers than its checkpoint, so it can be neither saved
    /// nor compressed.
    pub fn joined(mut self) -> Self {
        for block in &mut self.blocks {
            block.attention.qkv.join();
            block.mlp.join();
        }
        self
    }

    /// The configuration.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }
}

impl LanguageModel for Llama {
    fn max_tokens(&self) -> usize {
        self.config.max_position_embeddings
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
        let angles = self.rotary.angles(placement.positions());
        let mut stream = ResidualStream::new(self.embed_tokens.forward(input_ids));
        for (n, block) in self.blocks.iter().enumerate() {
            block.forward(
                &mut stream,
                &visible,
                Some(&angles),
                placement.layer_cache(n),
            );
        }
        placement.finish();
        Ok(stream.normed(&self.norm))
    }

    fn head(&self) -> Tensor<2> {
        match &self.head {
            Some(head) => head.val(),
            None => self.embed_tokens.weight.val(),
        }
    }
}
