//! A model of whichever family a checkpoint holds, as training sees it.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, FloatDType, Int, Tensor};
use burn_blr::BlrLinear;
use burn_blr::ops::{Epilogue, dense_linear};
use serde_json::Value;

use crate::blocks::{gpt2_state, llama_state, vit_state};
use crate::{
    BlockModel, Checkpoint, Dit, DitConfig, Family, Gpt2, Gpt2Config, LanguageModel, Llama,
    LlamaConfig, ModelError, Plan, StoredParameters, Vit, VitConfig,
};

/// A model of any family.
#[derive(Module, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a program holds few models, and boxes are no modules"
)]
pub enum AnyModel {
    /// GPT-2.
    Gpt2(Gpt2),
    /// Llama.
    Llama(Llama),
    /// A vision transformer.
    Vit(Vit),
    /// A diffusion transformer.
    Dit(Dit),
}

/// What a model is given.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "there is one for a whole pass")]
pub enum ModelInput {
    /// Token ids of a language model, `[batch, tokens]`.
    Tokens(Tensor<2, Int>),
    /// Images of a [`Vit`], `[batch, channels, height, width]`.
    Pixels(Tensor<4>),
    /// What a [`Dit`] finds the noise in.
    Noisy {
        /// `[batch, channels, size, size]`.
        x: Tensor<4>,
        /// Timesteps, `[batch]`.
        t: Tensor<1, Int>,
        /// Classes, `[batch]`.
        y: Tensor<1, Int>,
    },
}

/// What a model makes of a batch.
#[derive(Debug)]
pub struct Observed {
    /// The hidden state behind each block, `[batch, tokens, features]`.
    pub hidden: Vec<Tensor<3>>,
    /// In `f32`: logits of a language model `[batch · tokens, vocabulary]`, scores of a [`Vit`]
    /// `[batch, labels]`, the output of a [`Dit`] `[batch, channels · size · size]`.
    pub output: Tensor<2>,
}

/// Numbers of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelWidths {
    /// Number of blocks.
    pub blocks: usize,
    /// Width of the hidden states.
    pub hidden: usize,
    /// Width of a row of [`Observed::output`].
    pub outputs: usize,
}

impl std::fmt::Display for ModelWidths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            blocks,
            hidden,
            outputs,
        } = self;
        write!(
            f,
            "{blocks} blocks, hidden states of {hidden} and outputs of {outputs}"
        )
    }
}

impl AnyModel {
    /// Loads a checkpoint onto `device` with weights of `dtype`, and says where its parameters are
    /// stored.
    ///
    /// # Errors
    ///
    /// Those of [`Gpt2::load`], [`Llama::load`], [`Vit::load`] and [`Dit::load`].
    pub fn load(
        checkpoint: &Checkpoint,
        device: &Device,
        dtype: FloatDType,
    ) -> Result<(Self, StoredParameters), ModelError> {
        use crate::loader::{dit, gpt2, llama, vit};
        Ok(match checkpoint.family() {
            Family::Gpt2 => {
                let (model, stored) = gpt2::load(checkpoint, device, dtype)?;
                (Self::Gpt2(model), stored)
            }
            Family::Llama => {
                let (model, stored) = llama::load(checkpoint, device, dtype)?;
                (Self::Llama(model), stored)
            }
            Family::Vit => {
                let (model, stored) = vit::load(checkpoint, device, dtype)?;
                (Self::Vit(model), stored)
            }
            Family::Dit => {
                let (model, stored) = dit::load(checkpoint, device, dtype)?;
                (Self::Dit(model), stored)
            }
        })
    }

    /// Makes a model of `family` with random weights, its linear layers as `plan` says, or dense;
    /// `config` is what `config.json` would hold, and `path` where it came from, for the errors.
    ///
    /// # Errors
    ///
    /// Those of the configuration's `from_json` and of the model's `init`.
    pub fn init(
        family: Family,
        (config, path): (&Value, &Path),
        plan: Option<&Plan>,
        device: &Device,
        dtype: FloatDType,
    ) -> Result<(Self, StoredParameters), ModelError> {
        use crate::loader::{dit, gpt2, llama, vit};
        Ok(match family {
            Family::Gpt2 => {
                let config = Gpt2Config::from_json(config, path)?;
                let (model, stored) = gpt2::init(&config, plan, device, dtype)?;
                (Self::Gpt2(model), stored)
            }
            Family::Llama => {
                let config = LlamaConfig::from_json(config, path)?;
                let (model, stored) = llama::init(&config, plan, device, dtype)?;
                (Self::Llama(model), stored)
            }
            Family::Vit => {
                let config = VitConfig::from_json(config, path)?;
                let (model, stored) = vit::init(&config, plan, device, dtype)?;
                (Self::Vit(model), stored)
            }
            Family::Dit => {
                let config = DitConfig::from_json(config, path)?;
                let (model, stored) = dit::init(&config, plan, device, dtype)?;
                (Self::Dit(model), stored)
            }
        })
    }

