//! A language model of whichever family a checkpoint holds.

use burn::module::Module;
use burn::tensor::{Device, FloatDType, Int, Tensor};
use burn_blr::graph;

use crate::checkpoint::LANGUAGE;
use crate::{Checkpoint, Context, Family, Gpt2, LanguageModel, Llama, ModelError};

/// A language model of any family; what a program uses that is given a checkpoint directory.
#[derive(Module, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a program holds few models, and boxes are no modules"
)]
pub enum AnyLanguageModel {
    /// GPT-2.
    Gpt2(Gpt2),
    /// Llama.
    Llama(Llama),
}

impl AnyLanguageModel {
    /// Loads a checkpoint onto `device` with weights of `dtype`.
    ///
    /// # Errors
    ///
    /// Those of [`Gpt2::load`] and [`Llama::load`]; [`ModelError::WrongFamily`] for a checkpoint of
    /// another family.
    pub fn load(
        checkpoint: &Checkpoint,
        device: &Device,
        dtype: FloatDType,
    ) -> Result<Self, ModelError> {
        Ok(match checkpoint.family() {
            Family::Gpt2 => Self::Gpt2(Gpt2::load(checkpoint, device, dtype)?),
            Family::Llama => Self::Llama(Llama::load(checkpoint, device, dtype)?),
            Family::Vit | Family::Dit => return Err(checkpoint.wrong_family(LANGUAGE)),
        })
    }

    /// The same model with fewer launches on devices where those count: see [`Llama::joined`].
    ///
    /// It can be neither saved nor compressed then.
    pub fn for_inference(self) -> Self {
        match self {
            Self::Llama(model) if graph::captures(&model.device()) => Self::Llama(model.joined()),
            other => other,
        }
    }

    /// The model of the family.
    pub fn inner(&self) -> &dyn LanguageModel {
        match self {
            Self::Gpt2(model) => model,
            Self::Llama(model) => model,
        }
    }
}

impl LanguageModel for AnyLanguageModel {
    fn max_tokens(&self) -> usize {
        self.inner().max_tokens()
    }

    fn vocab_size(&self) -> usize {
        self.inner().vocab_size()
    }

    fn end_tokens(&self) -> &[u32] {
        self.inner().end_tokens()
    }

    fn layers(&self) -> usize {
        self.inner().layers()
    }

    fn hidden(
        &self,
        input_ids: Tensor<2, Int>,
        context: Context<'_>,
    ) -> Result<Tensor<3>, ModelError> {
        self.inner().hidden(input_ids, context)
    }

    fn head(&self) -> Tensor<2> {
        self.inner().head()
    }
}

impl From<Gpt2> for AnyLanguageModel {
    fn from(model: Gpt2) -> Self {
        Self::Gpt2(model)
    }
}

impl From<Llama> for AnyLanguageModel {
    fn from(model: Llama) -> Self {
        Self::Llama(model)
    }
}
