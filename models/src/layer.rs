//! The linear layers of a checkpoint that a structure may replace.

use std::path::Path;

use burn_blr::Structure;
use serde_json::Value;

use crate::{
    Checkpoint, DitConfig, Family, Gpt2Config, LlamaConfig, ModelError, Plan, VitConfig, loader,
};

/// Which axis of a stored weight is the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightLayout {
    /// `[in_features, out_features]`, as GPT-2 stores its weights.
    InOut,
    /// `[out_features, in_features]`, as every other family does.
    OutIn,
    /// As [`WeightLayout::OutIn`], but a layer `S.qkv` lies in three tensors one below the other:
    /// `S.query.weight`, `S.key.weight` and `S.value.weight`, each with a bias of its own. Its
    /// factors are stored for the joined layer, the biases stay where they are.
    QueryKeyValue,
}

/// What the three parts of a layer of [`WeightLayout::QueryKeyValue`] are called, in its order.
const PARTS: [&str; 3] = ["query", "key", "value"];

/// What the joined layer is called.
const JOINED: &str = "qkv";

/// How the tensors of a BLAST layer `P` are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FactorNames {
    /// `P.blast.u`, `P.blast.s`, `P.blast.v`, as this crate writes them.
    Blr,
    /// `P.B`, `P.D`, `P.C`, as in a published `blast_llama` checkpoint.
    BlastLlama,
}

/// A linear layer of a model that compression may replace.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearLayer {
    /// Its name `P`, as in the checkpoint: the dense weight is `P.weight`, the bias `P.bias`.
    pub name: String,
    /// Width of the input.
    pub in_features: usize,
    /// Width of the output.
    pub out_features: usize,
    /// How a dense weight is stored. Factors have one layout, whatever this is.
    pub layout: WeightLayout,
    /// Whether the layer has a bias.
    pub has_bias: bool,
    /// What the layer is in the checkpoint; dense if it was not replaced.
    pub structure: Structure,
    /// How its factors are named if that is BLAST.
    pub factors: FactorNames,
}

impl LinearLayer {
    /// A layer that was not replaced.
    pub(crate) fn dense(
        name: impl Into<String>,
        in_features: usize,
        out_features: usize,
        layout: WeightLayout,
        has_bias: bool,
    ) -> Self {
        Self {
            name: name.into(),
            in_features,
            out_features,
            layout,
            has_bias,
            structure: Structure::Dense,
            factors: FactorNames::Blr,
        }
    }

    /// Name of the dense weight, `P.weight`.
    pub fn weight_name(&self) -> String {
        format!("{}.weight", self.name)
    }

    /// Shape of the dense weight as it is stored, its parts one below the other.
    pub fn weight_shape(&self) -> [usize; 2] {
        match self.layout {
            WeightLayout::InOut => [self.in_features, self.out_features],
            WeightLayout::OutIn | WeightLayout::QueryKeyValue => {
                [self.out_features, self.in_features]
            }
        }
    }

    /// The names under which the layer is stored while it is dense: its own, or those of its parts.
    pub fn stored_names(&self) -> Vec<String> {
        match (self.layout, self.name.strip_suffix(JOINED)) {
            (WeightLayout::QueryKeyValue, Some(stem)) => {
                PARTS.map(|part| format!("{stem}{part}")).to_vec()
            }
            _ => vec![self.name.clone()],
        }
    }

    /// Names and shapes of the tensors that hold the dense weight, one below the other.
    pub fn dense_tensors(&self) -> Vec<(String, [usize; 2])> {
        let names = self.stored_names();
        let [rows, columns] = self.weight_shape();
        let shape = [rows / names.len(), columns];
        let tensors = names.into_iter();
        tensors
            .map(|name| (format!("{name}.weight"), shape))
            .collect()
    }

