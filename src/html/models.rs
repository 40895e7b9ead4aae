//! Models side by side: how large they are, how good, how fast.

use super::{Axis, Bar, BarPlot, Look, Page, Point, PointPlot, Scale, Series, Size};

/// A model, dense or compressed.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    pub name: String,
    pub look: Look,
    /// Of the whole model.
    pub parameters: usize,
    /// Of its linear layers on disk.
    pub layer_bytes: usize,
    /// Of everything else on disk.
    pub other_bytes: usize,
}

/// A bar for the bytes of each model.
pub fn size_plot(page: &mut Page, models: &[Model]) {
    let largest = models
        .iter()
        .map(|model| model.layer_bytes + model.other_bytes)
        .max();
    let (unit, bytes_each) = match largest.unwrap_or_default() {
        0..1_000_000 => ("kB", 1e3),
        1_000_000..1_000_000_000 => ("MB", 1e6),
        _ => ("GB", 1e9),
    };
    let bars: Vec<Bar> = models
        .iter()
        .map(|model| {
            let parts = [model.layer_bytes, model.other_bytes];
            let parts = parts.map(|bytes| bytes as f64 / bytes_each).to_vec();
            Bar {
                name: model.name.clone(),
                look: model.look,
                value: format!("{:.2} {unit}", parts.iter().sum::<f64>()),
                parts,
            }
        })
        .collect();
    bar_figure(
        page,
        "Size on disk: linear layers, and everything else paler",
        &format!("size of the weights ({unit})"),
        &bars,
    );
}

/// A bar for how fast each model is, in `unit`.
pub fn speed_plot(page: &mut Page, title: &str, unit: &str, speeds: &[(&Model, f64)]) {
    let bars: Vec<Bar> = speeds
        .iter()
        .map(|(model, speed)| Bar {
            name: model.name.clone(),
            look: model.look,
            parts: vec![*speed],
            value: format!("{speed:.1}"),
        })
        .collect();
    bar_figure(page, title, unit, &bars);
}

fn bar_figure(page: &mut Page, title: &str, label: &str, bars: &[Bar]) {
    let axis = Axis {
        label,
        scale: Scale::FromZero,
    };
    let plot = BarPlot { title, axis, bars };
    page.begin_figure(title, &[]);
    page.plot(None, |id| plot.svg(id));
    page.end_figure();
}

/// How good each model is over its parameters: the models of one structure are joined, or each is by
/// itself under its name.
///
/// `label` says what `quality` is, with its unit; a logarithmic scale is for values that grow without
/// bound where a model fails.
pub fn quality_plot(
    page: &mut Page,
    title: &str,
    label: &str,
    scale: Scale,
    models: &[(&Model, f64)],
    joined: bool,
) {
    let mut series: Vec<Series> = vec![];
    for (model, quality) in models {
        let point = Point {
            x: model.parameters as f64 / 1e6,
            y: *quality,
            text: format!(
                "{}: {quality:.4} with {} parameters",
                model.name, model.parameters
            ),
        };
        let alike = series.iter_mut().find(|series| series.look == model.look);
        match alike {
            Some(alike) if joined => alike.points.push(point),
            alike => {
                let hollow = alike.is_some();
                series.push(Series {
                    name: match joined {
                        true => model.look.name().to_string(),
                        false => model.name.clone(),
                    },
                    look: model.look,
                    hollow,
                    points: vec![point],
                });
            }
        }
    }
    for series in &mut series {
        series
            .points
            .sort_by(|one, other| one.x.total_cmp(&other.x));
    }
    let plot = PointPlot {
        title,
        size: Size::Large,
        x: Axis {
            label: "parameters of the model (millions)",
            scale: Scale::FromZero,
        },
        y: Axis { label, scale },
        series: &series,
        also: &[],
    };
    page.begin_figure(title, &series);
    page.plot(None, |id| plot.svg(id));
    page.end_figure();
}
