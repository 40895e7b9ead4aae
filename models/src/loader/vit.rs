//! The tensor names of vision transformers.
//!
//! Those of `transformers`, where `x` is `vit.` in a checkpoint of `ViTForImageClassification`; `h`
//! is `hidden_size`, `i` is `intermediate_size`, `n` the number of positions:
//!
//! | tensor | shape | becomes |
//! |---|---|---|
//! | `x` `embeddings.patch_embeddings.projection.weight`, `.bias` | `[h, channels, height, width]` | embedding of a patch |
//! | `x` `embeddings.cls_token` | `[1, 1, h]` | class token |
//! | `x` `embeddings.position_embeddings` | `[1, n, h]` | position embedding |
//! | `x` `encoder.layer.N.layernorm_before.weight`, `.bias` | `[h]` | norm before attention |
//! | `x` `encoder.layer.N.attention.attention.query.weight`, `.bias` | `[h, h]` | query; `key`, `value` likewise |
//! | `x` `encoder.layer.N.attention.output.dense.weight`, `.bias` | `[h, h]` | output of attention |
//! | `x` `encoder.layer.N.layernorm_after.weight`, `.bias` | `[h]` | norm before the MLP |
//! | `x` `encoder.layer.N.intermediate.dense.weight`, `.bias` | `[i, h]` | MLP, in |
//! | `x` `encoder.layer.N.output.dense.weight`, `.bias` | `[h, i]` | MLP, out |
//! | `x` `layernorm.weight`, `.bias` | `[h]` | last norm |
//! | `classifier.weight`, `.bias` | `[labels, h]` | head |
//!
//! Those of timm:
//!
//! | tensor | shape | becomes |
//! |---|---|---|
//! | `patch_embed.proj.weight`, `.bias` | `[h, channels, height, width]` | embedding of a patch |
//! | `cls_token` | `[1, 1, h]` | class token, unless `class_token` is false |
//! | `pos_embed` | `[1, n, h]` | position embedding |
//! | `blocks.N.norm1.weight`, `.bias` | `[h]` | norm before attention |
//! | `blocks.N.attn.qkv.weight`, `.bias` | `[3 h, h]` | query, key and value, joined |
//! | `blocks.N.attn.proj.weight`, `.bias` | `[h, h]` | output of attention |
//! | `blocks.N.norm2.weight`, `.bias` | `[h]` | norm before the MLP |
//! | `blocks.N.mlp.fc1.weight`, `.bias` | `[i, h]` | MLP, in |
//! | `blocks.N.mlp.fc2.weight`, `.bias` | `[h, i]` | MLP, out |
//! | `norm.weight`, `.bias`, or `fc_norm.weight`, `.bias` | `[h]` | last norm, before or after pooling |
//! | `head.weight`, `.bias` | `[labels, h]` | head |
//!
//! Weights are stored `[out, in]`. A checkpoint of `transformers` may hold factors of a joined layer
//! `attention.attention.qkv` in place of the weights of query, key and value, whose biases then stay
//! as they are. Not used: the `pooler` of a `ViTModel` that classification was trained on.

use burn::tensor::{Device, FloatDType};

use super::{RandomWeights, Recorder, WeightReader, Weights};
use crate::layer::planned;
use crate::stored::StoredParameters;
use crate::vit::{Vit, VitConfig, VitNaming};
use crate::{
    Attention, Checkpoint, Family, LinearLayer, Mlp, ModelError, Plan, QueryKeyValue,
    SeparateQueryKeyValue, TransformerBlock, WeightLayout, linear_layers as all_layers,
};

/// The names of one scheme.
struct Names {
    prefix: &'static str,
    patch: &'static str,
    class_token: &'static str,
    positions: &'static str,
    block: &'static str,
    norm_1: &'static str,
    qkv: &'static [&'static str],
    proj: &'static str,
    norm_2: &'static str,
    fc1: &'static str,
    fc2: &'static str,
    norm: &'static str,
    head: &'static str,
}