    /// The family.
    pub fn family(&self) -> Family {
        match self {
            Self::Gpt2(_) => Family::Gpt2,
            Self::Llama(_) => Family::Llama,
            Self::Vit(_) => Family::Vit,
            Self::Dit(_) => Family::Dit,
        }
    }

    /// Numbers that two models share whose hidden states and outputs can be compared.
    pub fn widths(&self) -> ModelWidths {
        let of_language_model = |model: &dyn LanguageModel| {
            let [outputs, hidden] = model.head().dims();
            ModelWidths {
                blocks: model.layers(),
                hidden,
                outputs,
            }
        };
        match self {
            Self::Gpt2(model) => of_language_model(model),
            Self::Llama(model) => of_language_model(model),
            Self::Vit(model) => ModelWidths {
                blocks: model.blocks.len(),
                hidden: model.config().hidden_size,
                outputs: model.config().num_labels,
            },
            Self::Dit(model) => ModelWidths {
                blocks: model.blocks.len(),
                hidden: model.config().hidden_size,
                outputs: model.config().out_channels() * model.config().input_size.pow(2),
            },
        }
    }

    /// The linear layers that compression may replace.
    pub fn linear_layers(&self) -> Vec<&BlrLinear> {
        match self {
            Self::Gpt2(model) => flat(model.stages()),
            Self::Llama(model) => flat(model.stages()),
            Self::Vit(model) => flat(model.stages()),
            Self::Dit(model) => {
                let blocks = model.blocks.iter().flat_map(|block| {
                    let mut layers = block.attention.qkv.layers();
                    layers.extend([&block.attention.proj, &block.mlp.fc, &block.mlp.proj]);
                    layers.extend(&block.modulation);
                    layers
                });
                blocks.collect()
            }
        }
    }

    /// Runs the model.
    ///
    /// # Errors
    ///
    /// [`ModelError::OtherInput`] for the input of another family; those of the model's forward pass.
    pub fn observe(&self, input: ModelInput) -> Result<Observed, ModelError> {
        match (self, input) {
            (Self::Gpt2(model), ModelInput::Tokens(ids)) => {
                let (hidden, rows) = BlockModel::observe(model, gpt2_state(model, ids)?);
                let output = logits(rows, model.head());
                Ok(Observed { hidden, output })
            }
            (Self::Llama(model), ModelInput::Tokens(ids)) => {
                let (hidden, rows) = BlockModel::observe(model, llama_state(model, ids)?);
                let output = logits(rows, model.head());
                Ok(Observed { hidden, output })
            }
            (Self::Vit(model), ModelInput::Pixels(pixels)) => {
                let (hidden, output) = BlockModel::observe(model, vit_state(model, pixels)?);
                Ok(Observed { hidden, output })
            }
            (Self::Dit(model), ModelInput::Noisy { x, t, y }) => {
                let (hidden, output) = model.observe(x, t, y)?;
                let [batch, channels, height, width] = output.dims();
                let output = output.reshape([batch, channels * height * width]);
                let output = output.cast(FloatDType::F32);
                Ok(Observed { hidden, output })
            }
            _ => Err(ModelError::OtherInput {
                family: self.family().model_type(),
            }),
        }
    }
}

fn flat(stages: Vec<[Vec<&BlrLinear>; 4]>) -> Vec<&BlrLinear> {
    stages.into_iter().flatten().flatten().collect()
}

/// Logits in `f32` of hidden states `[rows, features]`, which are brought to the dtype of the head
/// `[vocabulary, features]`.
fn logits(rows: Tensor<2>, head: Tensor<2>) -> Tensor<2> {
    let dtype: FloatDType = head.dtype().into();
    dense_linear(rows.cast(dtype), head.transpose(), Epilogue::default()).cast(FloatDType::F32)
}
