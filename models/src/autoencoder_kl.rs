//! The decoder of the KL autoencoder of [latent diffusion](https://arxiv.org/abs/2112.10752), as
//! `AutoencoderKL` of [diffusers](https://github.com/huggingface/diffusers) computes it.

use std::path::Path;

use burn::module::{Module, Param};
use burn::nn::GroupNorm;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, FloatDType, Tensor, activation, module};
use burn_blr::BlrLinear;
use serde_json::Value;

use crate::checkpoint::ConfigKeys;
use crate::dit::check_shape;
use crate::{ModelError, loader};

/// Added to the variance in every norm; diffusers has no other here.
pub(crate) const NORM_EPSILON: f64 = 1e-6;

/// Most channels or layers a configuration may ask for; a damaged number would otherwise exhaust the
/// memory before a missing tensor is noticed. The published decoders have 512 and 2.
const MOST: usize = 1 << 16;

/// The configuration of the decoder, with the names of its `config.json`. What only the encoder needs
/// is not read.
#[derive(Debug, Clone, PartialEq)]
pub struct AutoencoderKlConfig {
    /// Channels of the images, 3 if not set.
    pub out_channels: usize,
    /// Channels of the latents, 4 if not set.
    pub latent_channels: usize,
    /// Channels of each block of the encoder; the decoder has them last to first. Each block but the
    /// last doubles the size. `[64]` if not set.
    pub block_out_channels: Vec<usize>,
    /// Residual layers of a block of the encoder; those of the decoder have one more. 1 if not set.
    pub layers_per_block: usize,
    /// Groups of every norm, a divisor of all channels, 32 if not set.
    pub norm_num_groups: usize,
    /// What latents were multiplied with for the diffusion model, 0.18215 if not set.
    pub scaling_factor: f64,
    /// Whether a convolution stands before the decoder; true if not set.
    pub use_post_quant_conv: bool,
    /// Whether the middle block has attention; true if not set.
    pub mid_block_add_attention: bool,
}

impl AutoencoderKlConfig {
    /// Reads a `config.json`; `path` is where it came from, for the errors.
    ///
    /// # Errors
    ///
    /// [`ModelError::InvalidKey`] if a value has the wrong type, the groups do not divide, or the
    /// decoder is of a kind that is not read.
    pub fn from_json(json: &Value, path: &Path) -> Result<Self, ModelError> {
        let keys = ConfigKeys::new(path, json);
        let channels = "block_out_channels";
        let block_out_channels = match keys.get(channels) {
            None => Some(vec![64]),
            Some(value) => value.as_array().and_then(|values| {
                let count = |value: &Value| {
                    let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
                    count.filter(|count| (1..=MOST).contains(count))
                };
                values.iter().map(count).collect::<Option<Vec<_>>>()
            }),
        };
        let block_out_channels = block_out_channels
            .filter(|channels| !channels.is_empty())
            .ok_or_else(|| keys.invalid(channels, "a list of channel counts"))?;
        let kinds = "up_block_types";
        let plain = match keys.get(kinds) {
            None => true,
            Some(value) => value.as_array().is_some_and(|kinds| {
                kinds.len() == block_out_channels.len()
                    && kinds
                        .iter()
                        .all(|kind| kind.as_str() == Some("UpDecoderBlock2D"))
            }),
        };
        if !plain {
            return Err(keys.invalid(kinds, "UpDecoderBlock2D for each of block_out_channels"));
        }
        if keys.text("act_fn", "silu")? != "silu" {
            return Err(keys.invalid("act_fn", "silu"));
        }
        for key in ["shift_factor", "latents_mean", "latents_std"] {
            if keys.holds(key) {
                return Err(keys.invalid(key, "null: latents are scaled and not shifted"));
            }
        }
        let config = Self {
            out_channels: keys.count("out_channels", 3)?,
            latent_channels: keys.count("latent_channels", 4)?,
            block_out_channels,
            layers_per_block: keys.count("layers_per_block", 1)?,
            norm_num_groups: keys.count("norm_num_groups", 32)?,
            scaling_factor: keys.positive("scaling_factor", 0.18215)?,
            use_post_quant_conv: keys.flag("use_post_quant_conv", true)?,
            mid_block_add_attention: keys.flag("mid_block_add_attention", true)?,
        };
        let groups = config.norm_num_groups;
        let divides = |&channels: &usize| channels.is_multiple_of(groups);
        if !config.block_out_channels.iter().all(divides) {
            let expected = format!(
                "a divisor of block_out_channels {:?}",
                config.block_out_channels
            );
            return Err(keys.invalid("norm_num_groups", expected));
        }
        for (key, value) in [
            ("layers_per_block", config.layers_per_block),
            ("out_channels", config.out_channels),
            ("latent_channels", config.latent_channels),
        ] {
            if value > MOST {
                return Err(keys.invalid(key, format!("at most {MOST}")));
            }
        }
        Ok(config)
    }