const HUGGING_FACE: Names = Names {
    prefix: "vit.",
    patch: "embeddings.patch_embeddings.projection",
    class_token: "embeddings.cls_token",
    positions: "embeddings.position_embeddings",
    block: "encoder.layer",
    norm_1: "layernorm_before",
    qkv: &[
        "attention.attention.query",
        "attention.attention.key",
        "attention.attention.value",
    ],
    proj: "attention.output.dense",
    norm_2: "layernorm_after",
    fc1: "intermediate.dense",
    fc2: "output.dense",
    norm: "layernorm",
    head: "classifier",
};

const TIMM: Names = Names {
    prefix: "",
    patch: "patch_embed.proj",
    class_token: "cls_token",
    positions: "pos_embed",
    block: "blocks",
    norm_1: "norm1",
    qkv: &["attn.qkv"],
    proj: "attn.proj",
    norm_2: "norm2",
    fc1: "mlp.fc1",
    fc2: "mlp.fc2",
    norm: "norm",
    head: "head",
};

/// The last norm of timm where it comes after pooling.
const TIMM_NORM_AFTER_POOLING: &str = "fc_norm";

impl VitConfig {
    fn names(&self) -> Names {
        match self.naming {
            VitNaming::HuggingFace => HUGGING_FACE,
            VitNaming::Timm if self.norm_after_pooling => Names {
                norm: TIMM_NORM_AFTER_POOLING,
                ..TIMM
            },
            VitNaming::Timm => TIMM,
        }
    }

    /// The layers that compression may replace, named as in a checkpoint, all dense.
    pub fn linear_layers(&self) -> Vec<LinearLayer> {
        let names = self.names();
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let joined = 3 * hidden / names.qkv.len();
        let mut block: Vec<(&str, usize, usize, bool)> = Vec::new();
        block.extend(
            names
                .qkv
                .iter()
                .map(|&name| (name, hidden, joined, self.qkv_bias)),
        );
        block.push((names.proj, hidden, hidden, self.proj_bias));
        block.push((names.fc1, hidden, inner, self.proj_bias));
        block.push((names.fc2, inner, hidden, self.proj_bias));
        let layers = (0..self.num_hidden_layers).flat_map(|n| {
            let stem = format!("{}{}.{n}", names.prefix, names.block);
            block
                .iter()
                .map(move |&(name, in_features, out_features, has_bias)| {
                    let name = format!("{stem}.{name}");
                    let layout = WeightLayout::OutIn;
                    LinearLayer::dense(name, in_features, out_features, layout, has_bias)
                })
        });
        layers.collect()
    }
}

/// The linear layers of every block.
pub(crate) fn linear_layers(checkpoint: &Checkpoint) -> Result<Vec<LinearLayer>, ModelError> {
    let config = VitConfig::from_json(checkpoint.config_json(), &checkpoint.config_path())?;
    Ok(config.linear_layers())
}

/// Loads the model, strictly by the tables above, and says where its parameters are stored.
pub(crate) fn load(
    checkpoint: &Checkpoint,
    device: &Device,
    dtype: FloatDType,
) -> Result<(Vit, StoredParameters), ModelError> {
    checkpoint.expect_family(Family::Vit)?;
    let config = VitConfig::from_json(checkpoint.config_json(), &checkpoint.config_path())?;
    let layers = all_layers(checkpoint)?;
    let mut reader = Recorder::new(WeightReader::new(checkpoint, device, dtype)?);
    let model = build(&config, &layers, &mut reader)?;
    let (stored, reader) = reader.finish(&model);
    let huggingface = config.naming == VitNaming::HuggingFace;
    reader.finish(|name| huggingface && name.starts_with("vit.pooler.dense."))?;
    Ok((model, stored))
}

/// Makes the model with random weights, and says where its parameters are stored.
pub(crate) fn init(
    config: &VitConfig,
    plan: Option<&Plan>,
    device: &Device,
    dtype: FloatDType,
) -> Result<(Vit, StoredParameters), ModelError> {
    let layers = planned(config.linear_layers(), plan)?;
    let mut weights = Recorder::new(RandomWeights::new(device, dtype)?);
    let model = build(config, &layers, &mut weights)?;
    let (stored, _) = weights.finish(&model);
    Ok((model, stored))
}

