//! The model families, by their `model_type`.

use std::path::Path;

use serde_json::Value;

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
    /// The plain vision transformer (`vit`, or a timm configuration of one), see [`crate::Vit`].
    Vit,
    /// DiT (`dit`), see [`crate::Dit`].
    Dit,
}

/// Every `model_type` that is read, in the order in which errors list them.
const MODEL_TYPES: [(&str, Family); 5] = [
    ("gpt2", Family::Gpt2),
    ("llama", Family::Llama),
    (BLAST_LLAMA, Family::Llama),
    ("vit", Family::Vit),
    ("dit", Family::Dit),
];

/// The `model_type` of a Llama model whose linear layers are stored in the layout of the public code
/// of BLAST.
pub(crate) const BLAST_LLAMA: &str = "blast_llama";

impl Family {
    /// Every family.
    pub const ALL: [Family; 4] = [Family::Gpt2, Family::Llama, Family::Vit, Family::Dit];

    /// The usual `model_type` of the family.
    pub const fn model_type(self) -> &'static str {
        match self {
            Family::Gpt2 => "gpt2",
            Family::Llama => "llama",
            Family::Vit => "vit",
            Family::Dit => "dit",
        }
    }

    /// The family of a `config.json`; `path` is where it is, for the error.
    ///
    /// Configurations of timm have no `model_type`; of its architectures, those of [`crate::Vit`]
    /// are read, and their configuration says of any other that it is not.
    pub(crate) fn of_config(config: &Value, path: &Path) -> Result<Self, ModelError> {
        let model_type = config.get("model_type").and_then(Value::as_str);
        match model_type {
            Some(model_type) => Self::from_model_type(model_type, path),
            None if config.get("architecture").is_some() => Ok(Family::Vit),
            None => Err(ModelError::MissingKey {
                path: path.to_path_buf(),
                key: String::from("model_type"),
                expected: format!("one of {}", Self::supported()),
            }),
        }
    }

    /// Every `model_type` that is read, separated by commas.
    fn supported() -> String {
        MODEL_TYPES.map(|(name, _)| name).join(", ")
    }

    /// The family that `model_type` names; `path` is the file for the error.
    fn from_model_type(model_type: &str, path: &Path) -> Result<Self, ModelError> {
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
