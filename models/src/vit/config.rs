//! The configuration of a vision transformer.

use std::path::Path;

use serde_json::Value;

use super::timm;
use crate::checkpoint::{ConfigKeys, MAX_LAYERS};
use crate::common::GridInterpolation;
use crate::{Activation, Heads, ModelError};

/// The configuration of a vision transformer, with the names of the `config.json` of
/// `transformers` where it has one.
#[derive(Debug, Clone, PartialEq)]
pub struct VitConfig {
    /// Hidden width, 768 if not set.
    pub hidden_size: usize,
    /// Inner width of the MLP, 3072 if not set.
    pub intermediate_size: usize,
    /// Number of blocks, 12 if not set.
    pub num_hidden_layers: usize,
    /// Attention heads, 12 if not set; they divide `hidden_size`.
    pub num_attention_heads: usize,
    /// Activation of the MLP, `gelu` if not set.
    pub hidden_act: Activation,
    /// Added to the variance in every norm: 1e-12 if not set, 1e-6 in timm.
    pub layer_norm_eps: f64,
    /// Height and width of the images the model is made for, 224 if not set.
    pub image_size: [usize; 2],
    /// Height and width of a patch, 16 if not set.
    pub patch_size: [usize; 2],
    /// Colour channels, 3 if not set.
    pub num_channels: usize,
    /// Whether query, key and value have biases; true if not set.
    pub qkv_bias: bool,
    /// Whether the other layers of a block have biases; true but for timm's `proj_bias`.
    pub proj_bias: bool,
    /// Number of labels.
    pub num_labels: usize,
    /// Whether a class token stands before the patches; true but for timm's `class_token`.
    pub class_token: bool,
    /// Whether the class token has a position; true but for timm's `no_embed_class`.
    pub embed_class_token: bool,
    /// What the head looks at; the class token but for timm's `global_pool`.
    pub pooling: VitPooling,
    /// Whether the last norm comes after pooling: timm's `fc_norm`.
    pub norm_after_pooling: bool,
    /// Whose names and conventions the checkpoint follows.
    pub naming: VitNaming,
}

/// What the head of a vision transformer looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VitPooling {
    /// The first token.
    Token,
    /// The average of the patches.
    Average,
}

/// Whose names and conventions a checkpoint follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VitNaming {
    /// `ViTForImageClassification` of `transformers`: query, key and value are layers of their own,
    /// and position embeddings are interpolated without antialiasing.
    HuggingFace,
    /// `VisionTransformer` of timm: query, key and value are one layer, and position embeddings are
    /// interpolated with antialiasing.
    Timm,
}

impl VitNaming {
    /// How position embeddings are interpolated.
    pub(crate) fn interpolation(self) -> GridInterpolation {
        match self {
            VitNaming::HuggingFace => GridInterpolation::Plain,
            VitNaming::Timm => GridInterpolation::Antialiased,
        }
    }
}

impl VitConfig {
    /// ViT-B/16 with the names of timm
    /// ([`vit_base_patch16_224`](https://huggingface.co/timm/vit_base_patch16_224.augreg2_in21k_ft_in1k/blob/main/config.json)).
    pub fn vit_b_16() -> Self {
        Self {
            layer_norm_eps: 1e-6,
            num_labels: 1000,
            naming: VitNaming::Timm,
            ..Self::huggingface_default()
        }
    }

    /// ViT-B/8 with the names of timm
    /// ([`vit_base_patch8_224`](https://huggingface.co/timm/vit_base_patch8_224.augreg2_in21k_ft_in1k/blob/main/config.json)).
    pub fn vit_b_8() -> Self {
        Self {
            patch_size: [8, 8],
            ..Self::vit_b_16()
        }
    }

