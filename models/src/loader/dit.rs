//! The tensor names of DiT, those of the official code.
//!
//! `h` is `hidden_size`, `p` is `patch_size`, `c` and `o` are the channels in and out:
//!
//! | tensor | shape | becomes |
//! |---|---|---|
//! | `pos_embed` | `[1, patches, h]` | positions; computed where it is not stored |
//! | `x_embedder.proj.weight`, `.bias` | `[h, c, p, p]` | embedding of a patch |
//! | `t_embedder.mlp.0.weight`, `.bias` | `[h, 256]` | timestep, in |
//! | `t_embedder.mlp.2.weight`, `.bias` | `[h, h]` | timestep, out |
//! | `y_embedder.embedding_table.weight` | `[classes, h]` | labels, the null class last |
//! | `blocks.N.attn.qkv.weight`, `.bias` | `[3 h, h]` | query, key and value, joined |
//! | `blocks.N.attn.proj.weight`, `.bias` | `[h, h]` | output of attention |
//! | `blocks.N.mlp.fc1.weight`, `.bias` | `[mlp_ratio h, h]` | MLP, in |
//! | `blocks.N.mlp.fc2.weight`, `.bias` | `[h, mlp_ratio h]` | MLP, out |
//! | `blocks.N.adaLN_modulation.1.weight`, `.bias` | `[6 h, h]` | shift, scale and gate, twice |
//! | `final_layer.adaLN_modulation.1.weight`, `.bias` | `[2 h, h]` | shift and scale |
//! | `final_layer.linear.weight`, `.bias` | `[p p o, h]` | tokens to patches |
//!
//! Weights are stored `[out, in]`. The five layers of every block may be replaced by plans; the norms
//! have no weights.

use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};

use super::{RandomWeights, Recorder, WeightReader, Weights};
use crate::dit::{Dit, DitBlock, DitConfig, DitFinalLayer, TIMESTEP_FEATURES, TimestepEmbedding};
use crate::layer::planned;
use crate::stored::StoredParameters;
use crate::{
    Activation, Attention, Checkpoint, Family, LinearLayer, Mlp, ModelError, Plan, QueryKeyValue,
    WeightLayout, linear_layers as all_layers,
};

/// Linear layers per block, in the order of [`DitConfig::linear_layers`].
const PER_BLOCK: usize = 5;

const POSITIONS: &str = "pos_embed";

/// The five linear layers of every block.
pub(crate) fn linear_layers(checkpoint: &Checkpoint) -> Result<Vec<LinearLayer>, ModelError> {
    let config = DitConfig::from_json(checkpoint.config_json(), &checkpoint.config_path())?;
    Ok(config.linear_layers())
}

impl DitConfig {
    /// The layers that compression may replace, named as in a checkpoint, all dense.
    pub fn linear_layers(&self) -> Vec<LinearLayer> {
        let (hidden, inner) = (self.hidden_size, self.mlp_features());
        let block: [(&str, usize, usize); PER_BLOCK] = [
            ("attn.qkv", hidden, 3 * hidden),
            ("attn.proj", hidden, hidden),
            ("mlp.fc1", hidden, inner),
            ("mlp.fc2", inner, hidden),
            ("adaLN_modulation.1", hidden, 6 * hidden),
        ];
        let layers = (0..self.depth).flat_map(|n| {
            block.map(|(name, in_features, out_features)| {
                dense(format!("blocks.{n}.{name}"), in_features, out_features)
            })
        });
        layers.collect()
    }
}

/// A dense layer with a bias.
fn dense(name: impl Into<String>, in_features: usize, out_features: usize) -> LinearLayer {
    LinearLayer::dense(name, in_features, out_features, WeightLayout::OutIn, true)
}

/// Loads the model, strictly by the table above, and says where its parameters are stored.
pub(crate) fn load(
    checkpoint: &Checkpoint,
    device: &Device,
    dtype: FloatDType,
) -> Result<(Dit, StoredParameters), ModelError> {
    checkpoint.expect_family(Family::Dit)?;
    let config = DitConfig::from_json(checkpoint.config_json(), &checkpoint.config_path())?;
    let layers = all_layers(checkpoint)?;
    let mut reader = Recorder::new(WeightReader::new(checkpoint, device, dtype)?);
    let mut model = build(&config, &layers, dtype, &mut reader)?;
    let (stored, mut reader) = reader.finish(&model);
    if checkpoint.entry(POSITIONS).is_some() {
        model.positions = reader.tensor(POSITIONS, model.positions.dims())?;
    }
    reader.finish(|_| false)?;
    Ok((model, stored))
}

/// Makes the model with random weights, and says where its parameters are stored.
pub(crate) fn init(
    config: &DitConfig,
    plan: Option<&Plan>,
    device: &Device,
    dtype: FloatDType,
) -> Result<(Dit, StoredParameters), ModelError> {
    let layers = planned(config.linear_layers(), plan)?;
    let mut weights = Recorder::new(RandomWeights::new(device, dtype)?);
    let model = build(config, &layers, dtype, &mut weights)?;
    let (stored, _) = weights.finish(&model);
    Ok((model, stored))
}

fn build(
    config: &DitConfig,
    layers: &[LinearLayer],
    dtype: FloatDType,
    weights: &mut impl Weights,
) -> Result<Dit, ModelError> {
    let (hidden, patch) = (config.hidden_size, config.patch_size);
    let kernel = [hidden, config.in_channels, patch, patch];
    let patch_embedding = weights.patch_embedding("x_embedder.proj", kernel)?;
    let timestep = TimestepEmbedding::new(
        weights.linear(&dense("t_embedder.mlp.0", TIMESTEP_FEATURES, hidden))?,
        weights.linear(&dense("t_embedder.mlp.2", hidden, hidden))?,
        weights.device(),
    );
    let table = [config.labels(), hidden];
    let labels = weights.embedding("y_embedder.embedding_table.weight", table)?;

    let scale = 1.0 / (config.heads().width as f64).sqrt();
    let (per_block, _) = layers.as_chunks::<PER_BLOCK>();
    let mut blocks = Vec::with_capacity(config.depth);
    for [qkv, proj, fc1, fc2, modulation] in per_block {
        blocks.push(DitBlock {
            attention: Attention::new(
                QueryKeyValue::Joined(weights.linear(qkv)?),
                weights.linear(proj)?,
                config.heads(),
                scale,
            ),
            mlp: Mlp::new(
                weights.linear(fc1)?,
                weights.linear(fc2)?,
                Activation::GeluTanh,
            ),
            modulation: Some(weights.linear(modulation)?),
        });
    }

    let pixels = patch * patch * config.out_channels();
    let final_layer = DitFinalLayer {
        modulation: weights.linear(&dense("final_layer.adaLN_modulation.1", hidden, 2 * hidden))?,
        proj: weights.linear(&dense("final_layer.linear", hidden, pixels))?,
    };
    let shape = [1, config.side() * config.side(), hidden];
    let positions = TensorData::new(config.positions(), shape);
    let device = weights.device();
    Ok(Dit {
        patch_embedding,
        timestep,
        labels,
        blocks,
        modulation: None,
        final_layer,
        positions: Tensor::from_data(positions, (device, DType::from(dtype))),
        config: config.clone(),
    })
}
