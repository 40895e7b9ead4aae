//! `blr classify`.

use std::path::Path;
use std::time::Instant;

use models::{Checkpoint, Classification, ImagePipeline, Labels, Pixels, Vit};
use serde::Serialize;

use crate::arguments::{ClassifyArguments, Common};
use crate::error::CommandError;
use crate::output;

#[derive(Serialize)]
struct Report<'a> {
    images: Vec<ImageReport<'a>>,
    seconds: f64,
    device: &'a str,
    dtype: &'a str,
}

#[derive(Serialize)]
struct ImageReport<'a> {
    image: &'a Path,
    top: Vec<LabelReport<'a>>,
}

#[derive(Serialize)]
struct LabelReport<'a> {
    label: usize,
    /// Absent where the checkpoint names no labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    probability: f64,
}

pub fn run(common: &Common, arguments: &ClassifyArguments) -> Result<(), CommandError> {
    if arguments.top == 0 {
        return Err(CommandError::Flag {
            flag: "top",
            found: arguments.top.to_string(),
            expected: "at least 1 label".to_string(),
        });
    }
    let checkpoint = Checkpoint::open(&arguments.checkpoint)?;
    let labels = Labels::of_checkpoint(&checkpoint)?;
    let pipeline = ImagePipeline::of_checkpoint(&checkpoint)?;
    // Before the model, which takes longer: a file that is no image is reported at once.
    let pixels = arguments
        .images
        .iter()
        .map(|image| pipeline.open(image))
        .collect::<Result<Vec<_>, _>>()?;
    let chosen = common.choose_device()?;
    let model = Vit::load(&checkpoint, &chosen.device, chosen.dtype)?;
    let started = Instant::now();
    let mut images = Vec::with_capacity(pixels.len());
    for (path, pixels) in arguments.images.iter().zip(pixels) {
        let pixels = Pixels::batch(&[pixels], &chosen.device)?;
        let rows = model.classify(pixels, arguments.top)?;
        images.extend(rows.into_iter().map(|row| ImageReport {
            image: path,
            top: row.iter().map(|found| report(found, &labels)).collect(),
        }));
    }
    let seconds = started.elapsed().as_secs_f64();
    for image in &images {
        output::line(image.image.display());
        for found in &image.top {
            let name = match found.name {
                Some(name) => name.to_string(),
                None => format!("label {}", found.label),
            };
            output::line(format_args!(
                "  {:6.2} %  {name}",
                100.0 * found.probability
            ));
        }
    }
    let report = Report {
        images,
        seconds,
        device: &chosen.name,
        dtype: common.dtype.as_str(),
    };
    output::write_json(common.json.as_deref(), &report)
}

fn report<'a>(found: &Classification, labels: &'a Labels) -> LabelReport<'a> {
    LabelReport {
        label: found.label,
        name: labels.text(found.label),
        probability: found.probability,
    }
}