    /// Names and lengths of the tensors that hold the bias, one after the other; none where the
    /// layer has no bias.
    pub fn bias_tensors(&self) -> Vec<(String, usize)> {
        if !self.has_bias {
            return Vec::new();
        }
        let names = self.stored_names();
        let length = self.out_features / names.len();
        let tensors = names.into_iter();
        tensors
            .map(|name| (format!("{name}.bias"), length))
            .collect()
    }

    /// The layer that dense layers of query, key and value are together, `None` if these are not
    /// such layers of one attention.
    pub(crate) fn join(parts: &[Self; 3]) -> Option<Self> {
        let [query, ..] = parts;
        let stem = query.name.strip_suffix(PARTS[0])?;
        let alike = parts.iter().zip(PARTS).all(|(layer, part)| {
            let same = Self {
                name: layer.name.clone(),
                ..query.clone()
            };
            *layer == same && layer.name.strip_prefix(stem) == Some(part)
        });
        let joinable = query.structure == Structure::Dense && query.layout == WeightLayout::OutIn;
        (alike && joinable).then(|| Self {
            name: format!("{stem}{JOINED}"),
            out_features: parts.len() * query.out_features,
            layout: WeightLayout::QueryKeyValue,
            ..query.clone()
        })
    }

    /// Names and shapes of the tensors that hold the weight if the layer has `structure`, without
    /// bias.
    pub fn weight_tensors(&self, structure: &Structure) -> Vec<(String, Vec<usize>)> {
        let name = |factor: &str| format!("{}.{factor}", self.name);
        let (inputs, outputs) = (self.in_features, self.out_features);
        match *structure {
            Structure::Dense => {
                let tensors = self.dense_tensors().into_iter();
                tensors
                    .map(|(name, shape)| (name, shape.to_vec()))
                    .collect()
            }
            Structure::LowRank { rank } => vec![
                (name("low_rank.u"), vec![outputs, rank]),
                (name("low_rank.v"), vec![rank, inputs]),
            ],
            // `max` so that a block count of zero, which `check_structure` refuses, cannot divide.
            Structure::Monarch { blocks, rank, .. } => vec![
                (
                    name("monarch.right"),
                    vec![blocks, rank, inputs / blocks.max(1)],
                ),
                (
                    name("monarch.left"),
                    vec![blocks, outputs / blocks.max(1), rank],
                ),
            ],
            Structure::Blast { blocks, rank } => {
                let [u, s, v] = self.blast_names();
                vec![
                    (u, vec![blocks, outputs / blocks.max(1), rank]),
                    (s, vec![blocks, blocks, rank]),
                    (v, vec![blocks, rank, inputs / blocks.max(1)]),
                ]
            }
        }
    }

    /// Names of `u`, `s` and `v` of a BLAST layer.
    pub(crate) fn blast_names(&self) -> [String; 3] {
        let suffixes = match self.factors {
            FactorNames::Blr => ["blast.u", "blast.s", "blast.v"],
            FactorNames::BlastLlama => ["B", "D", "C"],
        };
        suffixes.map(|suffix| format!("{}.{suffix}", self.name))
    }

    /// Weights of the dense layer, without bias.
    pub fn dense_parameters(&self) -> usize {
        self.in_features * self.out_features
    }

    /// Weights of the layer as it is, without bias.
    pub fn parameters(&self) -> usize {
        self.structure
            .parameters(self.in_features, self.out_features)
    }
}

/// Checks that `layer` can have `structure`.
///
/// # Errors
///
/// [`ModelError::Structure`] if blocks or rank do not divide, are zero, or too large.
pub fn check_structure(layer: &LinearLayer, structure: &Structure) -> Result<(), ModelError> {
    structure
        .validate(layer.in_features, layer.out_features)
        .map_err(|source| ModelError::Structure {
            layer: layer.name.clone(),
            in_features: layer.in_features,
            out_features: layer.out_features,
            structure: *structure,
            source: Box::new(source),
        })
}

