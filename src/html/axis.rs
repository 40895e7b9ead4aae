//! From values to places on an axis, and the ticks between.

/// About how many ticks an axis has.
const TICKS: f64 = 5.0;

/// Most ticks of a logarithmic axis.
const LOG_TICKS: usize = 7;

/// A logarithmic axis whose values lie within this factor is drawn linear: it would have no ticks.
const LEAST_LOG_SPAN: f64 = 3.0;

/// How values become places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// In proportion, from zero.
    FromZero,
    /// By their logarithms; in proportion where the values span too little for ticks.
    Log,
    /// Whole numbers, such as those of blocks.
    Counted,
}

/// An axis: what it shows, with the unit, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Axis<'a> {
    pub label: &'a str,
    pub scale: Scale,
}

/// The part of an axis that is drawn.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Range {
    low: f64,
    high: f64,
    log: bool,
    pub ticks: Vec<f64>,
}

impl Range {
    /// The range that holds all finite `values`.
    pub fn of(scale: Scale, values: impl Iterator<Item = f64>) -> Self {
        let positive = scale == Scale::Log;
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|&value| value.is_finite() && (!positive || value > 0.0)) {
            (low, high) = (low.min(value), high.max(value));
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        match scale {
            Scale::Log if low > 0.0 && high / low >= LEAST_LOG_SPAN => Self::log(low, high),
            Scale::FromZero => Self::linear(0.0, high),
            Scale::Log => Self::linear(low, high),
            Scale::Counted => Self::counted(low, high),
        }
    }

    fn linear(low: f64, high: f64) -> Self {
        let span = match high - low {
            span if span > 0.0 => span,
            _ => high.abs().max(1.0),
        };
        let step = nice(span / TICKS);
        let (first, last) = ((low / step).floor(), (high / step).ceil().max(1.0));
        let last = if last > first { last } else { first + 1.0 };
        let count = (last - first).round() as usize;
        Range {
            low: first * step,
            high: last * step,
            log: false,
            ticks: (0..=count)
                .map(|tick| (first + tick as f64) * step)
                .collect(),
        }
    }

    fn counted(low: f64, high: f64) -> Self {
        let step = nice((high - low) / TICKS).max(1.0).round();
        let first = (low / step).ceil();
        let count = ((high / step).floor() - first).max(0.0) as usize;
        // Points at the ends keep clear of the frame.
        let margin = 0.04 * (high - low) + 0.2;
        Range {
            low: low - margin,
            high: high + margin,
            log: false,
            ticks: (0..=count)
                .map(|tick| (first + tick as f64) * step)
                .collect(),
        }
    }

    fn log(low: f64, high: f64) -> Self {
        let (low, high) = (low / 1.2, high * 1.2);
        let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
        let among = |leading: &[f64]| -> Vec<f64> {
            let all = decades.clone().flat_map(|decade| {
                leading
                    .iter()
                    .map(move |leading| leading * 10f64.powi(decade))
            });
            all.filter(|tick| (low..=high).contains(tick)).collect()
        };
        let ticks = [&[1.0, 2.0, 5.0][..], &[1.0, 3.0], &[1.0]].map(among);
        let fewest = ticks.iter().position(|ticks| ticks.len() <= LOG_TICKS);
        let [.., powers] = &ticks;
        Range {
            low,
            high,
            log: true,
            ticks: fewest
                .and_then(|at| ticks.get(at))
                .unwrap_or(powers)
                .clone(),
        }
    }

    /// What stands at the axis.
    pub fn labelled(&self, label: &str) -> String {
        match self.log {
            true => format!("{label}, log scale"),
            false => label.to_string(),
        }
    }

    /// Where `value` is, 0 at the lower end and 1 at the upper.
    pub fn place(&self, value: f64) -> f64 {
        match self.log {
            true => (value / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        }
    }
}

/// The least of 1, 2 and 5 times a power of ten that is not below `step`.
fn nice(step: f64) -> f64 {
    let power = 10f64.powf(step.max(f64::MIN_POSITIVE).log10().floor());
    let found = [1.0, 2.0, 5.0].map(|leading| leading * power);
    let fits = |&&candidate: &&f64| candidate >= step * (1.0 - 1e-9);
    found.iter().find(fits).copied().unwrap_or(10.0 * power)
}

/// A value as it stands at a tick or a bar: up to four digits, thousands apart.
pub(super) fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".to_string();
    }
    let decimals = (3 - value.abs().log10().floor() as i32).clamp(0, 12) as usize;
    let text = format!("{value:.decimals$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let (sign, digits) = whole
        .strip_prefix('-')
        .map_or(("", whole), |digits| ("-", digits));
    let mut grouped = String::from(sign);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if !fraction.is_empty() {
        grouped.push('.');
        grouped.push_str(fraction);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(scale: Scale, values: &[f64]) -> Vec<String> {
        let range = Range::of(scale, values.iter().copied());
        range.ticks.iter().map(|&tick| number(tick)).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        let errors = ["0", "0.1", "0.2", "0.3", "0.4", "0.5"];
        assert_eq!(ticks(Scale::FromZero, &[0.31, 0.47]), errors);
        assert_eq!(
            ticks(Scale::Log, &[7.0, 7.4]),
            ["7", "7.1", "7.2", "7.3", "7.4"]
        );
        assert_eq!(
            ticks(Scale::Log, &[7.8, 14_599.0]),
            ["10", "30", "100", "300", "1,000", "3,000", "10,000"]
        );
        assert_eq!(
            ticks(Scale::Log, &[2.0, 3e6]),
            ["10", "100", "1,000", "10,000", "100,000", "1,000,000"]
        );
        assert_eq!(ticks(Scale::Log, &[7.8, 60.0]), ["10", "20", "50"]);
        assert_eq!(ticks(Scale::Counted, &[0.0, 3.0]), ["0", "1", "2", "3"]);
        assert_eq!(ticks(Scale::Counted, &[0.0, 31.0]), ["0", "10", "20", "30"]);
    }

    #[test]
    fn every_value_lies_between_the_ends() {
        let cases: [&[f64]; 5] = [&[0.0], &[3.0, 3.0], &[-2.0, 7.5], &[1e-9, 1e12], &[5e5]];
        for values in cases {
            for scale in [Scale::FromZero, Scale::Log, Scale::Counted] {
                let range = Range::of(scale, values.iter().copied());
                for &value in values.iter().filter(|&&value| value >= 0.0) {
                    if range.log && value <= 0.0 {
                        continue;
                    }
                    let place = range.place(value);
                    assert!(
                        (-1e-9..=1.0 + 1e-9).contains(&place),
                        "{scale:?} {values:?}: {place}"
                    );
                }
            }
        }
    }

    #[test]
    fn numbers_have_no_more_digits_than_they_need() {
        let cases = [
            (0.1, "0.1"),
            (0.30000000000000004, "0.3"),
            (1234567.0, "1,234,567"),
            (-1200.5, "-1,200"),
            (33.724, "33.72"),
            (100.0, "100"),
        ];
        for (value, expected) in cases {
            assert_eq!(number(value), expected);
        }
    }
}
