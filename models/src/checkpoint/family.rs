//! The model families, by their `model_type`.

use std::path::Path;

use crate::ModelError;

/// A model family, as `model_type` in `config.json` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Family {
    /// GPT-2 (`gpt2`), see [`crate::Gpt2`].
    Gpt2,
}

impl Family {
    /// Every family, in the order in which errors list them.
    pub const ALL: [Family; 1] = [Family::Gpt2];

    /// The `model_type` of the family.
    pub const fn model_type(self) -> &'static str {
        match self {
            Family::Gpt2 => "gpt2",
        }
    }

    /// The family that `model_type` names; `path` is the file for the error.
    pub(crate) fn from_model_type(model_type: &str, path: &Path) -> Result<Self, ModelError> {
        Self::ALL
            .into_iter()
            .find(|family| family.model_type() == model_type)
            .ok_or_else(|| ModelError::UnsupportedFamily {
                path: path.to_path_buf(),
                found: model_type.to_string(),
                supported: Self::ALL.map(Family::model_type).join(", "),
            })
    }
}
