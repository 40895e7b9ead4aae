//! `blr eval` of a model that classifies images.

use std::time::Instant;

use models::{Checkpoint, ImagePipeline, Labels, Vit};

use super::eval_report::{Evaluated, Quality};
use crate::arguments::{Common, EvalArguments};
use crate::error::CommandError;
use crate::output;

/// Images that go through the model at once; bounds the memory of activations.
pub const IMAGES_AT_ONCE: usize = 32;

pub fn run(
    common: &Common,
    arguments: &EvalArguments,
    checkpoint: &Checkpoint,
) -> Result<(), CommandError> {
    if let Some(window) = arguments.window {
        return Err(CommandError::Flag {
            flag: "window",
            found: window.to_string(),
            expected: "no window for a model of images".to_string(),
        });
    }
    let labels = Labels::of_checkpoint(checkpoint)?;
    let pipeline = ImagePipeline::of_checkpoint(checkpoint)?;
    let images = models::labelled_images(&arguments.data, &labels)?;
    let chosen = common.choose_device()?;
    let model = Vit::load(checkpoint, &chosen.device, chosen.dtype)?;
    let bar = output::progress(images.len());
    let started = Instant::now();
    let device = &chosen.device;
    let measured = models::accuracy(&model, &pipeline, &images, IMAGES_AT_ONCE, device, |done| {
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    let seconds = started.elapsed().as_secs_f64();
    output::line(format_args!(
        "accuracy {:.4}, {} of {} images in {seconds:.1} s on {}",
        measured.share(),
        measured.correct,
        measured.images,
        chosen.name
    ));
    let quality = Quality::Images {
        accuracy: measured.share(),
        images: measured.images,
        correct: measured.correct,
    };
    Evaluated::new(common, arguments, checkpoint, &chosen, quality, seconds)?
        .write(common, arguments)
}
