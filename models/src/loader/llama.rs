//! The tensor names of Llama.
//!
//! `x` is `model.` in a checkpoint of `LlamaForCausalLM` and empty in one of `LlamaModel`; `h` is
//! `hidden_size`, `i` is `intermediate_size`, `q` and `k` are the widths of all query heads and of
//! all key heads:
//!
//! | tensor | shape | becomes |
//! |---|---|---|
//! | `x` `embed_tokens.weight` | `[vocab, h]` | token embedding, and the head when tied |
//! | `x` `layers.N.input_layernorm.weight` | `[h]` | norm before attention |
//! | `x` `layers.N.self_attn.q_proj.weight` | `[q, h]` | query |
//! | `x` `layers.N.self_attn.k_proj.weight` | `[k, h]` | key |
//! | `x` `layers.N.self_attn.v_proj.weight` | `[k, h]` | value |
//! | `x` `layers.N.self_attn.o_proj.weight` | `[h, q]` | output of attention |
//! | `x` `layers.N.post_attention_layernorm.weight` | `[h]` | norm before the MLP |
//! | `x` `layers.N.mlp.gate_proj.weight` | `[i, h]` | MLP, gate |
//! | `x` `layers.N.mlp.up_proj.weight` | `[i, h]` | MLP, in |
//! | `x` `layers.N.mlp.down_proj.weight` | `[h, i]` | MLP, out |
//! | `x` `norm.weight` | `[h]` | last norm |
//! | `lm_head.weight` | `[vocab, h]` | head, when `tie_word_embeddings` is false |
//!
//! Weights are stored `[out, in]`. The four layers of attention have a `.bias` where
//! `attention_bias` is true, the three of the MLP where `mlp_bias` is. Not used: the buffers
//! `rotary_emb.inv_freq`, which older versions saved, and an `lm_head.weight` that repeats a tied
//! embedding. In a `blast_llama` checkpoint a layer `P` may be `P.B`, `P.C` and `P.D` in place of
//! `P.weight`, see [`super::blast_llama`].

use burn::tensor::{Device, FloatDType};

use super::tied_head::check_tied_head;
use super::{HEAD, RandomWeights, Recorder, WeightReader, Weights, blast_llama, load_head};
use crate::common::Positions;
use crate::layer::planned;
use crate::llama::{Llama, LlamaConfig};
use crate::stored::StoredParameters;
use crate::{
    Attention, Checkpoint, Family, LinearLayer, Mlp, ModelError, Plan, QueryKeyValue, Rotary,
    SeparateQueryKeyValue, TransformerBlock, WeightLayout, linear_layers as all_layers,
};

/// Linear layers per block, in the order of [`LlamaConfig::linear_layers`].
const PER_BLOCK: usize = 7;

/// The prefix of a checkpoint with a head.
const PREFIX: &str = "model.";

/// The prefix that the checkpoint puts before the names of the table.
fn prefix(checkpoint: &Checkpoint) -> &'static str {
    if checkpoint.entry("embed_tokens.weight").is_some() {
        ""
    } else {
        PREFIX
    }
}

/// The seven linear layers of every block, with the structures that a `blast_llama` gives them.
pub(crate) fn linear_layers(checkpoint: &Checkpoint) -> Result<Vec<LinearLayer>, ModelError> {
    let config = LlamaConfig::from_json(checkpoint.config_json(), &checkpoint.config_path())?;
    let prefix = prefix(checkpoint);
    let mut layers = config.layers(prefix);
    blast_llama::set_structures(checkpoint, prefix, &mut layers)?;
    Ok(layers)
}

impl LlamaConfig {
    /// The layers that compression may replace, named as in a checkpoint, all dense.
    pub fn linear_layers(&self) -> Vec<LinearLayer> {
        self.layers(PREFIX)
    }

