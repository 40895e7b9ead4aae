//! What the layers of a model see while samples pass through it, block by block.

use std::collections::HashMap;

use burn::module::ParamId;
use burn::tensor::{FloatDType, Tensor};
use burn_blr::ops::exact_product;
use burn_blr::{BlrLinear, observe_inputs};
use models::{
    AnyLanguageModel, BlockModel, BlockState, Checkpoint, LanguageModel, LinearLayer, ModelError,
    Vit, linear_layers,
};

use super::checksum::Checksum;
use super::host::{entries, frobenius_norm};
use crate::TrainingError;

/// Most tokens that go through a language model at once; bounds the memory of activations.
const TOKENS_AT_ONCE: usize = 8192;

/// A model and the samples that pass through it.
///
/// It stands before one of the blocks and goes on to later ones as their layers are asked for.
#[derive(Debug)]
pub struct Calibration {
    model: Box<dyn BlockModel>,
    /// The samples before block `block`, a batch each.
    states: Vec<BlockState>,
    block: usize,
    /// Where the layers of the checkpoint are, by name.
    places: HashMap<String, Place>,
    /// What the samples are, to tell them from others.
    description: String,
}

/// Where a layer is. Layers of the same stage see the same.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Place {
    block: usize,
    stage: usize,
    id: ParamId,
}

impl Calibration {
    /// Up to `samples` windows of `window` of `tokens`, taken at equal distances, or all of the text
    /// where it is shorter than a window, for `model` as loaded from `checkpoint`.
    ///
    /// # Errors
    ///
    /// [`ModelError::TooFewTokens`] and [`ModelError::TokenOutOfRange`] for a text that the model
    /// cannot run on; those of [`linear_layers`].
    pub fn text(
        checkpoint: &Checkpoint,
        model: AnyLanguageModel,
        tokens: &[u32],
        window: usize,
        samples: usize,
    ) -> Result<Self, TrainingError> {
        let window = window.min(model.max_tokens()).min(tokens.len());
        if window < 2 {
            return Err(ModelError::TooFewTokens {
                found: window,
                min: 2,
            }
            .into());
        }
        let windows: Vec<_> = tokens.chunks_exact(window).collect();
        let count = samples.clamp(1, windows.len());
        let taken: Vec<_> = (0..count)
            .map(|sample| windows[sample * windows.len() / count])
            .collect();
        let sum = checksum(taken.iter().flat_map(|window| window.iter().copied()));
        let batches = taken
            .chunks((TOKENS_AT_ONCE / window).max(1))
            .map(|windows| model.input_ids(&windows.concat(), windows.len()))
            .collect::<Result<Vec<_>, _>>()?;
        let (model, states) = model.into_blocks(batches)?;
        let description = format!("{count} windows of {window} tokens, {sum}");
        Self::new(checkpoint, model, states, description)
    }

    /// Batches of images `[batch, channels, height, width]`, prepared as `model`, loaded from
    /// `checkpoint`, needs them.
    ///
    /// # Errors
    ///
    /// [`TrainingError::NoSamples`] without images; [`TrainingError::Device`] if they cannot be read
    /// back; [`ModelError::PixelShape`]; those of [`linear_layers`].
    pub fn images(
        checkpoint: &Checkpoint,
        model: Vit,
        batches: Vec<Tensor<4>>,
    ) -> Result<Self, TrainingError> {
        let count: usize = batches.iter().map(|batch| batch.dims()[0]).sum();
        if count == 0 {
            return Err(TrainingError::NoSamples);
        }
        let mut pixels = vec![];
        for batch in &batches {
            pixels.extend(entries(batch.clone())?);
        }
        let sum = checksum(pixels.into_iter().map(f32::to_bits));
        let (model, states) = model.into_blocks(batches)?;
        Self::new(checkpoint, model, states, format!("{count} images, {sum}"))
    }

    fn new(
        checkpoint: &Checkpoint,
        model: Box<dyn BlockModel>,
        states: Vec<BlockState>,
        description: String,
    ) -> Result<Self, TrainingError> {
        let mut found = vec![];
        for (block, stages) in model.stages().into_iter().enumerate() {
            for (stage, layers) in stages.into_iter().enumerate() {
                let ids = layers.into_iter().map(BlrLinear::id);
                found.extend(ids.map(|id| Place { block, stage, id }));
            }
        }
        let layers = linear_layers(checkpoint)?;
        if layers.len() != found.len() {
            return Err(ModelError::UnknownLayer.into());
        }
        let names = layers.into_iter().map(|layer| layer.name);
        Ok(Calibration {
            places: names.zip(found).collect(),
            model,
            states,
            block: 0,
            description,
        })
    }