    /// Side of an image over the side of its latent.
    pub fn scale(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}

/// A convolution with a bias that keeps height and width: of odd kernels, padded with zeros.
#[derive(Module, Debug)]
pub struct Convolution {
    /// `[out, in, kernel, kernel]`.
    pub weight: Param<Tensor<4>>,
    /// `[out]`.
    pub bias: Param<Tensor<1>>,
}

impl Convolution {
    /// # Shapes
    ///
    /// - `x`: `[batch, in, height, width]`
    /// - output: `[batch, out, height, width]`
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, kernel, _] = self.weight.dims();
        let around = kernel / 2;
        let options = ConvOptions::new([1, 1], [around, around], [1, 1], 1);
        module::conv2d(x, self.weight.val(), Some(self.bias.val()), options)
    }
}

/// A residual layer: `x + conv2(silu(norm2(conv1(silu(norm1(x))))))`.
#[derive(Module, Debug)]
pub struct ResidualLayer {
    /// Norm of the input.
    pub norm1: GroupNorm,
    /// From the channels in to those out.
    pub conv1: Convolution,
    /// Norm between the convolutions.
    pub norm2: GroupNorm,
    /// From the channels out to the same.
    pub conv2: Convolution,
    /// Brings the input to the channels out, where they differ.
    pub shortcut: Option<Convolution>,
}

impl ResidualLayer {
    /// # Shapes
    ///
    /// - `x`: `[batch, in, height, width]`
    /// - output: `[batch, out, height, width]`
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let inner = activation::silu(self.norm1.forward(x.clone()));
        let inner = activation::silu(self.norm2.forward(self.conv1.forward(inner)));
        let x = match &self.shortcut {
            None => x,
            Some(shortcut) => shortcut.forward(x),
        };
        x + self.conv2.forward(inner)
    }
}

/// Attention of one head over all pixels, added to its input.
#[derive(Module, Debug)]
pub struct PixelAttention {
    /// Norm of the input.
    pub norm: GroupNorm,
    /// Query, `[channels] -> [channels]`.
    pub query: BlrLinear,
    /// Key, `[channels] -> [channels]`.
    pub key: BlrLinear,
    /// Value, `[channels] -> [channels]`.
    pub value: BlrLinear,
    /// Output, `[channels] -> [channels]`.
    pub proj: BlrLinear,
}

impl PixelAttention {
    /// # Shapes
    ///
    /// - `x`, output: `[batch, channels, height, width]`
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        // [batch, channels, height, width] -> [batch, pixels, channels]
        let pixels = self.norm.forward(x.clone());
        let pixels = pixels.reshape([batch, channels, height * width]);
        let pixels = pixels.swap_dims(1, 2);
        let query = self.query.forward(pixels.clone()) * (1.0 / (channels as f64).sqrt());
        let key = self.key.forward(pixels.clone());
        let scores = query.matmul(key.swap_dims(1, 2)); // [batch, pixels, pixels]
        let mixed = activation::softmax(scores, 2).matmul(self.value.forward(pixels));
        // [batch, pixels, channels] -> [batch, channels, height, width]
        let mixed = self.proj.forward(mixed).swap_dims(1, 2);
        x + mixed.reshape([batch, channels, height, width])
    }
}

/// A block of the way up: residual layers, and but for the last block twice the size behind them.
#[derive(Module, Debug)]
pub struct UpBlock {
    /// The residual layers, first to last.
    pub layers: Vec<ResidualLayer>,
    /// The convolution behind the doubling of the size, where there is one.
    pub upsample: Option<Convolution>,
}

