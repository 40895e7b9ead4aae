//! When a result is right.

/// How much larger than the composition's a forward error may be.
pub const FORWARD: f64 = 2.0;
/// The same for gradients.
pub const GRADIENT: f64 = 3.0;

/// Rounding steps of `f32` at the size of the largest reference value, below which errors are
/// not compared: with few terms the composition may be exact by luck.
const FLOOR: f64 = 8.0 / (1u32 << 24) as f64;

fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, f64::max)
}

/// Asserts that the error of `actual` against the `f64` reference is at most `factor` times that
/// of the plain composition, plus a floor. All inputs of the three are the same.
pub fn assert_close(what: &str, actual: &[f64], reference: &[f64], composed: &[f64], factor: f64) {
    assert_eq!(actual.len(), reference.len(), "{what}: length");
    assert_eq!(
        composed.len(),
        reference.len(),
        "{what}: length of the composition"
    );
    let unwritten = actual.iter().filter(|value| !value.is_finite()).count();
    assert_eq!(
        unwritten,
        0,
        "{what}: {unwritten} of {} are not finite",
        actual.len()
    );
    let error = |values: &[f64]| largest(values.iter().zip(reference).map(|(a, b)| (a - b).abs()));
    let floor = FLOOR * largest(reference.iter().map(|value| value.abs()));
    let (found, plain) = (error(actual), error(composed));
    assert!(
        found <= factor * plain + floor,
        "{what}: error {found:e}, the plain composition has {plain:e} (allowed {factor} times, \
         plus {floor:e})"
    );
}
