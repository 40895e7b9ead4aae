//! Resampling along one axis: which inputs an output is made of, and their weights.

/// The inputs of one output: the first of them, and the weight of each from there on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Window {
    pub start: usize,
    pub weights: Vec<f64>,
}

/// A filter that is widened when an axis gets shorter, so that every input counts.
///
/// This is what Pillow resizes images with, and PyTorch's `interpolate` with `antialias`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filter {
    Box,
    Bilinear,
    Hamming,
    /// Keys' cubic with a = -1/2.
    Bicubic,
    Lanczos,
}

impl Filter {
    /// Where the filter ends, in inputs on either side.
    fn support(self) -> f64 {
        match self {
            Filter::Box => 0.5,
            Filter::Bilinear | Filter::Hamming => 1.0,
            Filter::Bicubic => 2.0,
            Filter::Lanczos => 3.0,
        }
    }

    /// The filter at distance `x` from its centre.
    fn at(self, x: f64) -> f64 {
        let distance = x.abs();
        match self {
            Filter::Box if x > -0.5 && x <= 0.5 => 1.0,
            Filter::Bilinear if distance < 1.0 => 1.0 - distance,
            Filter::Hamming if distance < 1.0 => {
                sinc(distance) * (0.54 + 0.46 * (std::f64::consts::PI * distance).cos())
            }
            Filter::Bicubic => cubic(distance, -0.5),
            Filter::Lanczos if distance < 3.0 => sinc(distance) * sinc(distance / 3.0),
            _ => 0.0,
        }
    }

    /// The windows that make `new` values of `old`; both are at least one.
    pub(crate) fn windows(self, old: usize, new: usize) -> Vec<Window> {
        let scale = old as f64 / new as f64;
        let stretch = scale.max(1.0);
        let support = self.support() * stretch;
        let window = |output: usize| {
            let center = (output as f64 + 0.5) * scale;
            // Towards zero, as in C; a negative start is none.
            let start = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(old);
            let weights: Vec<f64> = (start..end)
                .map(|input| self.at((input as f64 - center + 0.5) / stretch))
                .collect();
            let sum: f64 = weights.iter().sum();
            let scale = if sum == 0.0 { 1.0 } else { 1.0 / sum };
            Window {
                start,
                weights: weights.iter().map(|weight| weight * scale).collect(),
            }
        };
        (0..new).map(window).collect()
    }
}

/// The windows of a bicubic interpolation through the inputs, which repeats the outermost inputs
/// and looks at four of them even where an axis gets shorter; Keys' cubic with a = -3/4, as
/// PyTorch's `interpolate` without `antialias`.
pub(crate) fn bicubic_through_inputs(old: usize, new: usize) -> Vec<Window> {
    let scale = old as f64 / new as f64;
    let window = |output: usize| {
        let position = (output as f64 + 0.5) * scale - 0.5;
        let before = position.floor();
        let mut weights = vec![0.0; old];
        for offset in -1..=2 {
            let input = before + f64::from(offset);
            let inside = input.clamp(0.0, (old - 1) as f64) as usize;
            if let Some(weight) = weights.get_mut(inside) {
                *weight += cubic((position - input).abs(), -0.75);
            }
        }
        Window { start: 0, weights }
    };
    (0..new).map(window).collect()
}

/// Keys' cubic at a distance from its centre.
fn cubic(x: f64, a: f64) -> f64 {
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let angle = std::f64::consts::PI * x;
    angle.sin() / angle
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILTERS: [Filter; 5] = [
        Filter::Box,
        Filter::Bilinear,
        Filter::Hamming,
        Filter::Bicubic,
        Filter::Lanczos,
    ];

    #[test]
    fn the_weights_of_an_output_sum_to_one() {
        for (old, new) in [(1, 1), (1, 7), (7, 1), (14, 24), (24, 14), (5, 5)] {
            let all = FILTERS.iter().map(|filter| filter.windows(old, new));
            for windows in all.chain([bicubic_through_inputs(old, new)]) {
                assert_eq!(windows.len(), new);
                for window in windows {
                    assert!(window.start + window.weights.len() <= old);
                    let sum: f64 = window.weights.iter().sum();
                    assert!((sum - 1.0).abs() < 1e-12, "{old} -> {new}: {window:?}");
                }
            }
        }
    }

    #[test]
    fn a_length_that_stays_keeps_every_value() {
        for windows in [Filter::Bicubic.windows(6, 6), bicubic_through_inputs(6, 6)] {
            for (output, window) in windows.iter().enumerate() {
                for (n, &weight) in window.weights.iter().enumerate() {
                    let expected = if window.start + n == output { 1.0 } else { 0.0 };
                    assert!((weight - expected).abs() < 1e-12);
                }
            }
        }
    }

    #[test]
    fn a_bicubic_half_step_has_the_published_weights() {
        // Keys 1981: at the middle between inputs -1/16, 9/16, 9/16, -1/16 for a = -1/2.
        assert_eq!(cubic(0.5, -0.5), 9.0 / 16.0);
        assert_eq!(cubic(1.5, -0.5), -1.0 / 16.0);
        assert_eq!(cubic(0.5, -0.75), 19.0 / 32.0);
        assert_eq!(cubic(1.5, -0.75), -3.0 / 32.0);
    }
}
