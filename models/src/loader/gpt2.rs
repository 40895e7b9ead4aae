//! The tensor names of GPT-2.
//!
//! `x` is `transformer.` in a checkpoint of `GPT2LMHeadModel` and empty in one of `GPT2Model`:
//!
//! | tensor | shape | becomes |
//! |---|---|---|
//! | `x` `wte.weight` | `[vocab, n_embd]` | token embedding, and the head when tied |
//! | `x` `wpe.weight` | `[n_positions, n_embd]` | position embedding |
//! | `x` `h.N.ln_1.weight`, `.bias` | `[n_embd]` | norm before attention |
//! | `x` `h.N.attn.c_attn.weight`, `.bias` | `[n_embd, 3 n_embd]` | query, key and value, joined |
//! | `x` `h.N.attn.c_proj.weight`, `.bias` | `[n_embd, n_embd]` | output of attention |
//! | `x` `h.N.ln_2.weight`, `.bias` | `[n_embd]` | norm before the MLP |
//! | `x` `h.N.mlp.c_fc.weight`, `.bias` | `[n_embd, n_inner]` | MLP, in |
//! | `x` `h.N.mlp.c_proj.weight`, `.bias` | `[n_inner, n_embd]` | MLP, out |
//! | `x` `ln_f.weight`, `.bias` | `[n_embd]` | last norm |
//! | `lm_head.weight` | `[vocab, n_embd]` | head, when `tie_word_embeddings` is false |
//!
//! The four linear layers are `Conv1D` in `transformers`: their weights are stored `[in, out]`,
//! the other way round from every other family. Not used: the buffers `h.N.attn.bias` (the causal
//! mask) and `h.N.attn.masked_bias`, and an `lm_head.weight` that repeats a tied `wte.weight`.

use burn::tensor::{Device, FloatDType};

use super::tied_head::check_tied_head;
use super::{HEAD, RandomWeights, Recorder, WeightReader, Weights, load_head};
use crate::common::Positions;
use crate::gpt2::{Gpt2, Gpt2Config};
use crate::layer::planned;
use crate::stored::StoredParameters;
use crate::{
    Attention, Checkpoint, Family, LinearLayer, Mlp, ModelError, Plan, QueryKeyValue,
    TransformerBlock, WeightLayout, linear_layers as all_layers,
};

/// Linear layers per block, in the order of [`Gpt2Config::linear_layers`].
const PER_BLOCK: usize = 4;

/// The prefix of a checkpoint with a head.
const PREFIX: &str = "transformer.";

/// The prefix that the checkpoint puts before the names of the table.
fn prefix(checkpoint: &Checkpoint) -> &'static str {
    if checkpoint.entry("wte.weight").is_some() {
        ""
    } else {
        PREFIX
    }
}

/// The four linear layers of every block.
pub(crate) fn linear_layers(checkpoint: &Checkpoint) -> Result<Vec<LinearLayer>, ModelError> {
    let config = Gpt2Config::from_json(checkpoint.config_json(), &checkpoint.config_path())?;
    Ok(config.layers(prefix(checkpoint)))
}

impl Gpt2Config {
    /// The layers that compression may replace, named as in a checkpoint, all dense.
    pub fn linear_layers(&self) -> Vec<LinearLayer> {
        self.layers(PREFIX)
    }

    fn layers(&self, prefix: &str) -> Vec<LinearLayer> {
        let (embd, inner) = (self.n_embd, self.inner());
        let block: [(&str, usize, usize); PER_BLOCK] = [
            ("attn.c_attn", embd, 3 * embd),
            ("attn.c_proj", embd, embd),
            ("mlp.c_fc", embd, inner),
            ("mlp.c_proj", inner, embd),
        ];
        let layers = (0..self.n_layer).flat_map(|n| {
            block.map(|(name, in_features, out_features)| {
                let name = format!("{prefix}h.{n}.{name}");
                LinearLayer::dense(name, in_features, out_features, WeightLayout::InOut, true)
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
) -> Result<(Gpt2, StoredParameters), ModelError> {
    checkpoint.expect_family(Family::Gpt2)?;
    let config = Gpt2Config::from_json(checkpoint.config_json(), &checkpoint.config_path())?;
    let layers = all_layers(checkpoint)?;
    let mut reader = Recorder::new(WeightReader::new(checkpoint, device, dtype)?);
    let prefix = prefix(checkpoint);
    let model = build(&config, &layers, prefix, &mut reader)?;
    let (stored, reader) = reader.finish(&model);
    let tied = config.tie_word_embeddings;
    if tied {
        check_tied_head(checkpoint, &format!("{prefix}wte.weight"))?;
    }
    reader.finish(|name| (tied && name == HEAD) || is_buffer(name, prefix))?;
    Ok((model, stored))
}

/// Makes the model with random weights, and says where its parameters are stored.
pub(crate) fn init(
    config: &Gpt2Config,
    plan: Option<&Plan>,
    device: &Device,
    dtype: FloatDType,
) -> Result<(Gpt2, StoredParameters), ModelError> {
    let layers = planned(config.linear_layers(), plan)?;
    let mut weights = Recorder::new(RandomWeights::new(device, dtype)?);
    let model = build(config, &layers, PREFIX, &mut weights)?;
    let (stored, _) = weights.finish(&model);
    Ok((model, stored))
}

fn build(
    config: &Gpt2Config,
    layers: &[LinearLayer],
    prefix: &str,
    weights: &mut impl Weights,
) -> Result<Gpt2, ModelError> {
    let table = [config.vocab_size, config.n_embd];
    let positions = [config.n_positions, config.n_embd];
    let token_embedding = weights.embedding(&format!("{prefix}wte.weight"), table)?;
    let position_embedding = weights.embedding(&format!("{prefix}wpe.weight"), positions)?;
    let epsilon = config.layer_norm_epsilon;
    let (per_block, _) = layers.as_chunks::<PER_BLOCK>();
    let mut blocks = Vec::with_capacity(config.n_layer);
    for (n, [c_attn, attn_proj, c_fc, mlp_proj]) in per_block.iter().enumerate() {
        let attention_norm =
            weights.layer_norm(&format!("{prefix}h.{n}.ln_1"), config.n_embd, epsilon)?;
        let attention = Attention::new(
            QueryKeyValue::Joined(weights.linear(c_attn)?),
            weights.linear(attn_proj)?,
            config.heads(),
            config.attention_scale(n),
        );
        let mlp_norm =
            weights.layer_norm(&format!("{prefix}h.{n}.ln_2"), config.n_embd, epsilon)?;
        let mlp = Mlp::new(
            weights.linear(c_fc)?,
            weights.linear(mlp_proj)?,
            config.activation,
        );
        blocks.push(TransformerBlock {
            attention_norm,
            attention,
            mlp_norm,
            mlp,
        });
    }
    Ok(Gpt2 {
        token_embedding,
        position_embedding,
        blocks,
        ln_f: weights.layer_norm(&format!("{prefix}ln_f"), config.n_embd, epsilon)?,
        head: load_head(weights, config.tie_word_embeddings, table)?,
        positions: Positions::new(config.n_positions, weights.device()),
        config: config.clone(),
    })
}

/// Whether `name` is `h.N.attn.bias` or `h.N.attn.masked_bias`.
fn is_buffer(name: &str, prefix: &str) -> bool {
    let Some(rest) = name
        .strip_prefix(prefix)
        .and_then(|name| name.strip_prefix("h."))
    else {
        return false;
    };
    matches!(
        rest.split_once('.'),
        Some((n, "attn.bias" | "attn.masked_bias")) if n.parse::<usize>().is_ok()
    )
}
