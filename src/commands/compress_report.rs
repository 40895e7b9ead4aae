//! The page that `blr compress` and `blr merge` write.

use std::path::Path;

use models::Checkpoint;
use training::LayerReport;

use super::compress::table;
use super::inspect;
use crate::error::CommandError;
use crate::html::{self, LayerSeries, Look, Page};
use crate::output;

/// What the page is called, in the directory of the compressed checkpoint.
const FILE: &str = "report.html";

/// Layers that keep shares this near to each other are said to keep the same.
const SAME_SHARE: f64 = 0.02;

/// A number that may be known of a layer.
type OfLayer = fn(&LayerReport) -> Option<f64>;

/// A directory with compressed layers, and where it comes from.
pub struct Compressed<'a> {
    pub title: String,
    pub facts: Vec<(&'static str, String)>,
    /// What it was made from, to compare sizes with.
    pub source: Option<&'a Checkpoint>,
    pub out: &'a Path,
    pub layers: &'a [LayerReport],
}

impl Compressed<'_> {
    /// Writes the page into the directory.
    pub fn write(&self) -> Result<(), CommandError> {
        let page = self.page()?;
        output::replace_file(&self.out.join(FILE), page.html().as_bytes())
    }

    fn page(&self) -> Result<Page, CommandError> {
        let mut page = Page::new(&self.title);
        page.facts(&[self.facts.clone(), facts(self.out, self.layers)].concat());
        if let Some(source) = self.source {
            let before = inspect::inspect(source)?.as_model("before".to_string());
            let after = inspect::inspect(&Checkpoint::open(self.out)?)?;
            page.heading("Size");
            html::size_plot(&mut page, &[before, after.as_model("after".to_string())]);
        }
        page.heading("Layers");
        html::layer_plots(
            &mut page,
            "Error of each layer, 0 for none and 1 for what leaving it out costs",
            "relative error",
            &errors(self.layers),
        );
        let shares = || self.layers.iter().map(kept);
        let spread = shares().fold(0.0, f64::max) - shares().fold(1.0, f64::min);
        if spread > SAME_SHARE {
            html::layer_plots(
                &mut page,
                "Share of the weights of each layer that is kept",
                "share kept",
                &by_look(self.layers, "", false, |report| Some(kept(report))),
            );
        }
        html::layer_plots(
            &mut page,
            "Time that each layer took to compress",
            "time (seconds)",
            &by_look(self.layers, "", false, |report| Some(report.seconds)),
        );
        page.table("What became of each layer", &table(self.layers));
        page.paragraph(
            "Parameters without biases. The error is ‖W − Ŵ‖ / ‖W‖ in the Frobenius norm, of the \
             factors as they are stored; that of outputs is ‖(W − Ŵ) x‖ / ‖W x‖, root mean squares \
             over the samples.",
        );
        Ok(page)
    }
}

/// The share of its weights that a layer keeps.
fn kept(report: &LayerReport) -> f64 {
    report.parameters as f64 / report.dense_parameters as f64
}

fn facts(out: &Path, layers: &[LayerReport]) -> Vec<(&'static str, String)> {
    let sum = |of: fn(&LayerReport) -> usize| layers.iter().map(of).sum::<usize>();
    let (dense, now) = (sum(|it| it.dense_parameters), sum(|it| it.parameters));
    let seconds: f64 = layers.iter().map(|report| report.seconds).sum();
    let mut facts = vec![
        ("written to", out.display().to_string()),
        ("layers compressed", layers.len().to_string()),
        (
            "kept of their weights",
            format!("{:.3} ({now} of {dense})", now as f64 / dense as f64),
        ),
        ("time of the layers", format!("{seconds:.1} s")),
    ];
    let errors: [(_, OfLayer); 2] = [
        ("mean error", |report| Some(report.relative_error)),
        ("mean error of outputs", |report| report.output_error),
    ];
    for (name, of) in errors {
        let known: Vec<f64> = layers.iter().filter_map(of).collect();
        if !known.is_empty() {
            let mean = known.iter().sum::<f64>() / known.len() as f64;
            facts.push((name, format!("{mean:.4}")));
        }
    }
    facts
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
    value: OfLayer,
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
