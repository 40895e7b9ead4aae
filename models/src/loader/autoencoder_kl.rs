//! The tensor names of the decoder of `AutoencoderKL` of diffusers.
//!
//! `R` is a residual layer with `norm1`, `conv1`, `norm2`, `conv2` and, where the channels change,
//! `conv_shortcut`, each with `.weight` and `.bias`:
//!
//! | tensor | becomes |
//! |---|---|
//! | `post_quant_conv` | before the decoder |
//! | `decoder.conv_in` | from latents |
//! | `decoder.mid_block.resnets.0.R`, `.1.R` | the middle |
//! | `decoder.mid_block.attentions.0.group_norm`, `.to_q`, `.to_k`, `.to_v`, `.to_out.0` | its attention |
//! | `decoder.up_blocks.N.resnets.M.R` | the way up |
//! | `decoder.up_blocks.N.upsamplers.0.conv` | behind each doubling of the size |
//! | `decoder.conv_norm_out`, `decoder.conv_out` | to images |
//!
//! Older files name the layers of attention `.query`, `.key`, `.value` and `.proj_attn`. Not used:
//! the encoder, that is `encoder.` and `quant_conv.`.

use std::path::Path;

use burn::nn::{GroupNorm, GroupNormConfig};
use burn::tensor::{Device, FloatDType};
use burn_blr::BlrLinear;
use burn_blr::init::parameter;
use serde_json::Value;

use super::{WeightReader, Weights};
use crate::autoencoder_kl::{
    AutoencoderKl, AutoencoderKlConfig, Convolution, NORM_EPSILON, PixelAttention, ResidualLayer,
    UpBlock,
};
use crate::checkpoint::{StoredTensors, read_json};
use crate::{LinearLayer, ModelError, WeightFile, WeightLayout};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";
const ATTENTION: &str = "decoder.mid_block.attentions.0";

/// Loads the decoder, strictly by the table above.
pub(crate) fn load(dir: &Path, device: &Device) -> Result<AutoencoderKl, ModelError> {
    if !dir.is_dir() {
        return Err(ModelError::NotADirectory {
            path: dir.to_path_buf(),
        });
    }
    let path = dir.join(CONFIG);
    let json: Value = read_json(&path, "an autoencoder has a config.json beside its weights")?;
    let config = AutoencoderKlConfig::from_json(&json, &path)?;
    let path = dir.join(WEIGHTS);
    if !path.exists() {
        return Err(ModelError::MissingFile {
            path,
            expected: "the weights of an autoencoder as diffusers saves them",
        });
    }
    let tensors = StoredTensors::new(dir.to_path_buf(), vec![WeightFile::open(&path)?])?;
    let mut reader = WeightReader::of_tensors(&tensors, device, FloatDType::F32)?;
    let old_names = tensors
        .entry(&format!("{ATTENTION}.query.weight"))
        .is_some();
    let model = Builder {
        config: &config,
        old_names,
        weights: &mut reader,
    }
    .build()?;
    reader.finish(|name| name.starts_with("encoder.") || name.starts_with("quant_conv."))?;
    Ok(model)
}

/// The configuration, and where the weights come from.
struct Builder<'a, W> {
    config: &'a AutoencoderKlConfig,
    /// Whether attention has the names of older files.
    old_names: bool,
    weights: &'a mut W,
}

