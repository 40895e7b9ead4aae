//! Model families in Burn whose linear layers can be block-low-rank.
//!
//! A model is a directory in Hugging Face style ([`Checkpoint`]). Its `model_type` picks the
//! [`Family`]: [`Gpt2`] or [`Llama`], and [`AnyLanguageModel`] for whichever it is, [`Vit`], or
//! [`Dit`]. Every linear layer of a model is a [`burn_blr::BlrLinear`], so the same code runs a dense
//! checkpoint and one whose layers were replaced; a [`Plan`] says which layers become what. Language
//! models are used through [`LanguageModel`]: [`generate`] continues a prompt, [`text_loss`] measures
//! a text. A [`Vit`] says what is on the images that its [`ImagePipeline`] reads, and [`accuracy`] how
//! often it is right. [`sample_images`] draws with a [`Dit`], and [`AutoencoderKl`] decodes what it
//! draws. [`CapturedForward`] and [`Decoder`] capture passes at fixed shapes and replay them with one
//! launch, where that is asked for.
//!
//! ```no_run
//! use burn::tensor::{Device, FloatDType};
//! use models::{AnyLanguageModel, Checkpoint, GenerateOptions, TextTokenizer, generate};
//!
//! # fn main() -> Result<(), models::ModelError> {
//! let checkpoint = Checkpoint::open("gpt2")?;
//! let model = AnyLanguageModel::load(&checkpoint, &Device::default(), FloatDType::F32)?;
//! let tokenizer = TextTokenizer::open("gpt2")?;
//! let prompt = tokenizer.encode("A Monarch matrix is")?;
//! let done = generate(&model, &prompt, &GenerateOptions::default(), |_| true)?;
//! let text = tokenizer.decode(&done.tokens)?;
//! # Ok(())
//! # }
//! ```

mod any_language_model;
mod any_model;
mod autoencoder_kl;
mod blocks;
mod captured;
mod checkpoint;
mod classify;
mod common;
mod decoder;
mod diffusion;
mod dit;
mod error;
mod generate;
mod gpt2;
mod image;
mod import;
mod labels;
mod language_model;
mod layer;
mod llama;
mod loader;
mod plan;
mod sampling;
mod stored;
mod text_loss;
mod tokenizer;
mod vit;

pub use any_language_model::AnyLanguageModel;
pub use any_model::{AnyModel, ModelInput, ModelWidths, Observed};
pub use autoencoder_kl::{
    AutoencoderKl, AutoencoderKlConfig, Convolution, PixelAttention, ResidualLayer, UpBlock,
};
pub use blocks::{BlockModel, BlockState};
pub use captured::{CapturedForward, CapturedPass, DitInputs, PassInputs};
pub use checkpoint::{BLR_VERSION, BlrLayer, BlrSection, Checkpoint, Entry, Family, WeightFile};
pub use classify::{Accuracy, Classification, accuracy};
pub use common::{
    Activation, Attention, Context, Heads, KvCache, LeftPadding, Mlp, PatchEmbedding,
    QueryKeyValue, Rotary, RotaryConfig, RotaryScaling, SeparateQueryKeyValue, TokenNorm,
    TransformerBlock,
};
pub use decoder::Decoder;
pub use diffusion::{
    DiffusionSampler, DiffusionSchedule, DiffusionStep, GUIDED_CHANNELS, NoiseSource,
    SampleOptions, TRAINING_STEPS, Trajectory, sample_images,
};
pub use dit::{Dit, DitBlock, DitConfig, DitFinalLayer, TimestepEmbedding};
pub use error::ModelError;
pub use generate::{GenerateOptions, Generation, StopReason, generate, generate_batch};
pub use gpt2::{Gpt2, Gpt2Config};
pub use image::{
    ImagePipeline, ImageSize, LabelledImage, Pixels, Resampling, images, labelled_images,
};
pub use import::{ImportDitOptions, import_dit};
pub use labels::Labels;
pub use language_model::LanguageModel;
pub use layer::{
    FactorNames, LinearLayer, WeightLayout, check_structure, linear_layers, linear_layers_of,
};
pub use llama::{Llama, LlamaConfig};
pub use plan::{PRESETS, Plan, Rule, default_blocks};
pub use sampling::Sampler;
pub use stored::{StoredParameters, StoredTensor};
pub use text_loss::{TextLoss, text_loss};
pub use tokenizer::{TextStream, TextTokenizer};
pub use vit::{Vit, VitConfig, VitNaming, VitPooling};
