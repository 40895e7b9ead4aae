//! The captured passes that the library gives its users, as what is timed.

use burn::tensor::Tensor;
use burn_blr::graph::GraphError;
use models::{AnyLanguageModel, CapturedForward, CapturedPass, Decoder, ModelError, PassInputs};

use crate::device_timing::{Captured, Replay};
use crate::error::CommandError;

/// What a pass makes: one row for each row of the batch.
type Made = Result<Tensor<2>, ModelError>;

/// A forward pass that has run on `inputs`.
pub fn forward<'a, I: PassInputs + 'a, const D: usize>(
    forward: Result<CapturedForward<'a, I, D>, ModelError>,
    inputs: I,
) -> Result<Captured<'a, Made>, GraphError> {
    let forward = forward.map_err(failed)?;
    forward.run(inputs).map_err(failed)?;
    Ok(Box::new(forward.into_captured()?))
}

/// A step of a decoder that has run on `ids`.
pub fn step<'a>(
    decoder: Result<Decoder<'a, AnyLanguageModel>, ModelError>,
    ids: &[u32],
) -> Result<Captured<'a, Made>, GraphError> {
    let mut decoder = decoder.map_err(failed)?;
    decoder.step(ids).map_err(failed)?;
    Ok(Box::new(decoder.into_captured()?))
}

fn failed(error: ModelError) -> GraphError {
    GraphError {
        reason: error.to_string(),
    }
}

impl<I, const D: usize> Replay for CapturedPass<'_, I, D> {
    type Result = Made;

    fn replay(&self) -> Result<(), CommandError> {
        Ok(CapturedPass::replay(self)?)
    }

    fn spoil(&self) {
        self.spoil_output();
    }

    fn into_last(self: Box<Self>) -> Option<Made> {
        Some(Ok(self.output().clone().flatten(1, D - 1)))
    }
}
