//! The model families, by their `model_type`.

use std::path::Path;

use crate::ModelError;

/// A model family, as `model_type` in `config.json` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Family {
    /// GPT-2 (`gpt2`), see [`crate::Gpt2`].
    Gpt2,
    /// Llama (`llama`), see [`crate::Llama`]; also `blast_llama`, as published with
    /// [BLAST](https://arxiv.org/abs/2410.21262).
    Llama,
}

/// Every `model_type` that is read, in the order in which errors list them.
const MODEL_TYPES: [(&str, Family); 3] = [
    ("gpt2", Family::Gpt2),
    ("llama", Family::Llama),
    (BLAST_LLAMA, Family::Llama),
];

/// The `model_type` of a Llama model whose linear layers are stored in the layout of the public code
/// of BLAST.
pub(crate) const BLAST_LLAMA: &str = "blast_llama";

impl Family {
    /// Every family.
    pub const ALL: [Family; 2] = [Family::Gpt2, Family::Llama];

    /// The usual `model_type` of the family.
    pub const fn model_type(self) -> &'static str {
        match self {
            Family::Gpt2 => "gpt2",
            Family::Llama => "llama",
        }
    }

    /// Every `model_type` that is read, separated by commas.
    pub(crate) fn supported() -> String {
        MODEL_TYPES.map(|(name, _)| name).join(", ")
    }

    /// The family that `model_type` names; `path` is the file for the error.
    pub(crate) fn from_model_type(model_type: &str, path: &Path) -> Result<Self, ModelError> {
        MODEL_TYPES
            .iter()
            .find(|(name, _)| *name == model_type)
            .map(|&(_, family)| family)
            .ok_or_else(|| ModelError::UnsupportedFamily {
                path: path.to_path_buf(),
                found: model_type.to_string(),
                supported: Self::supported(),
            })
    }
}
