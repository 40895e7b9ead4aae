//! What training makes small.

use burn::tensor::{Int, Tensor, activation};

/// Mean over the rows of `-log softmax(logits)[target]`.
///
/// # Shapes
///
/// - `logits`: `[rows, classes]`, `f32`
/// - `targets`: `[rows]`
/// - output: `[1]`
pub(crate) fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let log_p = activation::log_softmax(logits, 1);
    -log_p.gather(1, targets.unsqueeze_dim(1)).mean()
}

/// Mean over the rows of `τ² KL(softmax(teacher / τ) ‖ softmax(student / τ))`
/// ([Hinton et al. 2015](https://arxiv.org/abs/1503.02531), section 2).
///
/// # Shapes
///
/// - `student`, `teacher`: `[rows, classes]`, `f32`
/// - output: `[1]`
pub(crate) fn divergence(student: Tensor<2>, teacher: Tensor<2>, temperature: f64) -> Tensor<1> {
    let [rows, _] = student.dims();
    let student = activation::log_softmax(student / temperature, 1);
    let teacher = activation::log_softmax(teacher / temperature, 1);
    let sum = (teacher.clone().exp() * (teacher - student)).sum();
    sum * (temperature * temperature / rows as f64)
}

/// Mean squared difference, `[1]`.
pub(crate) fn square_error<const D: usize>(found: Tensor<D>, wanted: Tensor<D>) -> Tensor<1> {
    (found - wanted).square().mean()
}

/// Mean squared difference over the mean square of `wanted`, `[1]`: the same for states of any size.
pub(crate) fn relative_square_error<const D: usize>(
    found: Tensor<D>,
    wanted: Tensor<D>,
) -> Tensor<1> {
    let size = wanted.clone().square().mean();
    square_error(found, wanted) / size.clamp_min(f64::from(f32::MIN_POSITIVE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn logits(values: [[f32; 3]; 2]) -> Tensor<2> {
        Tensor::from_floats(values, &Device::flex())
    }

    fn number(tensor: Tensor<1>) -> f64 {
        tensor.into_scalar::<f64>()
    }

    #[test]
    fn the_divergence_is_that_of_the_formula_and_zero_for_equal_logits() {
        let student = [[0.2, -1.0, 0.5], [1.5, 0.0, -0.3]];
        let teacher = [[1.0, 0.1, -0.4], [0.3, 0.2, 2.0]];
        let temperature = 2.0;
        let softmax = |row: [f32; 3]| {
            let powers = row.map(|logit| (f64::from(logit) / temperature).exp());
            let sum: f64 = powers.iter().sum();
            powers.map(|power| power / sum)
        };
        let mut expected = 0.0;
        for (student, teacher) in student.into_iter().zip(teacher) {
            for (q, p) in softmax(student).into_iter().zip(softmax(teacher)) {
                expected += temperature * temperature * p * (p / q).ln() / 2.0;
            }
        }
        let found = divergence(logits(student), logits(teacher), temperature);
        assert!((number(found) - expected).abs() < 1e-6);
        let same = divergence(logits(student), logits(student), temperature);
        assert!(number(same).abs() < 1e-7);
    }

    #[test]
    fn the_relative_error_does_not_depend_on_the_size_of_the_states() {
        let (found, wanted) = ([[1.0, 2.0, 3.0], [0.0; 3]], [[1.0, 1.0, 3.0], [0.5; 3]]);
        let error = |scale: f32| {
            let scaled = |values: [[f32; 3]; 2]| logits(values.map(|row| row.map(|x| x * scale)));
            number(relative_square_error(scaled(found), scaled(wanted)))
        };
        assert!((error(1.0) - 1.75 / 11.75).abs() < 1e-6);
        assert!((error(100.0) - error(1.0)).abs() < 1e-6);
    }

    #[test]
    fn cross_entropy_takes_the_targets() {
        let targets = Tensor::from_ints([2, 0], &Device::flex());
        let found = cross_entropy(logits([[0.0, 0.0, 2f32.ln()], [0.0; 3]]), targets);
        let expected = (2f64.ln() + 3f64.ln()) / 2.0;
        assert!((number(found) - expected).abs() < 1e-6);
    }
}