impl<W: Weights> Builder<'_, W> {
    fn build(&mut self) -> Result<AutoencoderKl, ModelError> {
        let config = self.config;
        let latent = config.latent_channels;
        let mut channels: Vec<usize> = config.block_out_channels.clone();
        channels.reverse();
        // The configuration has at least one block.
        let middle = channels.first().copied().unwrap_or_default();
        let last = channels.last().copied().unwrap_or_default();
        let post_quant = match config.use_post_quant_conv {
            true => Some(self.convolution("post_quant_conv", latent, latent, 1)?),
            false => None,
        };
        let conv_in = self.convolution("decoder.conv_in", latent, middle, 3)?;
        let mid_first = self.residual("decoder.mid_block.resnets.0", middle, middle)?;
        let mid_attention = match config.mid_block_add_attention {
            true => Some(self.attention(middle)?),
            false => None,
        };
        let mid_last = self.residual("decoder.mid_block.resnets.1", middle, middle)?;
        let mut up_blocks = Vec::with_capacity(channels.len());
        let mut before = middle;
        for (n, &out) in channels.iter().enumerate() {
            let mut layers = Vec::with_capacity(config.layers_per_block + 1);
            for m in 0..=config.layers_per_block {
                let name = format!("decoder.up_blocks.{n}.resnets.{m}");
                layers.push(self.residual(&name, before, out)?);
                before = out;
            }
            let name = format!("decoder.up_blocks.{n}.upsamplers.0.conv");
            let upsample = match n + 1 < channels.len() {
                true => Some(self.convolution(&name, out, out, 3)?),
                false => None,
            };
            up_blocks.push(UpBlock { layers, upsample });
        }
        Ok(AutoencoderKl {
            post_quant,
            conv_in,
            mid_first,
            mid_attention,
            mid_last,
            up_blocks,
            norm_out: self.norm("decoder.conv_norm_out", last)?,
            conv_out: self.convolution("decoder.conv_out", last, config.out_channels, 3)?,
            config: config.clone(),
        })
    }

    fn convolution(
        &mut self,
        name: &str,
        inputs: usize,
        outputs: usize,
        kernel: usize,
    ) -> Result<Convolution, ModelError> {
        let shape = [outputs, inputs, kernel, kernel];
        let weight = self.weights.kernel(&format!("{name}.weight"), shape)?;
        let bias = self.weights.bias(&format!("{name}.bias"), outputs)?;
        Ok(Convolution {
            weight: parameter(weight),
            bias: parameter(bias),
        })
    }

    fn norm(&mut self, name: &str, channels: usize) -> Result<GroupNorm, ModelError> {
        let config = GroupNormConfig::new(self.config.norm_num_groups, channels);
        let mut norm = config
            .with_epsilon(NORM_EPSILON)
            .init(self.weights.device());
        norm.gamma = Some(
            self.weights
                .norm_scale(&format!("{name}.weight"), channels)?,
        );
        norm.beta = Some(self.weights.norm_shift(&format!("{name}.bias"), channels)?);
        Ok(norm)
    }

    fn residual(
        &mut self,
        name: &str,
        inputs: usize,
        outputs: usize,
    ) -> Result<ResidualLayer, ModelError> {
        let shortcut = match inputs == outputs {
            true => None,
            false => {
                Some(self.convolution(&format!("{name}.conv_shortcut"), inputs, outputs, 1)?)
            }
        };
        Ok(ResidualLayer {
            norm1: self.norm(&format!("{name}.norm1"), inputs)?,
            conv1: self.convolution(&format!("{name}.conv1"), inputs, outputs, 3)?,
            norm2: self.norm(&format!("{name}.norm2"), outputs)?,
            conv2: self.convolution(&format!("{name}.conv2"), outputs, outputs, 3)?,
            shortcut,
        })
    }

    fn attention(&mut self, channels: usize) -> Result<PixelAttention, ModelError> {
        let [query, key, value, proj] = match self.old_names {
            true => ["query", "key", "value", "proj_attn"],
            false => ["to_q", "to_k", "to_v", "to_out.0"],
        };
        Ok(PixelAttention {
            norm: self.norm(&format!("{ATTENTION}.group_norm"), channels)?,
            query: self.linear(query, channels)?,
            key: self.linear(key, channels)?,
            value: self.linear(value, channels)?,
            proj: self.linear(proj, channels)?,
        })
    }

    fn linear(&mut self, name: &str, channels: usize) -> Result<BlrLinear, ModelError> {
        let (name, layout) = (format!("{ATTENTION}.{name}"), WeightLayout::OutIn);
        let layer = LinearLayer::dense(name, channels, channels, layout, true);
        self.weights.linear(&layer)
    }
}
