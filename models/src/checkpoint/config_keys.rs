//! Typed access to the keys of a `config.json`, with errors that name the key.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Activation, ModelError};

/// Most blocks a configuration may ask for. A damaged number would otherwise exhaust the memory
/// before a missing tensor is noticed; published models have at most 126.
pub(crate) const MAX_LAYERS: usize = 4096;

/// A parsed `config.json` and the path that its errors name.
///
/// `serde` would name neither the key nor, for a value already parsed, the line; so the families
/// read their keys one by one through this. A key that is absent or `null` takes the default that
/// the family's configuration class in `transformers` has.
pub(crate) struct ConfigKeys<'a> {
    path: PathBuf,
    /// What stands before a key in errors: the section it is in, and a dot.
    prefix: String,
    value: &'a Value,
}

impl<'a> ConfigKeys<'a> {
    /// Reads keys of `value`, which was parsed from `path`.
    pub(crate) fn new(path: &Path, value: &'a Value) -> Self {
        Self {
            path: path.to_path_buf(),
            prefix: String::new(),
            value,
        }
    }

    /// The keys of the section `key`, `None` where it is not set.
    pub(crate) fn section(&self, key: &str) -> Result<Option<Self>, ModelError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) if value.is_object() => Ok(Some(Self {
                path: self.path.clone(),
                prefix: format!("{}{key}.", self.prefix),
                value,
            })),
            Some(_) => Err(self.invalid(key, "an object")),
        }
    }

    /// Whether `key` is set.
    pub(crate) fn holds(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// The value of `key` as it is, `None` where it is not set.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }

    /// The error for a value of `key` that cannot be used.
    pub(crate) fn invalid(&self, key: &str, expected: impl Into<String>) -> ModelError {
        ModelError::InvalidKey {
            path: self.path.clone(),
            key: format!("{}{key}", self.prefix),
            found: self.value.get(key).map_or_else(
                || String::from("not set"),
                |value| {
                    // One line whatever the value is.
                    value.to_string().chars().take(80).collect()
                },
            ),
            expected: expected.into(),
        }
    }

    /// A count of at least one, `default` where the key is not set.
    pub(crate) fn count(&self, key: &str, default: usize) -> Result<usize, ModelError> {
        Ok(self.optional_count(key)?.unwrap_or(default))
    }

    /// A count of at least one, `None` where the key is not set.
    pub(crate) fn optional_count(&self, key: &str) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_u64().and_then(|n| u32::try_from(n).ok()) {
            Some(n) if n > 0 => Ok(Some(n as usize)),
            _ => Err(self.invalid(key, "a positive integer")),
        }
    }

    /// A positive number.
    pub(crate) fn positive(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        let Some(value) = self.get(key) else {
            return Ok(default);
        };
        match value.as_f64() {
            Some(x) if x > 0.0 && x.is_finite() => Ok(x),
            _ => Err(self.invalid(key, "a positive number")),
        }
    }

    /// A positive number that must be set.
    pub(crate) fn required_positive(&self, key: &str) -> Result<f64, ModelError> {
        if self.holds(key) {
            return self.positive(key, 1.0);
        }
        Err(ModelError::MissingKey {
            path: self.path.clone(),
            key: format!("{}{key}", self.prefix),
            expected: String::from("a positive number"),
        })
    }

    /// `true` or `false`.
    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| self.invalid(key, "true or false")),
        }
    }

    /// A string.
    pub(crate) fn text(&self, key: &str, default: &'a str) -> Result<&'a str, ModelError> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_str().ok_or_else(|| self.invalid(key, "a string")),
        }
    }

    /// An activation function by its name.
    pub(crate) fn activation(&self, key: &str, default: &'a str) -> Result<Activation, ModelError> {
        Activation::from_name(self.text(key, default)?).ok_or_else(|| {
            let names: Vec<_> = Activation::names().collect();
            self.invalid(key, format!("one of {}", names.join(", ")))
        })
    }

    /// One token id or a list of them; empty where the key is not set.
    pub(crate) fn token_ids(&self, key: &str) -> Result<Vec<u32>, ModelError> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match self.get(key) {
            None => Some(Vec::new()),
            Some(Value::Array(values)) => values.iter().map(id).collect(),
            Some(value) => id(value).map(|id| vec![id]),
        };
        ids.ok_or_else(|| self.invalid(key, "a token id, a list of token ids or null"))
    }
}
