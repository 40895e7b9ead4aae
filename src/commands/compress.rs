//! `blr compress`.

use std::path::Path;

use burn::tensor::{Device, FloatDType};
use burn_blr::Structure;
use models::{
    AnyLanguageModel, Checkpoint, Family, ImagePipeline, Pixels, Plan, Rule, TextTokenizer, Vit,
};
use serde::Serialize;
use training::{
    BlastOptions, BlastSolver, Calibration, CompressEvent, CompressRequest, LayerReport, Ranks,
    TrainingError,
};

use super::compress_report::{Compressed, name};
use super::eval;
use super::eval_images::IMAGES_AT_ONCE;
use crate::arguments::{Common, CompressArguments, RankChoice};
use crate::device::ChosenDevice;
use crate::error::CommandError;
use crate::output::{self, Table};

#[derive(Serialize)]
struct Report<'a> {
    device: &'a str,
    out: &'a Path,
    layers: &'a [LayerReport],
}

pub fn run(common: &Common, arguments: &CompressArguments) -> Result<(), CommandError> {
    let plan = plan(arguments)?;
    let blast = blast_options(arguments)?;
    let source = Checkpoint::open(&arguments.checkpoint)?;
    if arguments.out.exists() && !arguments.resume {
        // Before samples are read and run.
        let path = arguments.out.clone();
        return Err(TrainingError::OutputExists { path }.into());
    }
    let chosen = common.choose_device()?;
    let calibration = match &arguments.calibration {
        None => None,
        Some(path) => Some(calibration(&source, path, arguments, &chosen)?),
    };
    if arguments.ranks == RankChoice::ByError && calibration.is_none() {
        return Err(CommandError::Flag {
            flag: "ranks",
            found: "by-error".to_string(),
            expected: "--calibration with it".to_string(),
        });
    }
    let request = CompressRequest {
        source: &source,
        out: &arguments.out,
        plan: &plan,
        ranks: match arguments.ranks {
            RankChoice::Uniform => Ranks::Planned,
            RankChoice::ByError => Ranks::ByError,
        },
        blast,
        device: &chosen.device,
        resume: arguments.resume,
        part: arguments.part,
    };
    let reports = compress_with_progress(&request, calibration)?;
    if let Some(path) = &arguments.plan_out {
        output::write_file(
            path,
            plan_of(&source, &arguments.out)?.to_toml()?.as_bytes(),
        )?;
    }
    let mut facts = vec![
        ("source", source.dir().display().to_string()),
        ("device", chosen.name.clone()),
    ];
    if let Some(path) = &arguments.calibration {
        facts.push(("samples", path.display().to_string()));
    }
    let compressed = Compressed {
        title: format!("Compression of {}", name(source.dir())),
        facts,
        source: (!arguments.part).then_some(&source),
        out: &arguments.out,
        layers: &reports,
    };
    compressed.write()?;
    output::print(table(&reports).text());
    output::line(format_args!("written to {}", arguments.out.display()));
    let report = Report {
        device: &chosen.name,
        out: &arguments.out,
        layers: &reports,
    };
    output::write_json(common.json.as_deref(), &report)
}

/// The model on `device` and the samples of `path` that it runs on.
fn calibration(
    source: &Checkpoint,
    path: &Path,
    arguments: &CompressArguments,
    chosen: &ChosenDevice,
) -> Result<Calibration, CommandError> {
    let (device, samples) = (&chosen.device, arguments.samples);
    match source.family() {
        Family::Vit => {
            let pipeline = ImagePipeline::of_checkpoint(source)?;
            let files = models::images(path)?;
            let count = samples.clamp(1, files.len());
            let mut pixels = vec![];
            for sample in 0..count {
                pixels.push(pipeline.open(&files[sample * files.len() / count])?);
            }
            let mut batches = vec![];
            // A pipeline without a crop leaves images of several sizes.
            for alike in pixels.chunk_by(|a, b| a.size == b.size) {
                for batch in alike.chunks(IMAGES_AT_ONCE) {
                    batches.push(Pixels::batch(batch, device)?);
                }
            }
            let model = Vit::load(source, device, FloatDType::F32)?;
            Ok(Calibration::images(source, model, batches)?)
        }
        _ => {
            source.expect_language_model()?;
            let text = eval::read_text(path)?;
            let tokens = TextTokenizer::open(source.dir())?.encode(&text)?;
            let model = AnyLanguageModel::load(source, device, FloatDType::F32)?;
            let window = eval::LONGEST_WINDOW;
            Ok(Calibration::text(source, model, &tokens, window, samples)?)
        }
    }
}

