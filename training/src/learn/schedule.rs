//! The learning rate over the steps of a training.

use std::f64::consts::PI;

use burn::optim::LearningRate;
use burn::optim::lr_scheduler::{LrScheduler, LrSchedulerRecord};

use super::TrainOptions;

/// Key of a record: how often the scheduler was asked.
const ASKED: &str = "asked";

/// Grows linearly in the first steps and falls with a cosine in the others.
///
/// Burn asks once for each batch, which may be several times for a step.
#[derive(Debug, Clone)]
pub(crate) struct WarmupCosine {
    options: TrainOptions,
    /// How often it is asked for a step.
    per_step: usize,
    asked: usize,
}

impl WarmupCosine {
    pub(crate) fn new(options: &TrainOptions, per_step: usize) -> Self {
        Self {
            options: options.clone(),
            per_step,
            asked: 0,
        }
    }
}

impl TrainOptions {
    /// The learning rate of a step, counted from zero.
    pub fn learning_rate_at(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.learning_rate * (step + 1) as f64 / self.warmup as f64;
        }
        let falling = self.steps.saturating_sub(self.warmup).max(1);
        let along = ((step - self.warmup) as f64 / falling as f64).min(1.0);
        let share = self.final_share + (1.0 - self.final_share) * 0.5 * (1.0 + (PI * along).cos());
        self.learning_rate * share
    }
}

impl LrScheduler for WarmupCosine {
    fn step(&mut self) -> LearningRate {
        let step = self.asked / self.per_step;
        self.asked += 1;
        self.options.learning_rate_at(step)
    }

    fn to_record(&self) -> LrSchedulerRecord {
        LrSchedulerRecord::new().with_scalar(ASKED, self.asked as u64)
    }

    fn load_record(&mut self, record: LrSchedulerRecord) {
        let asked = record.scalar::<u64>(ASKED);
        if let Some(asked) = asked.and_then(|asked| usize::try_from(asked).ok()) {
            self.asked = asked;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> TrainOptions {
        TrainOptions {
            steps: 20,
            warmup: 4,
            learning_rate: 1.0,
            final_share: 0.1,
            ..TrainOptions::default()
        }
    }

    #[test]
    fn the_learning_rate_grows_to_its_largest_value_and_falls_to_the_share_that_is_left() {
        let rates: Vec<f64> = (0..20)
            .map(|step| options().learning_rate_at(step))
            .collect();
        assert_eq!(rates[..4], [0.25, 0.5, 0.75, 1.0]);
        assert!(rates[4..].windows(2).all(|pair| pair[1] < pair[0]));
        assert!((options().learning_rate_at(20) - 0.1).abs() < 1e-12);
        // Half of the way down in the middle.
        assert!((rates[12] - 0.55).abs() < 1e-12);
    }

    #[test]
    fn a_restored_scheduler_goes_on_where_it_was() {
        let mut scheduler = WarmupCosine::new(&options(), 2);
        let rates: Vec<f64> = (0..12).map(|_| scheduler.step()).collect();
        assert_eq!(rates[0], rates[1]);
        let mut other = WarmupCosine::new(&options(), 2);
        let mut first = WarmupCosine::new(&options(), 2);
        for _ in 0..7 {
            first.step();
        }
        other.load_record(first.to_record());
        assert_eq!(
            (7..12).map(|_| other.step()).collect::<Vec<_>>(),
            rates[7..]
        );
    }
}
