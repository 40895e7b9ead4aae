//! The plain vision transformer, [Dosovitskiy et al. 2020](https://arxiv.org/abs/2010.11929), as
//! `ViTForImageClassification` of Hugging Face `transformers`
//! ([model card](https://huggingface.co/google/vit-base-patch16-224)) and `VisionTransformer` of timm
//! compute it.

mod config;
mod timm;

use burn::module::{Module, Param};
use burn::tensor::{Device, FloatDType, Tensor};
use burn_blr::BlrLinear;
use burn_blr::network::VisibleKeys;
use burn_blr::ops::concatenate;

use crate::common::{ResidualStream, interpolate_grid};
use crate::{Checkpoint, ModelError, PatchEmbedding, Plan, TokenNorm, TransformerBlock, loader};

pub use config::{VitConfig, VitNaming, VitPooling};

/// A vision transformer with its classification head. Load it with [`Vit::load`], or make one with
/// random weights with [`Vit::init`].
///
/// Norms, softmax and the interpolation of position embeddings are computed in `f32`, everything
/// else in the dtype of the weights.
#[derive(Module, Debug)]
pub struct Vit {
    /// Embedding of the patches.
    pub patch_embedding: PatchEmbedding,
    /// What stands before the patches, `[1, 1, hidden_size]`, where there is one.
    pub class_token: Option<Param<Tensor<3>>>,
    /// Position embedding, `[1, positions, hidden_size]`: of the class token where it has one, then
    /// of the patches, row by row.
    pub position_embedding: Param<Tensor<3>>,
    /// The blocks, first to last.
    pub blocks: Vec<TransformerBlock>,
    /// Norm before the head; before or after pooling.
    pub norm: TokenNorm,
    /// Head, `[hidden_size] -> [num_labels]`.
    pub head: BlrLinear,
    #[module(skip)]
    pub(crate) config: VitConfig,
}

impl Vit {
    /// Loads a checkpoint onto `device` with weights of `dtype`.
    ///
    /// # Errors
    ///
    /// [`ModelError::MissingTensor`], [`ModelError::UnusedTensor`], [`ModelError::TensorShape`],
    /// [`ModelError::TensorDtype`] and [`ModelError::NonFiniteWeight`] for weights that are not those
    /// of the configuration; [`ModelError::InvalidKey`], [`ModelError::MissingKey`],
    /// [`ModelError::UnknownBlrLayer`] and [`ModelError::Structure`] for a configuration that cannot
    /// be used; [`ModelError::UnsupportedDtype`] if the device cannot compute in `dtype`.
    pub fn load(
        checkpoint: &Checkpoint,
        device: &Device,
        dtype: FloatDType,
    ) -> Result<Self, ModelError> {
        let (model, _) = loader::vit::load(checkpoint, device, dtype)?;
        Ok(model)
    }

    /// Makes a model with random weights on `device`, its linear layers as `plan` says, or dense.
    ///
    /// The layers are named as in a checkpoint, `blocks.0.attn.qkv` and so on with the names of timm.
    ///
    /// ```
    /// use burn::tensor::{Device, FloatDType, Tensor};
    /// use burn_blr::Method;
    /// use models::{Plan, Vit, VitConfig};
    ///
    /// # fn main() -> Result<(), models::ModelError> {
    /// # let small = VitConfig {
    /// #     hidden_size: 48,
    /// #     intermediate_size: 96,
    /// #     num_hidden_layers: 2,
    /// #     num_attention_heads: 3,
    /// #     ..VitConfig::vit_b_16()
    /// # };
    /// let config = VitConfig::vit_b_16();
    /// # let config = small;
    /// let plan = Plan::keep(Method::Blast, 0.5); // or Plan::preset("vit_b", Method::Blast)?
    /// let model = Vit::init(&config, Some(&plan), &Device::flex(), FloatDType::F32)?;
    ///
    /// let logits = model.forward(Tensor::zeros([1, 3, 224, 224], &Device::flex()))?;
    /// assert_eq!(logits.dims(), [1, 1000]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Plan::resolve`]; [`ModelError::UnsupportedDtype`] if the device cannot compute in
    /// `dtype`.
    pub fn init(
        config: &VitConfig,
        plan: Option<&Plan>,
        device: &Device,
        dtype: FloatDType,
    ) -> Result<Self, ModelError> {
        let (model, _) = loader::vit::init(config, plan, device, dtype)?;
        Ok(model)
    }

    /// The configuration.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// The scores of every label, in `f32`.
    ///
    /// Images may have another size than those the model was made for: position embeddings are
    /// interpolated then. What is left of an image after its last whole patch is not looked at.
    ///
    /// # Shapes
    ///
    /// - `pixels`: `[batch, num_channels, height, width]`
    /// - output: `[batch, num_labels]`
    ///
    /// # Errors
    ///
    /// [`ModelError::PixelShape`] for another number of channels, an image smaller than a patch or
    /// an empty batch.
    pub fn forward(&self, pixels: Tensor<4>) -> Result<Tensor<2>, ModelError> {
        let positions = self.grid_positions(self.grid(pixels.dims())?);
        self.forward_at(pixels, positions)
    }

