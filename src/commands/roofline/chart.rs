//! The picture: limits of layers under the roof of a GPU, and their times.

use super::Row;
use crate::roofline::{Ceilings, Precision};
use crate::svg::{Anchor, LogAxis, Marker, Svg, number};

const WIDTH: f64 = 980.0;
/// Title and legend of a GPU, and the axis labels below its plots.
const HEAD: f64 = 84.0;
const FOOT: f64 = 52.0;
/// The plot of rates, from its left to its right side.
const RATES: (f64, f64) = (62.0, 478.0);
/// The plot of times; the names of layers stand before it.
const TIMES: (f64, f64) = (676.0, 930.0);
/// Height of a layer in the plot of times, and from one method to the next in it.
const LAYER: f64 = 54.0;
const LANE: f64 = 12.0;
const LEAST_HEIGHT: f64 = 300.0;

/// The methods in their order, and what they are called.
const METHODS: [(&str, &str); 4] = [
    ("dense", "dense"),
    ("low-rank", "low-rank"),
    ("monarch", "Monarch"),
    ("blast", "BLAST"),
];

/// Colours that people with any colour vision tell apart, on a light page and on a dark one.
const STYLE: &str = "\
text { font: 12px system-ui, 'DejaVu Sans', sans-serif; fill: #24292f; }
.title { font-size: 15px; font-weight: 600; }
.small { font-size: 10.5px; }
.page { fill: #ffffff; }
.grid { stroke: #d9dee3; stroke-width: 1; fill: none; }
.roof { stroke: #24292f; stroke-width: 2; fill: none; }
.tie { stroke-width: 1.2; fill: none; stroke-opacity: .55; }
.dense { stroke: #57606a; fill: #57606a; }
.low-rank { stroke: #0969da; fill: #0969da; }
.monarch { stroke: #c2410c; fill: #c2410c; }
.blast { stroke: #0f8a5f; fill: #0f8a5f; }
.limit { fill: #ffffff; stroke-width: 1.6; }
.plain { fill: #57606a; stroke: #57606a; }
.plain.limit { fill: #ffffff; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; }
.page { fill: #0d1117; }
.grid { stroke: #2b323b; }
.roof { stroke: #e6edf3; }
.dense, .plain { stroke: #9aa4af; fill: #9aa4af; }
.low-rank { stroke: #58a6ff; fill: #58a6ff; }
.monarch { stroke: #ffa657; fill: #ffa657; }
.blast { stroke: #3fd6a0; fill: #3fd6a0; }
.limit, .plain.limit { fill: #0d1117; }
}
";

/// The rows of each GPU, one below the other.
pub fn draw(gpus: &[&Ceilings], rows: &[Row]) -> String {
    let panels: Vec<Panel<'_>> = gpus.iter().map(|gpu| Panel::new(gpu, rows)).collect();
    let height: f64 = panels.iter().map(|panel| panel.height()).sum();
    let mut svg = Svg::new(WIDTH, height);
    let mut top = 0.0;
    for panel in &panels {
        panel.draw(&mut svg, top);
        top += panel.height();
    }
    let names: Vec<&str> = gpus.iter().map(|gpu| gpu.name()).collect();
    let title = format!("Limits of layers on {}", names.join(", "));
    svg.finish(&title, STYLE)
}

/// The rows of one GPU.
struct Panel<'a> {
    gpu: &'a Ceilings,
    rows: Vec<&'a Row>,
    /// Layers and token counts in their order.
    layers: Vec<(&'a str, usize)>,
}

impl<'a> Panel<'a> {
    fn new(gpu: &'a Ceilings, rows: &'a [Row]) -> Self {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.gpu == gpu.key).collect();
        let mut layers: Vec<(&str, usize)> = rows
            .iter()
            .map(|row| (row.layer.as_str(), row.tokens))
            .collect();
        layers.dedup();
        Panel { gpu, rows, layers }
    }

    fn plot_height(&self) -> f64 {
        (LAYER * self.layers.len() as f64).max(LEAST_HEIGHT)
    }

    fn height(&self) -> f64 {
        HEAD + self.plot_height() + FOOT
    }

    fn draw(&self, svg: &mut Svg, top: f64) {
        self.draw_head(svg, top);
        let (upper, lower) = (top + HEAD, top + HEAD + self.plot_height());
        self.draw_rates(svg, upper, lower);
        self.draw_times(svg, upper, lower);
    }

    /// Title and legend.
    fn draw_head(&self, svg: &mut Svg, top: f64) {
        let dtype = self.rows.first().map_or("", |row| row.dtype);
        let title = format!("{}, {dtype}", self.gpu.name());
        svg.text((16.0, top + 26.0), Anchor::Start, "title", &title);
        let mut x = 22.0;
        let y = top + 50.0;
        let mut entry = |marker, classes: &str, text: &str| {
            svg.marker(marker, (x, y - 4.0), classes);
            svg.text((x + 10.0, y), Anchor::Start, "", text);
            x += 30.0 + 7.0 * text.chars().count() as f64;
        };
        for (method, name) in METHODS {
            if self.rows.iter().any(|row| row.method == method) {
                entry(Marker::Square, method, name);
            }
        }
        entry(Marker::Circle, "plain limit", "at best");
        if self.rows.iter().any(|row| row.measured_us.is_some()) {
            entry(Marker::Circle, "plain", "measured");
        }
    }

    /// Rates over intensity, under the roof.
    fn draw_rates(&self, svg: &mut Svg, upper: f64, lower: f64) {
        let (left, right) = RATES;
        let ridge = |precision| self.gpu.tflops(precision) / self.gpu.memory_tbps;
        let roofs = self.roofs();
        let intensities = self.rows.iter().map(|row| row.intensity);
        let x = LogAxis::over(
            intensities.chain(roofs.iter().map(|&precision| ridge(precision))),
            left,
            right,
        );
        let rates = self.rows.iter().flat_map(|row| {
            let measured = row.measured_us.map(|us| row.flops / us / 1e6);
            [Some(row.limit_tflops), measured]
        });
        let peaks = roofs.iter().map(|&precision| self.gpu.tflops(precision));
        let y = LogAxis::over(rates.flatten().chain(peaks), lower, upper);
        self.draw_grid(svg, (&x, &y), [left, upper, right, lower]);
        for &precision in &roofs {
            self.draw_roof(svg, (&x, &y), precision);
        }
        for row in &self.rows {
            let at = |tflops: f64| (x.at(row.intensity), y.at(tflops));
            if let Some(us) = row.measured_us {
                let measured = at(row.flops / us / 1e6);
                let tie = format!("tie {}", row.method);
                svg.line(&[at(row.limit_tflops), measured], &tie);
                svg.marker(self.marker(&row.layer), measured, row.method);
            }
            let classes = format!("{} limit", row.method);
            svg.marker(self.marker(&row.layer), at(row.limit_tflops), &classes);
        }
    }

    fn draw_grid(&self, svg: &mut Svg, (x, y): (&LogAxis, &LogAxis), sides: [f64; 4]) {
        let [left, upper, right, lower] = sides;
        for tick in x.ticks() {
            svg.line(&[(x.at(tick), upper), (x.at(tick), lower)], "grid");
            let place = (x.at(tick), lower + 17.0);
            svg.text(place, Anchor::Middle, "small", &number(tick));
        }
        for tick in y.ticks() {
            svg.line(&[(left, y.at(tick)), (right, y.at(tick))], "grid");
            let place = (left - 7.0, y.at(tick) + 4.0);
            svg.text(place, Anchor::End, "small", &number(tick));
        }
        let middle = ((left + right) / 2.0, lower + 38.0);
        svg.text(
            middle,
            Anchor::Middle,
            "",
            "FLOP per byte of memory traffic",
        );
        let side = (20.0, (upper + lower) / 2.0);
        svg.turned_text(side, -90.0, Anchor::Middle, "", "TFLOP/s");
    }

    /// Memory's rate up to the ridge, then that of the products.
    fn draw_roof(&self, svg: &mut Svg, (x, y): (&LogAxis, &LogAxis), precision: Precision) {
        let (peak, memory) = (self.gpu.tflops(precision), self.gpu.memory_tbps);
        let ridge = peak / memory;
        let first = x.low().max(y.low() / memory);
        let at = |intensity: f64| (x.at(intensity), y.at((intensity * memory).min(peak)));
        svg.line(&[at(first), at(ridge), at(x.high())], "roof");
        let (end, height) = at(x.high());
        let text = format!("{} TFLOP/s {}", number(peak), precision.as_str());
        svg.text((end - 4.0, height - 11.0), Anchor::End, "small", &text);
        let ((x0, y0), (x1, y1)) = (at(first), at(ridge));
        let slope = (y1 - y0).atan2(x1 - x0).to_degrees();
        let place = (x0 + 0.5 * (x1 - x0) - 7.0, y0 + 0.5 * (y1 - y0) - 7.0);
        let text = format!("{} TB/s", number(memory));
        if x1 - x0 > 60.0 {
            svg.turned_text(place, slope, Anchor::Middle, "small", &text);
        }
    }

    /// Times of each layer, a line for every method.
    fn draw_times(&self, svg: &mut Svg, upper: f64, lower: f64) {
        let (left, right) = TIMES;
        let times = self
            .rows
            .iter()
            .flat_map(|row| [Some(row.limit_us), row.measured_us]);
        let x = LogAxis::over(times.flatten(), left, right);
        for tick in x.ticks() {
            svg.line(&[(x.at(tick), upper), (x.at(tick), lower)], "grid");
            let place = (x.at(tick), lower + 17.0);
            svg.text(place, Anchor::Middle, "small", &number(tick));
        }
        let middle = ((left + right) / 2.0, lower + 38.0);
        svg.text(middle, Anchor::Middle, "", "time of the layer, us");
        for (n, (layer, tokens)) in self.layers.iter().enumerate() {
            let centre = upper + LAYER * (n as f64 + 0.5);
            let name = (left - 24.0, centre - 2.0);
            svg.text(name, Anchor::End, "", layer);
            let count = (left - 24.0, centre + 13.0);
            svg.text(count, Anchor::End, "small", &tokens_text(*tokens));
            svg.marker(self.marker(layer), (left - 11.0, centre), "plain");
            let rows = self
                .rows
                .iter()
                .filter(|row| row.layer == *layer && row.tokens == *tokens);
            for row in rows {
                self.draw_time(svg, &x, row, centre + LANE * lane(row.method));
            }
            if n > 0 {
                let y = centre - LAYER / 2.0;
                svg.line(&[(left, y), (right, y)], "grid");
            }
        }
    }

    fn draw_time(&self, svg: &mut Svg, x: &LogAxis, row: &Row, y: f64) {
        let limit = (x.at(row.limit_us), y);
        let mut last = (limit.0, row.limit_us);
        if let Some(us) = row.measured_us {
            let measured = (x.at(us), y);
            svg.line(&[limit, measured], &format!("tie {}", row.method));
            svg.marker(self.marker(&row.layer), measured, row.method);
            last = (limit.0.max(measured.0), us);
        }
        svg.marker(
            self.marker(&row.layer),
            limit,
            &format!("{} limit", row.method),
        );
        let place = (last.0 + 9.0, y + 4.0);
        svg.text(place, Anchor::Start, "small", &number(last.1));
    }

    /// The precisions of the rows, the fastest first.
    fn roofs(&self) -> Vec<Precision> {
        let mut roofs: Vec<Precision> = Vec::new();
        for row in &self.rows {
            if !roofs.contains(&row.precision) {
                roofs.push(row.precision);
            }
        }
        roofs
    }

    /// What stands for a layer.
    fn marker(&self, layer: &str) -> Marker {
        let mut names: Vec<&str> = self.layers.iter().map(|(layer, _)| *layer).collect();
        names.dedup();
        let place = names.iter().position(|name| *name == layer);
        let markers = Marker::ALL.iter().cycle();
        let found = markers.copied().nth(place.unwrap_or(0));
        found.unwrap_or(Marker::Circle)
    }
}

/// The place of a method in its layer, in lanes from the middle.
fn lane(method: &str) -> f64 {
    let place = METHODS.iter().position(|(name, _)| *name == method);
    place.unwrap_or(0) as f64 - 1.5
}

fn tokens_text(tokens: usize) -> String {
    match tokens {
        1 => "1 token".to_string(),
        _ => format!("{tokens} tokens"),
    }
}
