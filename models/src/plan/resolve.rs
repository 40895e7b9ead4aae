//! A plan, and what it makes of the layers of a model.

use burn_blr::{Method, Structure};
use regex::Regex;
use serde::{Deserialize, Serialize};

use super::Rule;
use super::file::one_line;
use crate::{LinearLayer, ModelError};

/// Which layers of a model become what.
///
/// A layer takes the first rule whose pattern it matches, so a rule for a few layers goes before
/// one for the rest; layers that match none stay as they are. As TOML, each rule is a `[[rules]]`
/// table with the fields of [`Rule`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The rules, first one first.
    pub rules: Vec<Rule>,
}

impl Plan {
    /// A plan of one rule.
    pub fn single(rule: Rule) -> Self {
        Self { rules: vec![rule] }
    }

    /// Every layer becomes one of `method` with the fraction `keep` of its weights.
    pub fn keep(method: Method, keep: f64) -> Self {
        Self::single(Rule {
            layers: String::new(),
            method,
            rank: None,
            keep: Some(keep),
            blocks: None,
            output_order: None,
        })
    }

    /// A rule for each layer, by its name; dense ones have none.
    pub fn of_layers(layers: &[(LinearLayer, Structure)]) -> Self {
        let rules = layers.iter().filter_map(|(layer, structure)| {
            let method = structure.method()?;
            let output_order = match structure {
                Structure::Monarch { order, .. } => Some(*order),
                _ => None,
            };
            Some(Rule {
                layers: format!("^{}$", regex::escape(&layer.name)),
                method,
                rank: structure.rank(),
                keep: None,
                blocks: (method != Method::LowRank).then_some(structure.blocks()),
                output_order,
            })
        });
        Self {
            rules: rules.collect(),
        }
    }

    /// Checks what can be checked without a model.
    ///
    /// # Errors
    ///
    /// [`ModelError::EmptyPlan`], [`ModelError::InvalidPattern`] and [`ModelError::InvalidRule`].
    pub fn validate(&self) -> Result<(), ModelError> {
        if self.rules.is_empty() {
            return Err(ModelError::EmptyPlan);
        }
        for rule in &self.rules {
            pattern(rule)?;
            rule.validate()?;
        }
        Ok(())
    }

    /// The layers that the plan replaces and their structures, in the order of `layers`.
    ///
    /// Query, key and value that are stored apart are replaced together, as a layer of
    /// [`WeightLayout::QueryKeyValue`](crate::WeightLayout::QueryKeyValue), where a rule matches the
    /// name of the joined layer and neither that rule nor one before it matches a part.
    ///
    /// # Errors
    ///
    /// Those of [`Plan::validate`]; [`ModelError::PatternMatchesNothing`] if a pattern matches none
    /// of `layers`; [`ModelError::AlreadyReplaced`] if it matches one that is not dense;
    /// [`ModelError::Structure`] and [`ModelError::KeepTooSmall`] if the numbers of a rule do not
    /// suit a layer.
    pub fn resolve(
        &self,
        layers: &[LinearLayer],
    ) -> Result<Vec<(LinearLayer, Structure)>, ModelError> {
        self.validate()?;
        let rules = self
            .rules
            .iter()
            .map(|rule| Ok((rule, pattern(rule)?)))
            .collect::<Result<Vec<_>, ModelError>>()?;
        let first = |name: &str| rules.iter().position(|(_, pattern)| pattern.is_match(name));
        let joinable = layers.array_windows().filter_map(LinearLayer::join);
        let joinable: Vec<_> = joinable.map(|layer| layer.name).collect();
        for (rule, pattern) in &rules {
            let mut names = layers.iter().map(|layer| &layer.name).chain(&joinable);
            if !names.any(|name| pattern.is_match(name)) {
                return Err(ModelError::PatternMatchesNothing {
                    layers: rule.layers.clone(),
                    available: layers.len(),
                    example: layers
                        .first()
                        .map(|layer| layer.name.clone())
                        .unwrap_or_default(),
                });
            }
        }
        let mut resolved = Vec::new();
        let mut rest = layers;
        while let Some((layer, after)) = rest.split_first() {
            let joined = rest.split_first_chunk().and_then(|(parts, after)| {
                let joined = LinearLayer::join(parts)?;
                let number = first(&joined.name)?;
                let apart = parts.iter().filter_map(|part| first(&part.name)).min();
                apart
                    .is_none_or(|apart| number < apart)
                    .then_some((joined, after))
            });
            let layer = match joined {
                Some((joined, after)) => {
                    rest = after;
                    joined
                }
                None => {
                    rest = after;
                    layer.clone()
                }
            };
            let Some((rule, _)) = first(&layer.name).and_then(|number| rules.get(number)) else {
                continue;
            };
            if let Some(method) = layer.structure.method() {
                return Err(ModelError::AlreadyReplaced {
                    layers: rule.layers.clone(),
                    layer: layer.name.clone(),
                    method,
                });
            }
            let structure = rule.structure(&layer)?;
            resolved.push((layer, structure));
        }
        Ok(resolved)
    }
}

fn pattern(rule: &Rule) -> Result<Regex, ModelError> {
    Regex::new(&rule.layers).map_err(|error| ModelError::InvalidPattern {
        layers: rule.layers.clone(),
        // The last line is the reason; those before draw the pattern with a caret below it.
        reason: one_line(error.to_string().lines().last().unwrap_or_default())
            .trim_start_matches("error: ")
            .to_string(),
    })
}
