//! The names of the labels of a classifier.

use std::collections::BTreeMap;
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
    count: usize,
    names: BTreeMap<usize, String>,
    descriptions: BTreeMap<usize, String>,
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
        let mut names = BTreeMap::new();
        for key in ["id2label", "label_names"] {
            let invalid = || {
                keys.invalid(
                    key,
                    format!("a name for each of the {count} labels, by number"),
                )
            };
            let listed: Vec<(usize, &Value)> = match keys.get(key) {
                None => continue,
                Some(Value::Array(names)) => names.iter().enumerate().collect(),
                Some(Value::Object(names)) => names
                    .iter()
                    .map(|(n, name)| Ok((n.parse()?, name)))
                    .collect::<Result<_, std::num::ParseIntError>>()
                    .map_err(|_| invalid())?,
                Some(_) => return Err(invalid()),
            };
            for (n, name) in listed {
                let name = name.as_str().filter(|_| n < count).ok_or_else(invalid)?;
                names.insert(n, name.to_string());
            }
        }
        let mut descriptions = BTreeMap::new();
        if let Some(described) = keys.section("label_descriptions")? {
            for (&n, name) in &names {
                let text = described.text(name, "")?;
                if !text.is_empty() {
                    descriptions.insert(n, text.to_string());
                }
            }
        }
        Ok(Self {
            count,
            names,
            descriptions,
        })
    }

    /// `count` labels without names.
    pub fn numbered(count: usize) -> Self {
        Self {
            count,
            names: BTreeMap::new(),
            descriptions: BTreeMap::new(),
        }
    }

    /// Number of labels.
    pub fn count(&self) -> usize {
        self.count
    }

    /// What label `n` means: its description, or else its name, `None` where it has neither.
    pub fn text(&self, n: usize) -> Option<&str> {
        let text = self.descriptions.get(&n).or(self.names.get(&n))?;
        Some(text)
    }

    /// The label of a name, of a description, or of its number, in this order.
    pub fn find(&self, label: &str) -> Option<usize> {
        let named = |texts: &BTreeMap<usize, String>| {
            let mut texts = texts.iter();
            texts.find(|(_, text)| *text == label).map(|(&n, _)| n)
        };
        named(&self.names)
            .or_else(|| named(&self.descriptions))
            .or_else(|| label.parse().ok().filter(|&n| n < self.count))
    }
}