impl UpBlock {
    /// # Shapes
    ///
    /// - `x`: `[batch, in, height, width]`
    /// - output: `[batch, out, height, width]`, or twice height and width
    fn forward(&self, mut x: Tensor<4>) -> Tensor<4> {
        for layer in &self.layers {
            x = layer.forward(x);
        }
        match &self.upsample {
            None => x,
            Some(conv) => conv.forward(doubled(x)),
        }
    }
}

/// Repeats every pixel twice along both sides.
///
/// # Shapes
///
/// - `x`: `[batch, channels, height, width]`
/// - output: `[batch, channels, 2 height, 2 width]`
fn doubled(x: Tensor<4>) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    x.reshape([batch, channels, height, 1, width, 1])
        .expand([batch, channels, height, 2, width, 2])
        .reshape([batch, channels, 2 * height, 2 * width])
}

/// The decoder of a KL autoencoder, from latents to images. Load it with [`AutoencoderKl::load`].
#[derive(Module, Debug)]
pub struct AutoencoderKl {
    /// Before the decoder, where there is one.
    pub post_quant: Option<Convolution>,
    /// From the channels of the latents to those of the middle.
    pub conv_in: Convolution,
    /// The middle: a residual layer,
    pub mid_first: ResidualLayer,
    /// attention, where there is one,
    pub mid_attention: Option<PixelAttention>,
    /// and another residual layer.
    pub mid_last: ResidualLayer,
    /// The way up, smallest images first.
    pub up_blocks: Vec<UpBlock>,
    /// The last norm.
    pub norm_out: GroupNorm,
    /// To the channels of the images.
    pub conv_out: Convolution,
    #[module(skip)]
    pub(crate) config: AutoencoderKlConfig,
}

impl AutoencoderKl {
    /// Loads the decoder of the directory `dir`, with `config.json` and
    /// `diffusion_pytorch_model.safetensors` as diffusers saves them, onto `device`.
    ///
    /// Weights are `f32`: the activations of the published decoders leave the range of `f16`.
    ///
    /// # Errors
    ///
    /// [`ModelError::NotADirectory`], [`ModelError::MissingFile`], [`ModelError::Io`],
    /// [`ModelError::Json`] and [`ModelError::InvalidWeights`] for files that cannot be read,
    /// [`ModelError::InvalidKey`] for a configuration that cannot be used, and the errors of
    /// [`crate::Dit::load`] for weights that are not those of the configuration.
    pub fn load(dir: impl AsRef<Path>, device: &Device) -> Result<Self, ModelError> {
        loader::autoencoder_kl::load(dir.as_ref(), device)
    }

    /// The configuration.
    pub fn config(&self) -> &AutoencoderKlConfig {
        &self.config
    }

    /// Decodes latents as the diffusion model makes them, which are first divided by
    /// `scaling_factor`.
    ///
    /// # Shapes
    ///
    /// - `latents`: `[batch, latent channels, height, width]`
    /// - output: `[batch, out channels, s height, s width]` with `s` of
    ///   [`AutoencoderKlConfig::scale`], `f32`, pixels from -1 to 1 and not clipped
    ///
    /// # Errors
    ///
    /// [`ModelError::InputShape`] if the latents have other channels.
    pub fn decode_scaled(&self, latents: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        self.decode(latents / self.config.scaling_factor)
    }

    /// Decodes latents.
    ///
    /// # Shapes
    ///
    /// - those of [`Self::decode_scaled`]
    ///
    /// # Errors
    ///
    /// [`ModelError::InputShape`] if the latents have other channels.
    pub fn decode(&self, latents: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        let [batch, _, height, width] = latents.dims();
        let needed = [batch, self.config.latent_channels, height, width];
        check_shape("latents", &latents.dims(), &needed)?;
        let mut x = latents.cast(FloatDType::F32);
        if let Some(conv) = &self.post_quant {
            x = conv.forward(x);
        }
        x = self.mid_first.forward(self.conv_in.forward(x));
        if let Some(attention) = &self.mid_attention {
            x = attention.forward(x);
        }
        x = self.mid_last.forward(x);
        for block in &self.up_blocks {
            x = block.forward(x);
        }
        Ok(self
            .conv_out
            .forward(activation::silu(self.norm_out.forward(x))))
    }
}
