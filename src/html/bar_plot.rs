//! Horizontal bars, each under its name.

use std::fmt::Write;

use super::axis::{Range, number};
use super::{Axis, Look, escape};

/// A bar: its parts lie end to end, the later ones paler.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    pub name: String,
    pub look: Look,
    pub parts: Vec<f64>,
    /// What stands beside the name.
    pub value: String,
}

/// A plot of bars.
#[derive(Debug, Clone, PartialEq)]
pub struct BarPlot<'a> {
    pub title: &'a str,
    /// What the length of a bar is, with the unit.
    pub axis: Axis<'a>,
    pub bars: &'a [Bar],
}

const WIDTH: f64 = 400.0;
/// Left and right of the bars; ticks at the ends reach into it.
const LEFT: f64 = 8.0;
const RIGHT: f64 = 24.0;
/// Height of a bar with its name.
const ROW: f64 = 31.0;
const BAR: f64 = 11.0;
const BELOW: f64 = 44.0;

impl BarPlot<'_> {
    /// The drawing; `id` is one that nothing else on the page has.
    pub fn svg(&self, id: &str) -> String {
        let totals = self.bars.iter().map(|bar| bar.parts.iter().sum());
        let range = Range::of(self.axis.scale, totals);
        let x = |value: f64| LEFT + range.place(value) * (WIDTH - LEFT - RIGHT);
        let bottom = 6.0 + ROW * self.bars.len() as f64;
        let height = bottom + BELOW;
        let mut svg = format!(
            "<svg role=\"img\" aria-labelledby=\"{id}\" viewBox=\"0 0 {WIDTH} {height}\">\
             <title id=\"{id}\">{}</title>",
            escape(self.title)
        );
        let mut put = |markup: std::fmt::Arguments<'_>| {
            // Writing to a string cannot fail.
            let _ = svg.write_fmt(markup);
        };
        for &tick in &range.ticks {
            let x = x(tick);
            put(format_args!(
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"4\" y2=\"{bottom}\"/>\
                 <text class=\"tick middle\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
                bottom + 17.0,
                number(tick)
            ));
        }
        for (index, bar) in self.bars.iter().enumerate() {
            let top = 6.0 + ROW * index as f64;
            put(format_args!(
                "<text class=\"label backed\" x=\"{LEFT}\" y=\"{:.1}\">{} <tspan class=\"value\">{}</tspan></text>",
                top + 11.0,
                escape(&bar.name),
                escape(&bar.value)
            ));
            let mut from = 0.0;
            for (part, length) in bar.parts.iter().filter(|part| part.is_finite()).enumerate() {
                put(format_args!(
                    "<rect class=\"bar {}{}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{BAR}\"/>",
                    bar.look.class(),
                    if part > 0 { " pale" } else { "" },
                    x(from),
                    top + 16.0,
                    (x(from + length) - x(from)).max(0.5)
                ));
                from += length;
            }
        }
        put(format_args!(
            "<text class=\"label middle\" x=\"{:.1}\" y=\"{:.1}\">{}</text></svg>\n",
            WIDTH / 2.0,
            height - 8.0,
            escape(self.axis.label)
        ));
        svg
    }
}