/// The plan that makes of the dense layers of `source` what they are in `out`.
fn plan_of(source: &Checkpoint, out: &Path) -> Result<Plan, CommandError> {
    let before = models::linear_layers(source)?;
    let was_compressed = |name: &str| {
        let mut before = before.iter();
        before.any(|layer| layer.name == name && layer.structure != Structure::Dense)
    };
    let layers: Vec<_> = models::linear_layers(&Checkpoint::open(out)?)?
        .into_iter()
        .filter(|layer| !was_compressed(&layer.name))
        .map(|layer| {
            let structure = layer.structure;
            (layer, structure)
        })
        .collect();
    Ok(Plan::of_layers(&layers))
}

/// Compresses with a bar over the layers.
pub fn compress_with_progress(
    request: &CompressRequest<'_>,
    calibration: Option<Calibration>,
) -> Result<Vec<LayerReport>, CommandError> {
    let bar = output::progress(0);
    let mut current = String::new();
    let reports = training::compress(request, calibration, &mut |event| match event {
        CompressEvent::Rank { index, count } => {
            bar.set_length(count as u64);
            bar.set_position(index as u64);
            bar.set_message("error of each layer at every rank");
        }
        CompressEvent::Layer {
            index,
            count,
            name,
            structure,
        } => {
            bar.set_length(count as u64);
            bar.set_position(index as u64);
            current = format!("{name} as {structure}");
            bar.set_message(current.clone());
        }
        CompressEvent::Step {
            step,
            relative_error,
        } => {
            bar.set_message(format!("{current}: step {step}, error {relative_error:.4}"));
        }
        CompressEvent::Done { .. } => bar.inc(1),
        CompressEvent::Writing => bar.set_message("writing"),
    })?;
    bar.finish_and_clear();
    Ok(reports)
}

/// A table of what became of each layer.
pub fn table(reports: &[LayerReport]) -> Table {
    let mut table = Table::new([
        "layer",
        "structure",
        "parameters",
        "kept",
        "error",
        "of outputs",
        "steps",
        "seconds",
    ]);
    for report in reports {
        table.row([
            report.layer.clone(),
            report.structure.clone(),
            report.parameters.to_string(),
            format!(
                "{:.3}",
                report.parameters as f64 / report.dense_parameters as f64
            ),
            format!("{:.4}", report.relative_error),
            report
                .output_error
                .map_or_else(String::new, |error| format!("{error:.4}")),
            report.steps.to_string(),
            format!("{:.2}", report.seconds),
        ]);
    }
    table
}

fn plan(arguments: &CompressArguments) -> Result<Plan, CommandError> {
    if let Some(path) = &arguments.plan {
        return Ok(Plan::open(path)?);
    }
    let Some(method) = arguments.method else {
        return Err(CommandError::NoSize);
    };
    if let Some(name) = &arguments.preset {
        return Ok(Plan::preset(name, method)?);
    }
    if arguments.rank.is_none() && arguments.keep.is_none() {
        return Err(CommandError::NoSize);
    }
    Ok(Plan::single(Rule {
        layers: arguments.layers.clone().unwrap_or_default(),
        method,
        rank: arguments.rank,
        keep: arguments.keep,
        blocks: arguments.blocks,
        output_order: None,
    }))
}

fn blast_options(arguments: &CompressArguments) -> Result<BlastOptions, CommandError> {
    let tolerance = arguments.tolerance;
    if !(0.0..1.0).contains(&tolerance) {
        return Err(CommandError::Flag {
            flag: "tolerance",
            found: tolerance.to_string(),
            expected: "a share from 0 to below 1".to_string(),
        });
    }
    let solver = arguments.solver.into();
    if solver == BlastSolver::Published && arguments.calibration.is_some() {
        return Err(CommandError::Flag {
            flag: "solver",
            found: arguments.solver.as_str().to_string(),
            expected: "no --calibration with it".to_string(),
        });
    }
    Ok(BlastOptions {
        solver,
        max_steps: arguments.steps,
        tolerance,
        ..BlastOptions::default()
    })
}

/// A request with the default options.
pub fn request<'a>(
    source: &'a Checkpoint,
    out: &'a Path,
    plan: &'a Plan,
    device: &'a Device,
) -> CompressRequest<'a> {
    CompressRequest {
        source,
        out,
        plan,
        ranks: Ranks::Planned,
        blast: BlastOptions::default(),
        device,
        resume: false,
        part: false,
    }
}
