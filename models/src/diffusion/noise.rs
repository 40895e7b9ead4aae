//! Noise that depends on nothing but its seed.

use std::f64::consts::TAU;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

/// Draws normal numbers on the host, so that a seed gives the same image on every device.
#[derive(Debug, Clone)]
pub struct NoiseSource {
    rng: Xoshiro256PlusPlus,
    /// The second number of a pair that was drawn.
    spare: Option<f32>,
}

impl NoiseSource {
    /// The source of image number `image` of a run with `seed`. An image does not depend on how many
    /// are drawn beside it.
    pub fn new(seed: u64, image: usize) -> Self {
        // An odd factor, so that the images of a run have different seeds.
        let offset = (image as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Self {
            rng: Xoshiro256PlusPlus::seed_from_u64(seed.wrapping_add(offset)),
            spare: None,
        }
    }

    /// The next `count` numbers of mean 0 and variance 1.
    pub fn draw(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }

    /// One number, by the method of Box and Muller, which makes two.
    fn next(&mut self) -> f32 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        // From (0, 1], so that the log is finite.
        let radius = (-2.0 * (1.0 - self.rng.random::<f64>()).ln()).sqrt();
        let angle = TAU * self.rng.random::<f64>();
        self.spare = Some((radius * angle.sin()) as f32);
        (radius * angle.cos()) as f32
    }
}
