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
    blast: Size,
    monarch: Size,
    /// The paper's low-rank layers have the rank of its BLAST layers.
    low_rank: usize,
}

/// Block count and rank.
struct Size {
    blocks: usize,
    rank: usize,
}

impl PresetRule {
    /// Layers of the same rank whatever the method.
    const fn new(
        layers: &'static str,
        blast_blocks: usize,
        monarch_blocks: usize,
        rank: usize,
    ) -> Self {
        Self {
            layers,
            blast: Size {
                blocks: blast_blocks,
                rank,
            },
            monarch: Size {
                blocks: monarch_blocks,
                rank,
            },
            low_rank: rank,
        }
    }

    /// The same with another rank for Monarch.
    const fn monarch_rank(mut self, rank: usize) -> Self {
        self.monarch.rank = rank;
        self
    }
}

const GPT2S: [PresetRule; 1] = [PresetRule::new(
    r"\.(attn\.c_attn|mlp\.c_fc|mlp\.c_proj)$",
    6,
    4,
    192,
)];

const LLAMA1B: [PresetRule; 3] = [
    PresetRule::new(r"\.self_attn\.(q|o)_proj$", 16, 16, 256),
    PresetRule::new(r"\.mlp\.gate_proj$", 16, 16, 512),
    PresetRule::new(r"\.mlp\.(up|down)_proj$", 16, 16, 768),
];

const LLAMA7B: [PresetRule; 2] = [
    PresetRule::new(r"\.self_attn\.(q|k|v|o)_proj$", 16, 16, 1024),
    PresetRule::new(r"\.mlp\.(gate|up|down)_proj$", 16, 16, 1488).monarch_rank(1536),
];

const TABLE: [Preset; 3] = [
    Preset {
        name: "gpt2s",
        rules: &GPT2S,
    },
    Preset {
        name: "llama1b",
        rules: &LLAMA1B,
    },
    Preset {
        name: "llama7b",
        rules: &LLAMA7B,
    },
];

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
        let rules = preset.rules.iter().map(|rule| {
            let (blocks, rank) = match method {
                Method::LowRank => (None, rule.low_rank),
                Method::Monarch => (Some(rule.monarch.blocks), rule.monarch.rank),
                Method::Blast => (Some(rule.blast.blocks), rule.blast.rank),
            };
            Rule {
                layers: rule.layers.to_string(),
                method,
                rank: Some(rank),
                keep: None,
                blocks,
                output_order: None,
            }
        });
        Ok(Self {
            rules: rules.collect(),
        })
    }
}