fn build(
    config: &VitConfig,
    layers: &[LinearLayer],
    weights: &mut impl Weights,
) -> Result<Vit, ModelError> {
    let names = config.names();
    let prefix = names.prefix;
    let (hidden, epsilon) = (config.hidden_size, config.layer_norm_eps);
    let [height, width] = config.patch_size;
    let patch = format!("{prefix}{}", names.patch);
    let kernel = [hidden, config.num_channels, height, width];
    let patch_embedding = weights.patch_embedding(&patch, kernel)?;
    let class_token = if config.class_token {
        Some(weights.parameter(&format!("{prefix}{}", names.class_token), [1, 1, hidden])?)
    } else {
        None
    };
    let positions = format!("{prefix}{}", names.positions);
    let mut blocks = Vec::with_capacity(config.num_hidden_layers);
    let mut rest = layers;
    while let Some((block, after)) = BlockLayers::split(rest, names.qkv.len()) {
        rest = after;
        let stem = format!("{prefix}{}.{}", names.block, blocks.len());
        let attention_norm =
            weights.layer_norm(&format!("{stem}.{}", names.norm_1), hidden, epsilon)?;
        let attention = Attention::new(
            block.query_key_value(weights)?,
            weights.linear(block.proj)?,
            config.heads(),
            config.attention_scale(),
        );
        let mlp_norm = weights.layer_norm(&format!("{stem}.{}", names.norm_2), hidden, epsilon)?;
        let mlp = Mlp::new(
            weights.linear(block.fc1)?,
            weights.linear(block.fc2)?,
            config.hidden_act,
        );
        blocks.push(TransformerBlock {
            attention_norm,
            attention,
            mlp_norm,
            mlp,
        });
    }
    let (labels, layout) = (config.num_labels, WeightLayout::OutIn);
    let head = LinearLayer::dense(names.head, hidden, labels, layout, true);
    Ok(Vit {
        patch_embedding,
        class_token,
        position_embedding: weights.parameter(&positions, [1, config.positions(), hidden])?,
        blocks,
        norm: weights.layer_norm(&format!("{prefix}{}", names.norm), hidden, epsilon)?,
        head: weights.linear(&head)?,
        config: config.clone(),
    })
}

/// The layers of one block.
struct BlockLayers<'a> {
    qkv: Qkv<'a>,
    proj: &'a LinearLayer,
    fc1: &'a LinearLayer,
    fc2: &'a LinearLayer,
}

/// Query, key and value as one layer or a layer each.
enum Qkv<'a> {
    Joined(&'a LinearLayer),
    Separate([&'a LinearLayer; 3]),
}

impl<'a> BlockLayers<'a> {
    /// The layers of the next block, in which `apart` layers make query, key and value unless they
    /// were joined, and what follows it.
    fn split(layers: &'a [LinearLayer], apart: usize) -> Option<(Self, &'a [LinearLayer])> {
        let (qkv, rest) = match layers {
            [joined, rest @ ..] if apart == 1 || joined.layout == WeightLayout::QueryKeyValue => {
                (Qkv::Joined(joined), rest)
            }
            [query, key, value, rest @ ..] => (Qkv::Separate([query, key, value]), rest),
            _ => return None,
        };
        let ([proj, fc1, fc2], rest) = rest.split_first_chunk()?;
        let block = Self {
            qkv,
            proj,
            fc1,
            fc2,
        };
        Some((block, rest))
    }

    fn query_key_value(&self, weights: &mut impl Weights) -> Result<QueryKeyValue, ModelError> {
        Ok(match self.qkv {
            Qkv::Joined(layer) => QueryKeyValue::Joined(weights.linear(layer)?),
            Qkv::Separate([query, key, value]) => QueryKeyValue::Separate(SeparateQueryKeyValue {
                query: weights.linear(query)?,
                key: weights.linear(key)?,
                value: weights.linear(value)?,
            }),
        })
    }
}
