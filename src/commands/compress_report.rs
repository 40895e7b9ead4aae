//! The page that `blr compress` writes.

use std::path::Path;

use models::Checkpoint;
use training::LayerReport;

use super::compress::table;
use super::inspect;
use crate::arguments::{CompressArguments, RankChoice};
use crate::error::CommandError;
use crate::html::{self, LayerSeries, Look, Page};
use crate::output;

/// What the page is called, in the directory of the compressed checkpoint.
pub const FILE: &str = "report.html";

/// Writes the page into the directory of the compressed checkpoint.
pub fn write(
    source: &Checkpoint,
    arguments: &CompressArguments,
    device: &str,
    reports: &[LayerReport],
) -> Result<(), CommandError> {
    let out = &arguments.out;
    let mut page = Page::new(&format!("Compression of {}", name(source.dir())));
    page.facts(&facts(source, arguments, device, reports));
    let before = inspect::inspect(source)?.as_model("before".to_string());
    let after = inspect::inspect(&Checkpoint::open(out)?)?.as_model("after".to_string());
    page.heading("Size");
    html::size_plot(&mut page, &[before, after]);
    page.heading("Layers");
    html::layer_plots(
        &mut page,
        "Error of each layer, 0 for none and 1 for what leaving it out costs",
        "relative error",
        &errors(reports),
    );
    if arguments.plan.is_some() || arguments.ranks == RankChoice::ByError {
        html::layer_plots(
            &mut page,
            "Share of the weights of each layer that is kept",
            "share kept",
            &by_look(reports, "", false, |report| Some(kept(report))),
        );
    }
    html::layer_plots(
        &mut page,
        "Time that each layer took to compress",
        "seconds",
        &by_look(reports, "", false, |report| Some(report.seconds)),
    );
    page.table("What became of each layer", &table(reports));
    page.paragraph(
        "Parameters without biases. The error is ‖W − Ŵ‖ / ‖W‖ in the Frobenius norm, of the factors \
         as they are stored; that of outputs is ‖(W − Ŵ) x‖ / ‖W x‖, root mean squares over the \
         samples.",
    );
    output::replace_file(&out.join(FILE), page.html().as_bytes())
}

fn facts(
    source: &Checkpoint,
    arguments: &CompressArguments,
    device: &str,
    reports: &[LayerReport],
) -> Vec<(&'static str, String)> {
    let sum = |of: fn(&LayerReport) -> usize| reports.iter().map(of).sum::<usize>();
    let (dense, now) = (sum(|r| r.dense_parameters), sum(|r| r.parameters));
    let seconds: f64 = reports.iter().map(|report| report.seconds).sum();
    let mut facts = vec![
        ("source", source.dir().display().to_string()),
        ("written to", arguments.out.display().to_string()),
        ("layers compressed", reports.len().to_string()),
        (
            "kept of their weights",
            format!("{:.3} ({now} of {dense})", now as f64 / dense as f64),
        ),
        (
            "mean error",
            format!("{:.4}", mean(reports, |report| Some(report.relative_error))),
        ),
        ("time of the layers", format!("{seconds:.1} s")),
        ("device", device.to_string()),
    ];
    if let Some(path) = &arguments.calibration {
        let error = mean(reports, |report| report.output_error);
        facts.push(("samples", path.display().to_string()));
        facts.push(("mean error of outputs", format!("{error:.4}")));
    }
    facts
}

fn mean(reports: &[LayerReport], of: fn(&LayerReport) -> Option<f64>) -> f64 {
    reports.iter().filter_map(of).sum::<f64>() / reports.len() as f64
}

fn kept(report: &LayerReport) -> f64 {
    report.parameters as f64 / report.dense_parameters as f64
}

/// Errors of weights, and of outputs where they are known.
fn errors(reports: &[LayerReport]) -> Vec<LayerSeries<'_>> {
    let outputs = reports.iter().any(|report| report.output_error.is_some());
    let of = if outputs { " weights" } else { "" };
    let mut series = by_look(reports, of, false, |report| Some(report.relative_error));
    if outputs {
        series.extend(by_look(reports, " outputs", true, |report| {
            report.output_error
        }));
    }
    series
}

/// A value of every layer, in a series for each structure.
pub fn by_look<'a>(
    reports: &'a [LayerReport],
    of: &str,
    hollow: bool,
    value: fn(&LayerReport) -> Option<f64>,
) -> Vec<LayerSeries<'a>> {
    let mut series: Vec<LayerSeries<'_>> = vec![];
    for report in reports {
        let look = Look::of_structure(&report.structure);
        let Some(value) = value(report) else { continue };
        let value = (report.layer.as_str(), value);
        match series.iter_mut().find(|series| series.look == look) {
            Some(series) => series.values.push(value),
            None => series.push(LayerSeries {
                name: format!("{}{of}", look.name()),
                look,
                hollow,
                values: vec![value],
            }),
        }
    }
    series
}

/// The last part of a path, or all of it.
pub fn name(path: &Path) -> String {
    match path.file_name() {
        Some(name) => name.to_string_lossy().into_owned(),
        None => path.display().to_string(),
    }
}
