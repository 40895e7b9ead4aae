//! Random numbers that are the same on every device and in every run.

use std::f64::consts::TAU;

/// Standard normal numbers: SplitMix64 ([Steele et al. 2014](https://doi.org/10.1145/2660193.2660195))
/// and the transform of Box and Muller.
pub(super) struct Normal {
    state: u64,
}

impl Normal {
    pub fn new(seed: u64) -> Self {
        Normal { state: seed }
    }

    /// The next numbers.
    pub fn take(&mut self, count: usize) -> Vec<f32> {
        let mut numbers = Vec::with_capacity(count + 1);
        while numbers.len() < count {
            let radius = (-2.0 * self.uniform().ln()).sqrt();
            let (sine, cosine) = (TAU * self.uniform()).sin_cos();
            numbers.push((radius * cosine) as f32);
            numbers.push((radius * sine) as f32);
        }
        numbers.truncate(count);
        numbers
    }

    /// Uniform above 0 and up to 1.
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^= bits >> 31;
        ((bits >> 11) + 1) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::Normal;

    #[test]
    fn numbers_have_the_moments_of_a_standard_normal() {
        let numbers = Normal::new(1).take(100_001);
        assert_eq!(numbers.len(), 100_001);
        let mean = |power: i32| {
            let powers = numbers.iter().map(|&x| f64::from(x).powi(power));
            powers.sum::<f64>() / numbers.len() as f64
        };
        for (power, expected) in [(1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)] {
            let found = mean(power);
            assert!((found - expected).abs() < 0.05, "moment {power}: {found}");
        }
    }
}