    /// As [`Vit::forward`], with the position embeddings of the patches from
    /// [`Vit::grid_positions`]: interpolation takes its weights from the host, which a captured pass
    /// must not.
    pub(crate) fn forward_at(
        &self,
        pixels: Tensor<4>,
        positions: Tensor<3>,
    ) -> Result<Tensor<2>, ModelError> {
        // [batch, tokens, hidden_size]
        let mut stream = ResidualStream::new(self.embed(pixels, positions));
        for block in &self.blocks {
            block.forward(&mut stream, &VisibleKeys::All, None, None);
        }
        Ok(self.scores(stream.finish()))
    }

    /// What the first block sees, `[batch, tokens, hidden_size]`, of `pixels` as for
    /// [`Vit::forward`].
    pub(crate) fn tokens(&self, pixels: Tensor<4>) -> Result<Tensor<3>, ModelError> {
        let positions = self.grid_positions(self.grid(pixels.dims())?);
        Ok(self.embed(pixels, positions))
    }

    /// Rows and columns of the patches of `shape`, `[batch, num_channels, height, width]`.
    pub(crate) fn grid(&self, shape: [usize; 4]) -> Result<[usize; 2], ModelError> {
        let [batch, channels, height, width] = shape;
        let grid = self.patch_embedding.grid([height, width]);
        if batch == 0 || channels != self.config.num_channels || grid.contains(&0) {
            return Err(ModelError::PixelShape {
                found: shape.to_vec(),
                channels: self.config.num_channels,
                patch: self.config.patch_size,
            });
        }
        Ok(grid)
    }

    /// The position embeddings of the patches of a grid, `[1, patches, hidden_size]`.
    pub(crate) fn grid_positions(&self, grid: [usize; 2]) -> Tensor<3> {
        let table = self.position_embedding.val();
        let first = self.positions_before_patches();
        let [_, rows, _] = table.dims();
        let positions = table.narrow(1, first, rows - first);
        let interpolation = self.config.naming.interpolation();
        interpolate_grid(positions, self.config.grid(), grid, interpolation)
    }

    /// Rows of the position embedding that are not of patches: 1 where the class token has one.
    fn positions_before_patches(&self) -> usize {
        let [_, rows, _] = self.position_embedding.dims();
        let [grid_rows, grid_columns] = self.config.grid();
        rows - grid_rows * grid_columns
    }

    /// The scores `[batch, num_labels]`, in `f32`, of what the last block gives.
    pub(crate) fn scores(&self, x: Tensor<3>) -> Tensor<2> {
        let dtype: FloatDType = self.position_embedding.val().dtype().into();
        let pooled = self.pool(x).cast(dtype);
        self.head.forward(pooled).cast(FloatDType::F32)
    }

    /// Embeds the patches, puts the class token before them and adds the position embeddings.
    ///
    /// # Shapes
    ///
    /// - `pixels`: `[batch, num_channels, height, width]`
    /// - `positions`: `[1, patches, hidden_size]`
    /// - output: `[batch, tokens, hidden_size]`
    fn embed(&self, pixels: Tensor<4>, positions: Tensor<3>) -> Tensor<3> {
        let table = self.position_embedding.val();
        let dtype: FloatDType = table.dtype().into();
        let patches = self.patch_embedding.forward(pixels.cast(dtype));
        let [batch, _, hidden] = patches.dims();
        let patches = patches + positions;
        let Some(class_token) = &self.class_token else {
            return patches;
        };
        let mut class_token = class_token.val(); // [1, 1, hidden_size]
        let first = self.positions_before_patches();
        if first > 0 {
            class_token = class_token + table.narrow(1, 0, first);
        }
        let class_token = class_token.expand([batch, 1, hidden]);
        concatenate(vec![class_token, patches], 1)
    }

    /// What the head sees, in `f32`.
    ///
    /// # Shapes
    ///
    /// - `x`: `[batch, tokens, hidden_size]`
    /// - output: `[batch, hidden_size]`
    fn pool(&self, x: Tensor<3>) -> Tensor<2> {
        let [batch, tokens, hidden] = x.dims();
        let (start, count) = match self.config.pooling {
            VitPooling::Token => (0, 1),
            VitPooling::Average => {
                let prefix = usize::from(self.class_token.is_some());
                (prefix, tokens - prefix)
            }
        };
        let pooled = if self.config.norm_after_pooling {
            let seen = x.narrow(1, start, count).cast(FloatDType::F32);
            self.norm.forward(seen.mean_dim(1))
        } else {
            // Each token has a norm of its own, so those that are not pooled need none.
            self.norm
                .forward(x.narrow(1, start, count))
                .cast(FloatDType::F32)
                .mean_dim(1)
        };
        pooled.reshape([batch, hidden])
    }
}
