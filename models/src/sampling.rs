//! The choice of a token from its logits.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::ModelError;

/// Chooses tokens: the likeliest, or at random from a distribution that is cut off.
///
/// As in `transformers`, the logits are divided by the temperature, then all but the `top_k` largest
/// are dropped, then all but the fewest that together have a probability of at least `top_p`.
#[derive(Debug, Clone)]
pub struct Sampler {
    temperature: f64,
    top_k: Option<usize>,
    top_p: f64,
    // Named rather than `StdRng`: a seed gives the same text in every release of `rand`.
    rng: Xoshiro256PlusPlus,
}

impl Sampler {
    /// A sampler; a temperature of zero always takes the likeliest token.
    ///
    /// # Errors
    ///
    /// [`ModelError::InvalidOption`] if the temperature is negative or not finite, `top_k` is zero,
    /// or `top_p` is not above 0 and at most 1.
    pub fn new(
        temperature: f64,
        top_k: Option<usize>,
        top_p: Option<f64>,
        seed: u64,
    ) -> Result<Self, ModelError> {
        if !(temperature.is_finite() && temperature >= 0.0) {
            let expected = "zero or a positive number";
            return Err(ModelError::invalid_option(
                "temperature",
                temperature,
                expected,
            ));
        }
        if top_k == Some(0) {
            return Err(ModelError::invalid_option("top-k", 0, "a positive number"));
        }
        let top_p = top_p.unwrap_or(1.0);
        if !(top_p > 0.0 && top_p <= 1.0) {
            let expected = "a number above 0 and at most 1";
            return Err(ModelError::invalid_option("top-p", top_p, expected));
        }
        Ok(Self {
            temperature,
            top_k,
            top_p,
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
        })
    }

    /// Chooses a token; of equal logits the first counts as larger.
    ///
    /// # Errors
    ///
    /// [`ModelError::NonFiniteLogit`] if a logit is infinite or not a number.
    pub fn choose(&mut self, logits: &[f32]) -> Result<u32, ModelError> {
        let bad = logits.iter().enumerate().find(|(_, x)| !x.is_finite());
        if let Some((token, &value)) = bad {
            return Err(ModelError::NonFiniteLogit { token, value });
        }
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let logit = |token: u32| logits.get(token as usize).copied().unwrap_or(f32::MIN);
        // Largest first; equal ones by id.
        let larger = |a: &u32, b: &u32| logit(*b).total_cmp(&logit(*a)).then(a.cmp(b));
        if self.temperature == 0.0 {
            return Ok(order.into_iter().min_by(larger).unwrap_or_default());
        }
        if let Some(k) = self.top_k
            && k < order.len()
        {
            // Dropping the rest first makes the sort below cheap.
            order.select_nth_unstable_by(k - 1, larger);
            order.truncate(k);
        }
        order.sort_unstable_by(larger);

        let max = order.first().map_or(0.0, |&token| f64::from(logit(token)));
        let weights: Vec<f64> = order
            .iter()
            .map(|&token| ((f64::from(logit(token)) - max) / self.temperature).exp())
            .collect();
        let total: f64 = weights.iter().sum();
        let mut kept = 0.0;
        let mut count = 0;
        for weight in &weights {
            // The token that reaches top_p is kept, so there is always one.
            if count > 0 && kept >= self.top_p * total {
                break;
            }
            kept += weight;
            count += 1;
        }

        let mut left = self.rng.random::<f64>() * kept;
        for (&token, weight) in order.iter().zip(&weights).take(count) {
            left -= weight;
            if left < 0.0 {
                return Ok(token);
            }
        }
        // Rounding can leave a little of the last weight.
        Ok(order
            .get(count.saturating_sub(1))
            .copied()
            .unwrap_or_default())
    }
}
