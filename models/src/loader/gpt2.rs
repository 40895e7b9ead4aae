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

use burn::nn::{Embedding, LayerNorm, LayerNormConfig};
use burn::tensor::{Device, FloatDType};

use super::{WeightReader, load_linear};
use crate::common::{CausalAttention, Mlp};
use crate::gpt2::{Gpt2, Gpt2Block, Gpt2Config};
use crate::{
    Checkpoint, Family, LinearLayer, ModelError, WeightLayout, linear_layers as all_layers,
};

const HEAD: &str = "lm_head.weight";

/// Linear layers per block, in the order of [`linear_layers`].
const PER_BLOCK: usize = 4;

/// The prefix that the checkpoint puts before the names of the table.
fn prefix(checkpoint: &Checkpoint) -> &'static str {
    if checkpoint.entry("wte.weight").is_some() {
        ""
    } else {
        "transformer."
    }
}

/// The four linear layers of every block.
pub(crate) fn linear_layers(checkpoint: &Checkpoint) -> Result<Vec<LinearLayer>, ModelError> {
    let config = Gpt2Config::from_json(checkpoint.config_json(), &checkpoint.config_path())?;
    Ok(config.linear_layers(prefix(checkpoint)))
}

impl Gpt2Config {
    /// The layers that compression may replace, named with `prefix`, all dense.
    pub(crate) fn linear_layers(&self, prefix: &str) -> Vec<LinearLayer> {
        let (embd, inner) = (self.n_embd, self.inner());
        let block: [(&str, usize, usize); PER_BLOCK] = [
            ("attn.c_attn", embd, 3 * embd),
            ("attn.c_proj", embd, embd),
            ("mlp.c_fc", embd, inner),
            ("mlp.c_proj", inner, embd),
        ];
        let layers = (0..self.n_layer).flat_map(|n| {
            block.map(|(name, in_features, out_features)| LinearLayer {
                name: format!("{prefix}h.{n}.{name}"),
                in_features,
                out_features,
                layout: WeightLayout::InOut,
                has_bias: true,
                structure: burn_blr::Structure::Dense,
            })
        });
        layers.collect()
    }
}

/// Loads the model, strictly by the table above.
pub(crate) fn load(
    checkpoint: &Checkpoint,
    device: &Device,
    dtype: FloatDType,
) -> Result<Gpt2, ModelError> {
    let family = checkpoint.family();
    if family != Family::Gpt2 {
        return Err(ModelError::WrongFamily {
            path: checkpoint.dir().to_path_buf(),
            found: family.model_type(),
            expected: Family::Gpt2.model_type(),
        });
    }
    let config = Gpt2Config::from_json(checkpoint.config_json(), &checkpoint.config_path())?;
    let layers = all_layers(checkpoint)?;
    let mut reader = WeightReader::new(checkpoint, device, dtype)?;
    let prefix = prefix(checkpoint);

    let token_embedding = Embedding {
        weight: reader.param(
            &format!("{prefix}wte.weight"),
            [config.vocab_size, config.n_embd],
        )?,
    };
    let position_embedding = Embedding {
        weight: reader.param(
            &format!("{prefix}wpe.weight"),
            [config.n_positions, config.n_embd],
        )?,
    };
    let (per_block, _) = layers.as_chunks::<PER_BLOCK>();
    let mut blocks = Vec::with_capacity(config.n_layer);
    for (n, [c_attn, attn_proj, c_fc, mlp_proj]) in per_block.iter().enumerate() {
        let ln_1 = load_norm(&mut reader, &config, &format!("{prefix}h.{n}.ln_1"), device)?;
        let attention = CausalAttention::new(
            load_linear(&mut reader, c_attn)?,
            load_linear(&mut reader, attn_proj)?,
            config.n_head,
            config.attention_scale(n),
        );
        let ln_2 = load_norm(&mut reader, &config, &format!("{prefix}h.{n}.ln_2"), device)?;
        let mlp = Mlp::new(
            load_linear(&mut reader, c_fc)?,
            load_linear(&mut reader, mlp_proj)?,
            config.activation,
        );
        blocks.push(Gpt2Block {
            ln_1,
            attention,
            ln_2,
            mlp,
        });
    }
    let ln_f = load_norm(&mut reader, &config, &format!("{prefix}ln_f"), device)?;
    let head = if config.tie_word_embeddings {
        check_tied_head(checkpoint, &format!("{prefix}wte.weight"))?;
        None
    } else {
        Some(reader.param(HEAD, [config.vocab_size, config.n_embd])?)
    };

    let tied = config.tie_word_embeddings;
    reader.finish(|name| (tied && name == HEAD) || is_buffer(name, prefix))?;
    Ok(Gpt2 {
        token_embedding,
        position_embedding,
        blocks,
        ln_f,
        head,
        config,
    })
}

/// A layer norm in `f32`, see [`crate::common::norm_in_f32`].
fn load_norm(
    reader: &mut WeightReader<'_>,
    config: &Gpt2Config,
    name: &str,
    device: &Device,
) -> Result<LayerNorm, ModelError> {
    let mut norm = LayerNormConfig::new(config.n_embd)
        .with_epsilon(config.layer_norm_epsilon)
        .init(device);
    norm.gamma = reader.f32_param(&format!("{name}.weight"), config.n_embd)?;
    norm.beta = Some(reader.f32_param(&format!("{name}.bias"), config.n_embd)?);
    Ok(norm)
}

/// A tied head that is stored all the same must repeat the embedding.
fn check_tied_head(checkpoint: &Checkpoint, embedding: &str) -> Result<(), ModelError> {
    let (Some(head), Some(wte)) = (checkpoint.entry(HEAD), checkpoint.entry(embedding)) else {
        return Ok(());
    };
    if head.dtype == wte.dtype && head.shape == wte.shape && head.bytes == wte.bytes {
        return Ok(());
    }
    Err(ModelError::TiedTensorDiffers {
        path: checkpoint.dir().to_path_buf(),
        tensor: HEAD.to_string(),
        tied_to: embedding.to_string(),
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
