//! Points over two axes, joined by lines.

use std::fmt::Write;

use super::axis::{Range, number};
use super::{Axis, Look, escape};

/// How much room a plot takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// One of many side by side.
    Small,
    Large,
}

impl Size {
    /// Width and height in the units of the drawing, which are about those of its text.
    fn of_drawing(self) -> (f64, f64) {
        match self {
            Size::Small => (284.0, 200.0),
            Size::Large => (400.0, 280.0),
        }
    }
}

/// A point, and what is said when it is pointed at.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    pub x: f64,
    pub y: f64,
    pub text: String,
}

/// Points that belong together, joined in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub name: String,
    pub look: Look,
    /// Drawn hollow and dashed, to tell it from another of the same look.
    pub hollow: bool,
    pub points: Vec<Point>,
}

/// A plot of series.
#[derive(Debug, Clone, PartialEq)]
pub struct PointPlot<'a> {
    pub title: &'a str,
    pub size: Size,
    pub x: Axis<'a>,
    pub y: Axis<'a>,
    pub series: &'a [Series],
    /// Values that the y axis covers besides those of the points, so that plots side by side have
    /// the same.
    pub also: &'a [f64],
}

/// Room for the labels around the frame.
const LEFT: f64 = 68.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BELOW: f64 = 44.0;

impl PointPlot<'_> {
    /// The drawing; `id` is one that nothing else on the page has.
    pub fn svg(&self, id: &str) -> String {
        let (width, height) = self.size.of_drawing();
        let frame = Frame {
            x: Range::of(self.x.scale, self.values(|point| point.x)),
            y: Range::of(
                self.y.scale,
                self.values(|point| point.y)
                    .chain(self.also.iter().copied()),
            ),
            width,
            height,
        };
        let mut svg = format!(
            "<svg role=\"img\" aria-labelledby=\"{id}\" viewBox=\"0 0 {width} {height}\">\
             <title id=\"{id}\">{}</title>",
            escape(self.title)
        );
        self.draw_axes(&mut svg, &frame);
        for series in self.series {
            draw_series(&mut svg, series, &frame);
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn values(&self, of: fn(&Point) -> f64) -> impl Iterator<Item = f64> {
        self.series.iter().flat_map(|series| &series.points).map(of)
    }

    fn draw_axes(&self, svg: &mut String, frame: &Frame) {
        let (left, bottom) = (LEFT, frame.height - BELOW);
        let (right, top) = (frame.width - RIGHT, TOP);
        let mut put = |markup: std::fmt::Arguments<'_>| {
            // Writing to a string cannot fail.
            let _ = svg.write_fmt(markup);
        };
        for &tick in &frame.y.ticks {
            let y = frame.y(tick);
            put(format_args!(
                "<line class=\"grid\" x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"tick end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                left - 6.0,
                y + 4.0,
                number(tick)
            ));
        }
        for &tick in &frame.x.ticks {
            let x = frame.x(tick);
            put(format_args!(
                "<line class=\"axis\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bottom}\" y2=\"{:.1}\"/>\
                 <text class=\"tick middle\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
                bottom + 4.0,
                bottom + 17.0,
                number(tick)
            ));
        }
        put(format_args!(
            "<path class=\"axis\" d=\"M{left},{top}V{bottom}H{right}\"/>\
             <text class=\"label middle\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\
             <text class=\"label middle\" transform=\"translate(13,{:.1}) rotate(-90)\">{}</text>",
            (left + right) / 2.0,
            frame.height - 8.0,
            escape(self.x.label),
            (top + bottom) / 2.0,
            escape(&frame.y.labelled(self.y.label))
        ));
    }
}

/// Where values are in a drawing.
struct Frame {
    x: Range,
    y: Range,
    width: f64,
    height: f64,
}

impl Frame {
    fn x(&self, value: f64) -> f64 {
        LEFT + self.x.place(value) * (self.width - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        let bottom = self.height - BELOW;
        bottom - self.y.place(value) * (bottom - TOP)
    }
}

fn draw_series(svg: &mut String, series: &Series, frame: &Frame) {
    let drawn = |point: &&Point| {
        let (x, y) = (frame.x(point.x), frame.y(point.y));
        x.is_finite() && y.is_finite()
    };
    let points: Vec<&Point> = series.points.iter().filter(drawn).collect();
    let place = |point: &Point| (frame.x(point.x), frame.y(point.y));
    if points.len() > 1 {
        let path: Vec<String> = points
            .iter()
            .map(|point| place(point))
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let dashed = if series.hollow { " dashed" } else { "" };
        let (class, path) = (series.look.class(), path.join(" "));
        svg.push_str(&format!(
            "<polyline class=\"line {class}{dashed}\" points=\"{path}\"/>"
        ));
    }
    for point in points {
        let text = Some(point.text.as_str());
        svg.push_str(&series.look.marker(place(point), series.hollow, text));
    }
}
