//! The steps of the diffusion process and their coefficients.

use crate::ModelError;

/// Steps of the process that the models are trained on.
pub const TRAINING_STEPS: usize = 1000;

/// Variance that the first and the last step of training add.
const FIRST_BETA: f64 = 1e-4;
const LAST_BETA: f64 = 0.02;

/// The linear schedule of [`TRAINING_STEPS`] steps
/// ([Ho et al. 2020](https://arxiv.org/abs/2006.11239)), of which some evenly spaced ones are kept
/// ([Nichol and Dhariwal 2021](https://arxiv.org/abs/2102.09672)).
#[derive(Debug, Clone, PartialEq)]
pub struct DiffusionSchedule {
    steps: Vec<DiffusionStep>,
}

/// The coefficients of one step from `x_t` to `x_{t-1}`, computed in `f64`.
///
/// `α` is the share of the image that is left at `t`, `α'` that at the step before, and
/// `β = 1 - α / α'`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DiffusionStep {
    /// The timestep of training, which the model is given.
    pub timestep: usize,
    /// Share of the image that is left, `α`.
    pub alpha: f64,
    /// Share of the image that is left one step earlier, `α'`; 1 at the first.
    pub alpha_before: f64,
    /// Log of the smallest variance of the step back, that of `x_{t-1}` given `x_t` and `x_0`.
    pub min_log_variance: f64,
    /// Log of the largest, `β`.
    pub max_log_variance: f64,
    /// Log of the variance of the step back for a model that has not learned one: `β`, and at the
    /// first step the smallest variance of the second.
    pub fixed_log_variance: f64,
}

impl DiffusionStep {
    /// What this step adds to the variance, `β`.
    pub fn beta(&self) -> f64 {
        1.0 - self.alpha / self.alpha_before
    }

    /// What `x_t` and the noise are multiplied with for the image: `x_0 = a x_t - b noise`.
    pub fn image(&self) -> [f64; 2] {
        [(1.0 / self.alpha).sqrt(), (1.0 / self.alpha - 1.0).sqrt()]
    }

    /// What the image and `x_t` are multiplied with for the mean of `x_{t-1}`.
    pub fn mean(&self) -> [f64; 2] {
        let left = 1.0 - self.alpha;
        [
            self.beta() * self.alpha_before.sqrt() / left,
            (1.0 - self.alpha_before) * (1.0 - self.beta()).sqrt() / left,
        ]
    }
}

impl DiffusionSchedule {
    /// Keeps `steps` of the steps of training, from the first to the last.
    ///
    /// # Errors
    ///
    /// [`ModelError::InvalidOption`] if `steps` is zero or more than [`TRAINING_STEPS`].
    pub fn new(steps: usize) -> Result<Self, ModelError> {
        if !(1..=TRAINING_STEPS).contains(&steps) {
            return Err(ModelError::invalid_option("steps", steps, "1 to 1000"));
        }
        let stride = match steps {
            1 => 1.0,
            _ => (TRAINING_STEPS - 1) as f64 / (steps - 1) as f64,
        };
        // Summed up and rounded to even as in Python, so that the same steps are kept.
        let mut place = 0.0f64;
        let mut kept = Vec::with_capacity(steps);
        for _ in 0..steps {
            kept.push(place.round_ties_even() as usize);
            place += stride;
        }

        let mut left = 1.0;
        let shares: Vec<f64> = (0..TRAINING_STEPS)
            .map(|t| {
                let along = t as f64 / (TRAINING_STEPS - 1) as f64;
                left *= 1.0 - (FIRST_BETA + along * (LAST_BETA - FIRST_BETA));
                left
            })
            .collect();
        let mut alpha_before = 1.0;
        let mut found = Vec::with_capacity(steps);
        for timestep in kept {
            let alpha = shares.get(timestep).copied().unwrap_or(left);
            let beta: f64 = 1.0 - alpha / alpha_before;
            let smallest = beta * (1.0 - alpha_before) / (1.0 - alpha);
            found.push(DiffusionStep {
                timestep,
                alpha,
                alpha_before,
                min_log_variance: smallest.ln(),
                max_log_variance: beta.ln(),
                fixed_log_variance: beta.ln(),
            });
            alpha_before = alpha;
        }
        // The first step back has no variance, and its log no value; it takes that of the second,
        // and of nothing if there is none, since no noise is added there.
        let second = found.get(1).map_or(f64::MIN, |step| step.min_log_variance);
        if let Some(first) = found.first_mut() {
            first.min_log_variance = second;
            first.fixed_log_variance = second;
        }
        Ok(Self { steps: found })
    }

    /// The steps, that of the least noise first.
    pub fn steps(&self) -> &[DiffusionStep] {
        &self.steps
    }
}