    /// The same before whatever block it stands, with a model of its own.
    pub(super) fn copy(&self) -> Self {
        Calibration {
            model: self.model.copy(),
            states: self.states.clone(),
            block: self.block,
            places: self.places.clone(),
            description: self.description.clone(),
        }
    }

    /// What the samples are.
    pub(super) fn description(&self) -> &str {
        &self.description
    }

    /// Whether two layers see the same.
    pub(super) fn see_the_same(&self, one: &LinearLayer, other: &LinearLayer) -> bool {
        match (self.parts(one).as_deref(), self.parts(other).as_deref()) {
            (Ok([one, ..]), Ok([other, ..])) => {
                (one.block, one.stage) == (other.block, other.stage)
            }
            _ => false,
        }
    }

    /// The second moment `E[x xᵀ] [in, in]` of the inputs of `layer`, in `f32`.
    ///
    /// Layers are asked for in the order of the model: a block that was gone through is behind.
    pub(super) fn moment(&mut self, layer: &LinearLayer) -> Result<Tensor<2>, TrainingError> {
        let (place, _) = self.go_to(layer)?;
        let (mut sum, mut rows): (Option<Tensor<3>>, usize) = (None, 0);
        for state in &self.states {
            let apply = || self.model.apply_block(place.block, state);
            let (_, inputs) = observe_inputs(&[place.id], apply);
            for (_, input) in inputs {
                rows += input.dims()[0];
                let input: Tensor<3> = input.cast(FloatDType::F32).unsqueeze();
                let square = exact_product(input.clone().swap_dims(1, 2), input);
                sum = Some(match sum {
                    None => square,
                    Some(sum) => sum + square,
                });
            }
        }
        let sum = sum.ok_or(ModelError::UnknownLayer)?;
        Ok(sum.squeeze_dim(0) / rows.max(1) as f64)
    }

    /// By how much the output of the model changes on the first batch where `factors` replace
    /// `layer`: the squared norm of the change over that of the output.
    pub(super) fn change(
        &mut self,
        layer: &LinearLayer,
        factors: BlrLinear,
    ) -> Result<f64, TrainingError> {
        self.go_to(layer)?;
        let mut changed = self.copy();
        changed.replace(layer, factors)?;
        let (output, other) = (self.output()?, changed.output()?);
        let norm = frobenius_norm(output.clone())?;
        let change = frobenius_norm(output - other)?;
        Ok((change / norm.max(f64::MIN_POSITIVE)).powi(2))
    }

    /// What the model makes of the first batch.
    fn output(&self) -> Result<Tensor<2>, TrainingError> {
        let first = self.states.first().ok_or(TrainingError::NoSamples)?;
        let mut state = first.clone();
        for block in self.block..self.model.blocks().len() {
            state = self.model.apply_block(block, &state);
        }
        Ok(self.model.finish(&state))
    }

    /// Puts `factors` in the place of `layer`, so that later layers see what they will see.
    pub(super) fn replace(
        &mut self,
        layer: &LinearLayer,
        factors: BlrLinear,
    ) -> Result<(), TrainingError> {
        let (_, parts) = self.go_to(layer)?;
        let ids: Vec<_> = parts.iter().map(|place| place.id).collect();
        Ok(self.model.replace_linear(&ids, factors)?)
    }

    /// Takes the samples to the block of `layer`; returns where its parts are, the first apart.
    fn go_to(&mut self, layer: &LinearLayer) -> Result<(Place, Vec<Place>), TrainingError> {
        let parts = self.parts(layer)?;
        let first = parts.first().copied().ok_or(ModelError::UnknownLayer)?;
        while self.block < first.block {
            for state in &mut self.states {
                *state = self.model.apply_block(self.block, state);
            }
            self.block += 1;
        }
        Ok((first, parts))
    }

    /// Where the layers are that `layer` is made of.
    fn parts(&self, layer: &LinearLayer) -> Result<Vec<Place>, TrainingError> {
        let names = layer.stored_names().into_iter();
        let parts: Option<Vec<_>> = names.map(|name| self.places.get(&name).copied()).collect();
        Ok(parts.ok_or(ModelError::UnknownLayer)?)
    }
}

/// A number that tells the samples apart.
fn checksum(words: impl Iterator<Item = u32>) -> Checksum {
    let mut checksum = Checksum::new();
    words.for_each(|word| checksum.word(word));
    checksum
}
