//! What is known of every layer of a model, over the depth of the model.

use std::collections::BTreeMap;

use super::{Axis, Look, Page, Point, PointPlot, Scale, Series, Size};

/// A value for each of some layers.
pub struct LayerSeries<'a> {
    pub name: String,
    pub look: Look,
    pub hollow: bool,
    /// Names of layers and their values.
    pub values: Vec<(&'a str, f64)>,
}

/// A plot for each kind of layer: its values over the number of its block.
///
/// `title` says what is plotted, `label` stands at the axis.
pub fn layer_plots(page: &mut Page, title: &str, label: &str, series: &[LayerSeries<'_>]) {
    let mut kinds: Vec<String> = vec![];
    // Series by kind, then by their place in `series`.
    let mut points: BTreeMap<(String, usize), Vec<Point>> = BTreeMap::new();
    let mut all = vec![];
    for (place, series) in series.iter().enumerate() {
        for &(layer, value) in &series.values {
            let (kind, block) = kind_and_block(layer);
            if !kinds.contains(&kind) {
                kinds.push(kind.clone());
            }
            all.push(value);
            points.entry((kind, place)).or_default().push(Point {
                x: block as f64,
                y: value,
                text: format!("{layer}, {}: {value:.4}", series.name),
            });
        }
    }
    let legend: Vec<Series> = series
        .iter()
        .map(|series| Series {
            name: series.name.clone(),
            look: series.look,
            hollow: series.hollow,
            points: vec![],
        })
        .collect();
    page.begin_figure(title, &legend);
    for kind in kinds {
        let series: Vec<Series> = legend
            .iter()
            .enumerate()
            .filter_map(|(place, series)| {
                let points = points.remove(&(kind.clone(), place))?;
                Some(Series {
                    points,
                    ..series.clone()
                })
            })
            .collect();
        let plot = PointPlot {
            title: &format!("{title}: {kind}"),
            size: Size::Small,
            x: Axis {
                label: "block",
                scale: Scale::Counted,
            },
            y: Axis {
                label,
                scale: Scale::FromZero,
            },
            series: &series,
            also: &all,
        };
        page.plot(Some(&kind), |id| plot.svg(id));
    }
    page.end_figure();
}

/// What a layer is called in every block, and the number of its block: the first number among the
/// parts of its name, or 0.
pub fn kind_and_block(layer: &str) -> (String, usize) {
    let mut parts: Vec<&str> = layer.split('.').collect();
    let found = parts
        .iter()
        .enumerate()
        .find_map(|(place, part)| Some((place, part.parse().ok()?)));
    let Some((place, block)) = found else {
        return (layer.to_string(), 0);
    };
    if let Some(part) = parts.get_mut(place) {
        *part = "*";
    }
    (parts.join("."), block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_of_a_name_is_its_block() {
        let cases = [
            (
                "transformer.h.3.attn.c_attn",
                ("transformer.h.*.attn.c_attn", 3),
            ),
            (
                "blocks.12.adaLN_modulation.1",
                ("blocks.*.adaLN_modulation.1", 12),
            ),
            ("lm_head", ("lm_head", 0)),
        ];
        for (layer, (kind, block)) in cases {
            assert_eq!(kind_and_block(layer), (kind.to_string(), block));
        }
    }
}
