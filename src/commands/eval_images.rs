//! `blr eval` of a model that classifies images.

use std::time::Instant;

use models::{Checkpoint, ImagePipeline, Labels, Vit};
use serde::Serialize;

use crate::arguments::{Common, EvalArguments};
use crate::error::CommandError;
use crate::output;

/// Images that go through the model at once; bounds the memory of activations.
pub const IMAGES_AT_ONCE: usize = 32;

#[derive(Serialize)]
struct Report<'a> {
    accuracy: f64,
    images: usize,
    correct: usize,
    seconds: f64,
    device: &'a str,
    dtype: &'a str,
}

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
    let report = Report {
        accuracy: measured.share(),
        images: measured.images,
        correct: measured.correct,
        seconds: started.elapsed().as_secs_f64(),
        device: &chosen.name,
        dtype: common.dtype.as_str(),
    };
    output::line(format_args!(
        "accuracy {:.4}, {} of {} images in {:.1} s on {}",
        report.accuracy, report.correct, report.images, report.seconds, report.device
    ));
    output::write_json(common.json.as_deref(), &report)
}