    /// The defaults of `transformers`.
    fn huggingface_default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            hidden_act: Activation::Gelu,
            layer_norm_eps: 1e-12,
            image_size: [224, 224],
            patch_size: [16, 16],
            num_channels: 3,
            qkv_bias: true,
            proj_bias: true,
            num_labels: 2,
            class_token: true,
            embed_class_token: true,
            pooling: VitPooling::Token,
            norm_after_pooling: false,
            naming: VitNaming::HuggingFace,
        }
    }

    /// Reads a `config.json` of `transformers`, or one of timm, which has an `architecture` and no
    /// `model_type`; `path` is where it came from, for the errors.
    ///
    /// Of timm's architectures `vit_SIZE_patchN_M` are read, the plain ones; with them the
    /// `model_args` that keep them plain.
    ///
    /// # Errors
    ///
    /// [`ModelError::InvalidKey`] and [`ModelError::MissingKey`] if a value is missing, has the wrong
    /// type or is not supported, heads do not divide the width, an image is smaller than a patch, or
    /// there are too many layers.
    pub fn from_json(json: &Value, path: &Path) -> Result<Self, ModelError> {
        let keys = ConfigKeys::new(path, json);
        if keys.holds("architecture") && !keys.holds("model_type") {
            return timm::config(&keys);
        }
        let default = Self::huggingface_default();
        let labels = json.get("id2label").and_then(Value::as_object);
        let num_labels = match labels {
            Some(labels) => labels.len(),
            None => keys.count("num_labels", default.num_labels)?,
        };
        if num_labels == 0 {
            return Err(keys.invalid("id2label", "at least one label"));
        }
        let config = Self {
            hidden_size: keys.count("hidden_size", default.hidden_size)?,
            intermediate_size: keys.count("intermediate_size", default.intermediate_size)?,
            num_hidden_layers: keys.count("num_hidden_layers", default.num_hidden_layers)?,
            num_attention_heads: keys.count("num_attention_heads", default.num_attention_heads)?,
            hidden_act: keys.activation("hidden_act", "gelu")?,
            layer_norm_eps: keys.positive("layer_norm_eps", default.layer_norm_eps)?,
            image_size: keys.sides("image_size")?.unwrap_or(default.image_size),
            patch_size: keys.sides("patch_size")?.unwrap_or(default.patch_size),
            num_channels: keys.count("num_channels", default.num_channels)?,
            qkv_bias: keys.flag("qkv_bias", default.qkv_bias)?,
            num_labels,
            ..default
        };
        config.check(
            &keys,
            &CheckedKeys {
                hidden: "hidden_size",
                layers: "num_hidden_layers",
                heads: "num_attention_heads",
                image: "image_size",
            },
        )?;
        Ok(config)
    }

    /// Checks what several values must fulfil together; `names` are their keys.
    pub(super) fn check(
        &self,
        keys: &ConfigKeys<'_>,
        names: &CheckedKeys,
    ) -> Result<(), ModelError> {
        if self.num_hidden_layers > MAX_LAYERS {
            return Err(keys.invalid(names.layers, format!("at most {MAX_LAYERS}")));
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let expected = format!("a divisor of {} {}", names.hidden, self.hidden_size);
            return Err(keys.invalid(names.heads, expected));
        }
        if self.grid().contains(&0) {
            let [height, width] = self.patch_size;
            let expected = format!("at least the size of a patch, {height} x {width}");
            return Err(keys.invalid(names.image, expected));
        }
        Ok(())
    }

    /// Rows and columns of patches in an image of the size the model is made for.
    pub fn grid(&self) -> [usize; 2] {
        let ([height, width], [patch_height, patch_width]) = (self.image_size, self.patch_size);
        [height / patch_height, width / patch_width]
    }

    /// Rows of the table of position embeddings.
    pub(crate) fn positions(&self) -> usize {
        let [rows, columns] = self.grid();
        rows * columns + usize::from(self.class_token && self.embed_class_token)
    }

    /// Heads and their width.
    pub(crate) fn heads(&self) -> Heads {
        Heads {
            query: self.num_attention_heads,
            key: self.num_attention_heads,
            width: self.hidden_size / self.num_attention_heads,
        }
    }

    /// What the product of query and key is multiplied with.
    pub(crate) fn attention_scale(&self) -> f64 {
        1.0 / ((self.hidden_size / self.num_attention_heads) as f64).sqrt()
    }
}

/// The keys that errors of [`VitConfig::check`] name.
pub(super) struct CheckedKeys {
    pub hidden: &'static str,
    pub layers: &'static str,
    pub heads: &'static str,
    pub image: &'static str,
}
