//! The settings of the paper (arXiv:2512.20861) by name.

use burn_blr::Method;

use super::{Plan, Rule};
use crate::ModelError;

/// One preset: rules that need a method to become a plan.
struct Preset {
    name: &'static str,
    rules: &'static [PresetRule],
}

/// The layers of one rule and their numbers per method.
struct PresetRule {
    layers: &'static str,
    blast_blocks: usize,
    monarch_blocks: usize,
    rank: usize,
}

const TABLE: [Preset; 1] = [Preset {
    name: "gpt2s",
    rules: &[PresetRule {
        layers: r"\.(attn\.c_attn|mlp\.c_fc|mlp\.c_proj)$",
        blast_blocks: 6,
        monarch_blocks: 4,
        rank: 192,
    }],
}];

/// The names of the presets.
pub const PRESETS: [&str; TABLE.len()] = {
    let mut names = [""; TABLE.len()];
    let mut n = 0;
    while n < TABLE.len() {
        names[n] = TABLE[n].name;
        n += 1;
    }
    names
};

impl Plan {
    /// The preset `name` with layers of `method`.
    ///
    /// # Errors
    ///
    /// [`ModelError::UnknownPreset`] if it is none of [`PRESETS`].
    pub fn preset(name: &str, method: Method) -> Result<Self, ModelError> {
        let preset = TABLE.iter().find(|preset| preset.name == name);
        let preset = preset.ok_or_else(|| ModelError::UnknownPreset {
            found: name.to_string(),
            available: PRESETS.join(", "),
        })?;
        let rules = preset.rules.iter().map(|rule| Rule {
            layers: rule.layers.to_string(),
            method,
            rank: Some(rule.rank),
            keep: None,
            blocks: match method {
                Method::LowRank => None,
                Method::Monarch => Some(rule.monarch_blocks),
                Method::Blast => Some(rule.blast_blocks),
            },
            output_order: None,
        });
        Ok(Self {
            rules: rules.collect(),
        })
    }
}
