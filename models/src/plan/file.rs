//! Plans as TOML files.

use std::fs;
use std::path::Path;

use super::Plan;
use crate::ModelError;

impl Plan {
    /// Reads a plan file.
    ///
    /// # Errors
    ///
    /// [`ModelError::MissingFile`] and [`ModelError::Io`] if it cannot be read; the errors of
    /// [`Plan::from_toml`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ModelError> {
        let path = path.as_ref();
        let text = fs::read_to_string(path).map_err(|source| {
            let path = path.to_path_buf();
            match source.kind() {
                std::io::ErrorKind::NotFound => ModelError::MissingFile {
                    path,
                    expected: "a plan in TOML",
                },
                _ => ModelError::Io { path, source },
            }
        })?;
        Self::from_toml(&text, path)
    }

    /// Parses the text of a plan; `path` is where it came from, for the errors.
    ///
    /// ```
    /// # fn main() -> Result<(), models::ModelError> {
    /// let text = r#"
    /// [[rules]]
    /// layers = 'mlp\.c_fc$'
    /// method = "blast"
    /// blocks = 6
    /// rank = 192
    /// "#;
    /// let plan = models::Plan::from_toml(text, "plan.toml".as_ref())?;
    /// assert_eq!(plan.rules[0].rank, Some(192));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ModelError::PlanSyntax`] if it is not TOML or has a key that plans do not have;
    /// [`ModelError::InvalidRule`], [`ModelError::InvalidPattern`] and [`ModelError::EmptyPlan`].
    pub fn from_toml(text: &str, path: &Path) -> Result<Self, ModelError> {
        let plan: Plan = toml::from_str(text).map_err(|error| ModelError::PlanSyntax {
            path: path.to_path_buf(),
            line: error.span().map_or(1, |span| line_of(text, span.start)),
            message: one_line(error.message()),
        })?;
        plan.validate()?;
        Ok(plan)
    }

    /// The plan as TOML, which [`Plan::from_toml`] reads back.
    ///
    /// # Errors
    ///
    /// [`ModelError::PlanFormat`] if a number is too large for TOML.
    pub fn to_toml(&self) -> Result<String, ModelError> {
        toml::to_string(self).map_err(|error| ModelError::PlanFormat {
            message: one_line(&error.to_string()),
        })
    }
}

/// The line, counted from one, that byte `offset` of `text` is on.
fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().iter().take(offset);
    1 + before.filter(|&&byte| byte == b'\n').count()
}

/// `message` with its line breaks replaced.
pub(super) fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
