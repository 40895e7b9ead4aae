//! The names of the labels of a classifier.

use std::path::Path;

use serde_json::Value;

use crate::checkpoint::ConfigKeys;
use crate::{Checkpoint, Family, ModelError, VitConfig};

/// The labels of a classifier, counted from zero; some or all may have a name.
///
/// The names are `id2label` of `transformers`, or `label_names` of timm, which may have
/// `label_descriptions`. Most configurations of timm have none.
#[derive(Debug, Clone, PartialEq)]
pub struct Labels {
    names: Vec<Option<String>>,
    descriptions: Vec<Option<String>>,
}

impl Labels {
    /// The labels of a checkpoint.
    ///
    /// # Errors
    ///
    /// [`ModelError::WrongFamily`] if it is no classifier; those of [`VitConfig::from_json`], and
    /// [`ModelError::InvalidKey`] for names that are not those of its labels.
    pub fn of_checkpoint(checkpoint: &Checkpoint) -> Result<Self, ModelError> {
        checkpoint.expect_family(Family::Vit)?;
        Self::from_json(checkpoint.config_json(), &checkpoint.config_path())
    }

    /// Reads them from a `config.json`; `path` is where it came from, for the errors.
    ///
    /// # Errors
    ///
    /// Those of [`VitConfig::from_json`]; [`ModelError::InvalidKey`] for names that are not those of
    /// its labels.
    pub fn from_json(json: &Value, path: &Path) -> Result<Self, ModelError> {
        let keys = ConfigKeys::new(path, json);
        let count = VitConfig::from_json(json, path)?.num_labels;
        let mut labels = Self {
            names: vec![None; count],
            descriptions: vec![None; count],
        };
        for key in ["id2label", "label_names"] {
            let expected = || format!("a name for each of the {count} labels, by number");
            let invalid = || keys.invalid(key, expected());
            match keys.get(key) {
                None => {}
                Some(Value::Array(names)) => {
                    for (n, name) in names.iter().enumerate() {
                        let place = labels.names.get_mut(n).ok_or_else(invalid)?;
                        *place = Some(name.as_str().ok_or_else(invalid)?.to_string());
                    }
                }
                Some(Value::Object(names)) => {
                    for (n, name) in names {
                        let n: usize = n.parse().map_err(|_| invalid())?;
                        let place = labels.names.get_mut(n).ok_or_else(invalid)?;
                        *place = Some(name.as_str().ok_or_else(invalid)?.to_string());
                    }
                }
                Some(_) => return Err(invalid()),
            }
        }
        if let Some(descriptions) = keys.section("label_descriptions")? {
            for (place, name) in labels.descriptions.iter_mut().zip(&labels.names) {
                if let Some(name) = name {
                    *place = match descriptions.text(name, "")? {
                        "" => None,
                        text => Some(text.to_string()),
                    };
                }
            }
        }
        Ok(labels)
    }

    /// Number of labels.
    pub fn count(&self) -> usize {
        self.names.len()
    }

    /// What label `n` means: its description, or else its name, `None` where it has neither.
    pub fn text(&self, n: usize) -> Option<&str> {
        let description = self.descriptions.get(n)?.as_deref();
        description.or(self.names.get(n)?.as_deref())
    }

    /// The label of a name, of a description, or of its number, in this order.
    pub fn find(&self, label: &str) -> Option<usize> {
        let in_texts = |texts: &[Option<String>]| {
            let mut texts = texts.iter();
            texts.position(|text| text.as_deref() == Some(label))
        };
        in_texts(&self.names)
            .or_else(|| in_texts(&self.descriptions))
            .or_else(|| label.parse().ok().filter(|&n| n < self.count()))
    }
}