/// The layers of `checkpoint` that compression may replace, in the order of the model.
///
/// Layers of query, key and value that are stored apart are listed apart, unless they were replaced
/// together; [`Plan::resolve`] joins them where a rule names the joined layer.
///
/// A layer that was replaced already is listed with its structure. Only names and the `blr` section
/// are looked at; whether the tensors are there and have the right shapes shows when the model is
/// loaded.
///
/// # Errors
///
/// [`ModelError::InvalidKey`] for a configuration that cannot be used; [`ModelError::UnknownBlrLayer`]
/// and [`ModelError::Structure`] for a `blr` section that does not fit the model.
pub fn linear_layers(checkpoint: &Checkpoint) -> Result<Vec<LinearLayer>, ModelError> {
    let mut layers = match checkpoint.family() {
        Family::Gpt2 => loader::gpt2::linear_layers(checkpoint)?,
        Family::Llama => loader::llama::linear_layers(checkpoint)?,
        Family::Vit => loader::vit::linear_layers(checkpoint)?,
        Family::Dit => loader::dit::linear_layers(checkpoint)?,
    };
    join_named(&mut layers, |name| {
        checkpoint.blr().layers.contains_key(name)
    });
    for (name, entry) in &checkpoint.blr().layers {
        let layer = layers.iter_mut().find(|layer| layer.name == *name);
        let layer = layer.ok_or_else(|| ModelError::UnknownBlrLayer {
            path: checkpoint.config_path(),
            layer: name.clone(),
        })?;
        let structure = entry.structure();
        check_structure(layer, &structure)?;
        layer.structure = structure;
        layer.factors = FactorNames::Blr;
    }
    Ok(layers)
}

/// The layers that compression may replace in a model of `family` with the configuration `config`,
/// all dense; `path` is where that came from, for the errors.
///
/// # Errors
///
/// [`ModelError::InvalidKey`] and [`ModelError::MissingKey`] for a configuration that cannot be used.
pub fn linear_layers_of(
    family: Family,
    config: &Value,
    path: &Path,
) -> Result<Vec<LinearLayer>, ModelError> {
    Ok(match family {
        Family::Gpt2 => Gpt2Config::from_json(config, path)?.linear_layers(),
        Family::Llama => LlamaConfig::from_json(config, path)?.linear_layers(),
        Family::Vit => VitConfig::from_json(config, path)?.linear_layers(),
        Family::Dit => DitConfig::from_json(config, path)?.linear_layers(),
    })
}

/// Puts the joined layer in the place of query, key and value where `wanted` says so of its name.
fn join_named(layers: &mut Vec<LinearLayer>, wanted: impl Fn(&str) -> bool) {
    for layer in std::mem::take(layers) {
        layers.push(layer);
        let joined = layers
            .last_chunk()
            .and_then(LinearLayer::join)
            .filter(|joined| wanted(&joined.name));
        if let Some(joined) = joined {
            layers.truncate(layers.len() - PARTS.len());
            layers.push(joined);
        }
    }
}

/// The same layers with the structures that `plan` gives them.
pub(crate) fn planned(
    mut layers: Vec<LinearLayer>,
    plan: Option<&Plan>,
) -> Result<Vec<LinearLayer>, ModelError> {
    let Some(plan) = plan else {
        return Ok(layers);
    };
    let resolved = plan.resolve(&layers)?;
    let joined: Vec<_> = resolved
        .iter()
        .filter(|(layer, _)| layer.layout == WeightLayout::QueryKeyValue)
        .map(|(layer, _)| layer.name.as_str())
        .collect();
    join_named(&mut layers, |name| joined.contains(&name));
    let mut resolved = resolved.iter().peekable();
    // Both are in the order of the model.
    for layer in &mut layers {
        if let Some((_, structure)) = resolved.next_if(|(chosen, _)| chosen.name == layer.name) {
            layer.structure = *structure;
        }
    }
    Ok(layers)
}
