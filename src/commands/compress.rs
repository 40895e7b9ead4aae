//! `blr compress`.

use std::path::Path;

use burn::tensor::Device;
use models::{Checkpoint, Plan, Rule};
use serde::Serialize;
use training::{BlastOptions, CompressEvent, CompressRequest, LayerReport};

use crate::arguments::{Common, CompressArguments};
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
    let chosen = common.choose_device()?;
    let request = CompressRequest {
        source: &source,
        out: &arguments.out,
        plan: &plan,
        blast,
        device: &chosen.device,
        resume: arguments.resume,
    };
    let reports = compress_with_progress(&request)?;
    output::print(table(&reports).text());
    output::line(format_args!("written to {}", arguments.out.display()));
    let report = Report {
        device: &chosen.name,
        out: &arguments.out,
        layers: &reports,
    };
    output::write_json(common.json.as_deref(), &report)
}

/// Compresses with a bar over the layers.
pub fn compress_with_progress(
    request: &CompressRequest<'_>,
) -> Result<Vec<LayerReport>, CommandError> {
    let bar = output::progress(0);
    let mut current = String::new();
    let reports = training::compress(request, &mut |event| match event {
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
            bar.set_message(format!(
                "{current}: step {step}, error {relative_error:.4}"
            ));
        }
        CompressEvent::Done { .. } => bar.inc(1),
        CompressEvent::Writing => bar.set_message("writing"),
    })?;
    bar.finish_and_clear();
    Ok(reports)
}

/// A table of what became of each layer.
fn table(reports: &[LayerReport]) -> Table {
    let mut table = Table::new([
        "layer",
        "structure",
        "parameters",
        "kept",
        "error",
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
    Ok(BlastOptions {
        solver: arguments.solver.into(),
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
        blast: BlastOptions::default(),
        device,
        resume: false,
    }
}
