//! Small pictures of lines, markers and text that are sharp at every size and follow a dark page.

use std::fmt::Write;

/// A picture that is being drawn, in pixels from its upper left corner.
pub struct Svg {
    width: f64,
    height: f64,
    body: String,
}

/// Which end of a text stands at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

impl Anchor {
    fn as_str(self) -> &'static str {
        match self {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        }
    }
}

/// What a point is drawn as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marker {
    Circle,
    Square,
    Diamond,
    Up,
    Down,
}

impl Marker {
    /// All of them.
    pub const ALL: [Marker; 5] = [
        Marker::Circle,
        Marker::Square,
        Marker::Diamond,
        Marker::Up,
        Marker::Down,
    ];

    /// The corners around `(x, y)`, of about the same area for all but the circle, which has none.
    fn corners(self, x: f64, y: f64) -> Vec<(f64, f64)> {
        let offsets: &[(f64, f64)] = match self {
            Marker::Circle => &[],
            Marker::Square => &[(-4.0, -4.0), (4.0, -4.0), (4.0, 4.0), (-4.0, 4.0)],
            Marker::Diamond => &[(0.0, -5.6), (5.6, 0.0), (0.0, 5.6), (-5.6, 0.0)],
            Marker::Up => &[(0.0, -5.4), (5.4, 4.0), (-5.4, 4.0)],
            Marker::Down => &[(0.0, 5.4), (5.4, -4.0), (-5.4, -4.0)],
        };
        offsets.iter().map(|(dx, dy)| (x + dx, y + dy)).collect()
    }
}

impl Svg {
    /// An empty picture.
    pub fn new(width: f64, height: f64) -> Self {
        Svg {
            width,
            height,
            body: String::new(),
        }
    }

    /// Draws a text; classes are of the style that [`Svg::finish`] gets.
    pub fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, classes: &str, text: &str) {
        self.turned_text((x, y), 0.0, anchor, classes, text);
    }

    /// Draws a text that is turned by `degrees` around its place.
    pub fn turned_text(
        &mut self,
        (x, y): (f64, f64),
        degrees: f64,
        anchor: Anchor,
        classes: &str,
        text: &str,
    ) {
        let turn = match degrees == 0.0 {
            true => String::new(),
            false => format!(r#" transform="rotate({degrees:.1} {x:.1} {y:.1})""#),
        };
        let (anchor, text) = (anchor.as_str(), escaped(text));
        self.push(format_args!(
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" class="{classes}"{turn}>{text}</text>"#
        ));
    }

    /// Draws a line through some points.
    pub fn line(&mut self, points: &[(f64, f64)], classes: &str) {
        let points = joined(points);
        self.push(format_args!(
            r#"<polyline points="{points}" class="{classes}"/>"#
        ));
    }

    /// Draws a point.
    pub fn marker(&mut self, marker: Marker, (x, y): (f64, f64), classes: &str) {
        let corners = marker.corners(x, y);
        match corners.is_empty() {
            true => self.push(format_args!(
                r#"<circle cx="{x:.1}" cy="{y:.1}" r="4.5" class="{classes}"/>"#
            )),
            false => self.push(format_args!(
                r#"<polygon points="{}" class="{classes}"/>"#,
                joined(&corners)
            )),
        }
    }

    /// The file, with a title for readers that do not see it and the style of its classes.
    pub fn finish(self, title: &str, style: &str) -> String {
        let Svg {
            width,
            height,
            body,
        } = self;
        let title = escaped(title);
        format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0} {height:.0}" width="{width:.0}" height="{height:.0}" role="img">
<title>{title}</title>
<style>
{style}</style>
<rect width="100%" height="100%" class="page"/>
{body}</svg>
"#
        )
    }

    fn push(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.body, "{element}");
    }
}

fn joined(points: &[(f64, f64)]) -> String {
    let points: Vec<String> = points
        .iter()
        .map(|(x, y)| format!("{x:.1},{y:.1}"))
        .collect();
    points.join(" ")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// A logarithmic axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogAxis {
    low: f64,
    high: f64,
    start: f64,
    end: f64,
}

impl LogAxis {
    /// An axis from pixel `start` to pixel `end` that holds positive `values` with some room around
    /// them.
    pub fn over(values: impl IntoIterator<Item = f64>, start: f64, end: f64) -> Self {
        let (mut low, mut high) = (f64::INFINITY, 0.0f64);
        for value in values.into_iter().filter(|value| *value > 0.0) {
            (low, high) = (low.min(value), high.max(value));
        }
        if low > high {
            (low, high) = (1.0, 10.0);
        }
        LogAxis {
            low: low / ROOM,
            high: high * ROOM,
            start,
            end,
        }
    }

    /// The smallest value on it.
    pub fn low(&self) -> f64 {
        self.low
    }

    /// The largest value on it.
    pub fn high(&self) -> f64 {
        self.high
    }

    /// The pixel of a value.
    pub fn at(&self, value: f64) -> f64 {
        let share = (value / self.low).ln() / (self.high / self.low).ln();
        self.start + share * (self.end - self.start)
    }

    /// Values for labels: 1, 2 and 5 times powers of ten, or the powers alone over many of them.
    pub fn ticks(&self) -> Vec<f64> {
        let steps: &[f64] = match (self.high / self.low).log10() > 3.0 {
            true => &[1.0],
            false => &[1.0, 2.0, 5.0],
        };
        let first = self.low.log10().floor() as i32;
        let last = self.high.log10().ceil() as i32;
        (first..=last)
            .flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)))
            .filter(|value| (self.low..=self.high).contains(value))
            .collect()
    }
}

/// What an axis has beyond its smallest and largest value, as a factor.
const ROOM: f64 = 1.35;

/// A number as labels show it: three digits that count, and no more.
pub fn number(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => trimmed(format!("{value:.1}")),
        value if value >= 0.1 => trimmed(format!("{value:.2}")),
        _ => trimmed(format!("{value:.4}")),
    }
}

fn trimmed(text: String) -> String {
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_runs_from_start_to_end_and_is_logarithmic() {
        let axis = LogAxis::over([1.0 * ROOM, 100.0 / ROOM], 50.0, 250.0);
        for (value, pixel) in [(1.0, 50.0), (10.0, 150.0), (100.0, 250.0)] {
            assert!((axis.at(value) - pixel).abs() < 1e-9);
        }
        assert_eq!(axis.ticks(), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
    }

    #[test]
    fn an_axis_over_many_powers_of_ten_has_labels_for_them_alone() {
        let axis = LogAxis::over([0.2, 7000.0], 0.0, 100.0);
        assert_eq!(axis.ticks(), [1.0, 10.0, 100.0, 1000.0]);
        // Nothing to show is no reason to divide by zero.
        assert!(LogAxis::over([], 0.0, 100.0).at(5.0).is_finite());
        assert!(LogAxis::over([3.0], 0.0, 100.0).at(3.0).is_finite());
    }

    #[test]
    fn numbers_have_as_many_digits_as_count() {
        let found = [798.4, 13.84, 3.0, 0.068, 0.25].map(number);
        assert_eq!(found, ["798", "13.8", "3", "0.068", "0.25"]);
    }

    #[test]
    fn text_is_escaped() {
        let mut svg = Svg::new(10.0, 10.0);
        svg.text((1.0, 1.0), Anchor::Start, "a", "<b> & c");
        let text = svg.finish("1 < 2", "");
        assert!(text.contains("&lt;b&gt; &amp; c") && text.contains("1 &lt; 2"));
    }
}
