//! The linear layers of a checkpoint that a structure may replace.

use burn_blr::Structure;

use crate::{Checkpoint, Family, ModelError, Plan, loader};

/// Which axis of a stored weight is the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightLayout {
    /// `[in_features, out_features]`, as GPT-2 stores its weights.
    InOut,
    /// `[out_features, in_features]`, as every other family does.
    OutIn,
}

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
    /// Name of the dense weight, `P.weight`.
    pub fn weight_name(&self) -> String {
        format!("{}.weight", self.name)
    }

    /// Name of the bias, `P.bias`, where the layer has one.
    pub fn bias_name(&self) -> Option<String> {
        self.has_bias.then(|| format!("{}.bias", self.name))
    }

    /// Shape of the dense weight as it is stored.
    pub fn weight_shape(&self) -> [usize; 2] {
        match self.layout {
            WeightLayout::InOut => [self.in_features, self.out_features],
            WeightLayout::OutIn => [self.out_features, self.in_features],
        }
    }

    /// Names and shapes of the tensors that hold the weight if the layer has `structure`, without
    /// bias.
    pub fn weight_tensors(&self, structure: &Structure) -> Vec<(String, Vec<usize>)> {
        let name = |factor: &str| format!("{}.{factor}", self.name);
        let (inputs, outputs) = (self.in_features, self.out_features);
        match *structure {
            Structure::Dense => vec![(self.weight_name(), self.weight_shape().to_vec())],
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
    };
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

/// The same layers with the structures that `plan` gives them.
pub(crate) fn planned(
    mut layers: Vec<LinearLayer>,
    plan: Option<&Plan>,
) -> Result<Vec<LinearLayer>, ModelError> {
    let Some(plan) = plan else {
        return Ok(layers);
    };
    let mut resolved = plan.resolve(&layers)?.into_iter().peekable();
    // Both are in the order of the model.
    for layer in &mut layers {
        if let Some((_, structure)) = resolved.next_if(|(chosen, _)| chosen.name == layer.name) {
            layer.structure = structure;
        }
    }
    Ok(layers)
}
