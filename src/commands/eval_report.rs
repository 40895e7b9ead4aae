//! What `blr eval` writes: the numbers, and a page with those of other models beside them.

use std::path::{Path, PathBuf};

use models::Checkpoint;
use serde::{Deserialize, Serialize};

use super::compress_report::name;
use super::inspect;
use crate::arguments::{Common, EvalArguments};
use crate::device::ChosenDevice;
use crate::error::CommandError;
use crate::html::{self, LayerSeries, Look, Page, Scale};
use crate::output::{self, Table};

/// How good a model is on its data.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Quality {
    Text {
        loss: f64,
        perplexity: f64,
        tokens: usize,
        window: usize,
    },
    Images {
        accuracy: f64,
        images: usize,
        correct: usize,
    },
}

/// How good a model is, and what it is.
#[derive(Serialize, Deserialize)]
pub struct Evaluated {
    #[serde(flatten)]
    quality: Quality,
    seconds: f64,
    device: String,
    dtype: String,
    data: PathBuf,
    checkpoint: PathBuf,
    model: inspect::Report,
}

impl Quality {
    /// The number that models are compared by.
    fn value(&self) -> f64 {
        match *self {
            Quality::Text { perplexity, .. } => perplexity,
            Quality::Images { accuracy, .. } => accuracy,
        }
    }

    /// What that number is, with its unit, and how it is drawn.
    fn axis(&self) -> (&'static str, Scale) {
        match self {
            Quality::Text { .. } => ("perplexity (of a token)", Scale::Log),
            Quality::Images { .. } => ("accuracy (share of images)", Scale::FromZero),
        }
    }

    fn of_images(&self) -> bool {
        matches!(self, Quality::Images { .. })
    }

    /// What was evaluated on, in words.
    fn data(&self) -> String {
        match self {
            Quality::Text { tokens, window, .. } => {
                format!("{tokens} tokens in windows of up to {window}")
            }
            Quality::Images { images, .. } => format!("{images} images"),
        }
    }
}

impl Evaluated {
    pub fn new(
        common: &Common,
        arguments: &EvalArguments,
        checkpoint: &Checkpoint,
        chosen: &ChosenDevice,
        quality: Quality,
        seconds: f64,
    ) -> Result<Self, CommandError> {
        Ok(Evaluated {
            quality,
            seconds,
            device: chosen.name.clone(),
            dtype: common.dtype.as_str().to_string(),
            data: arguments.data.clone(),
            checkpoint: arguments.checkpoint.clone(),
            model: inspect::inspect(checkpoint)?,
        })
    }

    /// Writes what the flags ask for.
    pub fn write(self, common: &Common, arguments: &EvalArguments) -> Result<(), CommandError> {
        output::write_json(common.json.as_deref(), &self)?;
        let Some(path) = &arguments.report else {
            return Ok(());
        };
        let mut all = Self::beside(arguments, self.quality.of_images())?;
        all.push(self);
        let Some(last) = all.last() else {
            return Ok(());
        };
        output::write_file(path, page(&all, last).html().as_bytes())?;
        output::line(format_args!("report in {}", path.display()));
        Ok(())
    }

    /// Reads what earlier evaluations wrote, on images or on text.
    pub fn beside(arguments: &EvalArguments, of_images: bool) -> Result<Vec<Self>, CommandError> {
        let open = |path: &PathBuf| {
            let one = Self::open(path)?;
            match one.quality.of_images() == of_images {
                true => Ok(one),
                false => Err(CommandError::Flag {
                    flag: "beside",
                    found: path.display().to_string(),
                    expected: "models evaluated on the same kind of data".to_string(),
                }),
            }
        };
        arguments.beside.iter().map(open).collect()
    }

    fn open(path: &Path) -> Result<Self, CommandError> {
        let text = std::fs::read(path).map_err(|source| CommandError::Io {
            path: path.to_path_buf(),
            source,
        })?;
        serde_json::from_slice(&text).map_err(|error| CommandError::NotEvalReport {
            path: path.to_path_buf(),
            reason: error.to_string(),
        })
    }
}