    fn layers(&self, prefix: &str) -> Vec<LinearLayer> {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let query = self.num_attention_heads * self.head_dim;
        let key = self.num_key_value_heads * self.head_dim;
        let (attention_bias, mlp_bias) = (self.attention_bias, self.mlp_bias);
        let block: [(&str, usize, usize, bool); PER_BLOCK] = [
            ("self_attn.q_proj", hidden, query, attention_bias),
            ("self_attn.k_proj", hidden, key, attention_bias),
            ("self_attn.v_proj", hidden, key, attention_bias),
            ("self_attn.o_proj", query, hidden, attention_bias),
            ("mlp.gate_proj", hidden, inner, mlp_bias),
            ("mlp.up_proj", hidden, inner, mlp_bias),
            ("mlp.down_proj", inner, hidden, mlp_bias),
        ];
        let layers = (0..self.num_hidden_layers).flat_map(|n| {
            block.map(|(name, in_features, out_features, has_bias)| {
                let name = format!("{prefix}layers.{n}.{name}");
                let layout = WeightLayout::OutIn;
                LinearLayer::dense(name, in_features, out_features, layout, has_bias)
            })
        });
        layers.collect()
    }
}

/// Loads the model, strictly by the table above, and says where its parameters are stored.
pub(crate) fn load(
    checkpoint: &Checkpoint,
    device: &Device,
    dtype: FloatDType,
) -> Result<(Llama, StoredParameters), ModelError> {
    checkpoint.expect_family(Family::Llama)?;
    let config = LlamaConfig::from_json(checkpoint.config_json(), &checkpoint.config_path())?;
    let layers = all_layers(checkpoint)?;
    let mut reader = Recorder::new(WeightReader::new(checkpoint, device, dtype)?);
    let prefix = prefix(checkpoint);
    let model = build(&config, &layers, prefix, &mut reader)?;
    let (stored, reader) = reader.finish(&model);
    let tied = config.tie_word_embeddings;
    if tied {
        check_tied_head(checkpoint, &format!("{prefix}embed_tokens.weight"))?;
    }
    reader.finish(|name| (tied && name == HEAD) || name.ends_with("rotary_emb.inv_freq"))?;
    Ok((model, stored))
}

/// Makes the model with random weights, and says where its parameters are stored.
pub(crate) fn init(
    config: &LlamaConfig,
    plan: Option<&Plan>,
    device: &Device,
    dtype: FloatDType,
) -> Result<(Llama, StoredParameters), ModelError> {
    let layers = planned(config.linear_layers(), plan)?;
    let mut weights = Recorder::new(RandomWeights::new(device, dtype)?);
    let model = build(config, &layers, PREFIX, &mut weights)?;
    let (stored, _) = weights.finish(&model);
    Ok((model, stored))
}

fn build(
    config: &LlamaConfig,
    layers: &[LinearLayer],
    prefix: &str,
    weights: &mut impl Weights,
) -> Result<Llama, ModelError> {
    let table = [config.vocab_size, config.hidden_size];
    let embed_tokens = weights.embedding(&format!("{prefix}embed_tokens.weight"), table)?;
    let (hidden, epsilon) = (config.hidden_size, config.rms_norm_eps);
    let (per_block, _) = layers.as_chunks::<PER_BLOCK>();
    let mut blocks = Vec::with_capacity(config.num_hidden_layers);
    for (n, [query, key, value, output, gate, up, down]) in per_block.iter().enumerate() {
        let name = |norm: &str| format!("{prefix}layers.{n}.{norm}");
        let attention_norm = weights.rms_norm(&name("input_layernorm"), hidden, epsilon)?;
        let separate = SeparateQueryKeyValue {
            query: weights.linear(query)?,
            key: weights.linear(key)?,
            value: weights.linear(value)?,
        };
        let attention = Attention::new(
            QueryKeyValue::Separate(separate),
            weights.linear(output)?,
            config.heads(),
            config.attention_scale(),
        );
        let mlp_norm = weights.rms_norm(&name("post_attention_layernorm"), hidden, epsilon)?;
        let mlp = Mlp::gated(
            weights.linear(gate)?,
            weights.linear(up)?,
            weights.linear(down)?,
            config.hidden_act,
        );
        blocks.push(TransformerBlock {
            attention_norm,
            attention,
            mlp_norm,
            mlp,
        });
    }
    Ok(Llama {
        embed_tokens,
        blocks,
        norm: weights.rms_norm(&format!("{prefix}norm"), hidden, epsilon)?,
        head: load_head(weights, config.tie_word_embeddings, table)?,
        rotary: Rotary::new(&config.rotary, config.head_dim, weights.device()),
        positions: Positions::new(config.max_position_embeddings, weights.device()),
        config: config.clone(),
    })
}