/// The page about models, the one that was just evaluated last.
fn page(all: &[Evaluated], last: &Evaluated) -> Page {
    let mut page = Page::new(&match all.len() {
        1 => format!("Evaluation of {}", name(&last.checkpoint)),
        count => format!("Evaluation of {count} models"),
    });
    page.facts(&[
        ("data", last.data.display().to_string()),
        ("of it", last.quality.data()),
        ("device", format!("{} ({})", last.device, last.dtype)),
    ]);
    let models: Vec<html::Model> = all
        .iter()
        .map(|one| one.model.as_model(name(&one.checkpoint)))
        .collect();
    let qualities: Vec<_> = models
        .iter()
        .zip(all)
        .map(|(model, one)| (model, one.quality.value()))
        .collect();
    let (label, scale) = last.quality.axis();
    page.heading("Quality");
    html::quality_plot(
        &mut page,
        "Quality over size",
        label,
        scale,
        &qualities,
        false,
    );
    page.table("The models", &models_table(all));
    page.heading("Size");
    html::size_plot(&mut page, &models);
    if let Some(series) = errors(&models, all) {
        page.heading("Layers");
        html::layer_plots(
            &mut page,
            "Error of each compressed layer, as it was when it was compressed",
            "relative error",
            &series,
        );
        page.table(
            "The layers of the compressed models",
            &layers_table(&models, all),
        );
    }
    page
}

/// The errors that the checkpoints state, nothing where they state none.
fn errors<'a>(models: &[html::Model], all: &'a [Evaluated]) -> Option<Vec<LayerSeries<'a>>> {
    let mut series: Vec<LayerSeries<'_>> = vec![];
    for (model, one) in models.iter().zip(all) {
        let values: Vec<_> = one
            .model
            .layers
            .iter()
            .filter_map(|row| Some((row.layer.as_str(), row.relative_error?)))
            .collect();
        if values.is_empty() {
            continue;
        }
        series.push(LayerSeries {
            name: model.name.clone(),
            look: model.look,
            // A second model of the same structure.
            hollow: series.iter().any(|other| other.look == model.look),
            values,
        });
    }
    (!series.is_empty()).then_some(series)
}

fn models_table(all: &[Evaluated]) -> Table {
    let quality: &[&str] = match all.first().map(|one| one.quality) {
        Some(Quality::Images { .. }) => &["accuracy", "correct", "images"],
        _ => &["perplexity", "loss", "tokens"],
    };
    let [first, second, third] = [0, 1, 2].map(|n| quality.get(n).copied().unwrap_or_default());
    let mut table = Table::new([
        "checkpoint",
        "structure",
        "parameters",
        "kept",
        "bytes",
        first,
        second,
        third,
        "data",
        "device",
        "seconds",
    ]);
    for one in all {
        let model = &one.model;
        let [first, second, third] = match one.quality {
            Quality::Text {
                loss,
                perplexity,
                tokens,
                ..
            } => [
                format!("{perplexity:.3}"),
                format!("{loss:.4}"),
                tokens.to_string(),
            ],
            Quality::Images {
                accuracy,
                images,
                correct,
            } => [
                format!("{accuracy:.4}"),
                correct.to_string(),
                images.to_string(),
            ],
        };
        table.row([
            name(&one.checkpoint),
            model.as_model(String::new()).look.name().to_string(),
            model.parameters.to_string(),
            format!(
                "{:.3}",
                model.parameters as f64 / model.dense_parameters as f64
            ),
            output::bytes(model.bytes),
            first,
            second,
            third,
            name(&one.data),
            format!("{} ({})", one.device, one.dtype),
            format!("{:.1}", one.seconds),
        ]);
    }
    table
}

fn layers_table(models: &[html::Model], all: &[Evaluated]) -> Table {
    let mut table = Table::new([
        "layer",
        "checkpoint",
        "structure",
        "parameters",
        "kept",
        "error",
    ]);
    let compressed = |(model, _): &(&html::Model, &Evaluated)| model.look != Look::Dense;
    for (model, one) in models.iter().zip(all).filter(compressed) {
        for row in &one.model.layers {
            table.row([
                row.layer.clone(),
                model.name.clone(),
                row.structure.clone(),
                row.parameters.to_string(),
                format!("{:.3}", row.parameters as f64 / row.dense_parameters as f64),
                row.relative_error
                    .map_or_else(String::new, |error| format!("{error:.4}")),
            ]);
        }
    }
    table
}
