//! The losses of a training, step by step.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// The mean losses of one step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepLoss {
    /// The step, counted from one.
    pub step: usize,
    /// The learning rate.
    pub learning_rate: f64,
    /// What was minimised.
    pub loss: f64,
    /// The part of the task, without its weight.
    pub task: f64,
    /// The distance to the outputs of the teacher, without its weight; zero without a teacher.
    pub output: f64,
    /// The mean distance to the hidden states of the teacher, weighted; zero without a teacher.
    pub hidden: f64,
}

/// A validation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Steps that were done before it.
    pub step: usize,
    /// Mean loss of the task.
    pub loss: f64,
    /// Share of the images that got their label; only for a classifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
}

/// All steps and validations.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// The steps.
    pub steps: Vec<StepLoss>,
    /// The validations; the first is before the first step.
    pub validations: Vec<Validation>,
}

impl Curve {
    /// What happened up to a step, that step included.
    pub(crate) fn until(mut self, step: usize) -> Self {
        self.steps.retain(|done| done.step <= step);
        self.validations.retain(|done| done.step <= step);
        self
    }
}

/// Losses of a batch: of all, of the task, of the outputs, of the hidden states.
pub(crate) const PARTS: usize = 4;

/// A curve that grows with the batches of a training.
#[derive(Debug)]
pub(crate) struct Recording {
    curve: Curve,
    batches_per_step: usize,
    save_every: usize,
    total_steps: usize,
    /// Losses of the batches of each unfinished step, and their number.
    open: Vec<(usize, [f64; PARTS], usize)>,
    /// Sums of a validation: of the losses over rows, of hits, of rows.
    valid: [f64; 3],
    classifies: bool,
}

/// A recording that several threads hold.
pub(crate) type SharedRecording = Arc<Mutex<Recording>>;

/// Holds the lock; a thread that failed while it had it has left a whole curve.
pub(crate) fn locked(recording: &SharedRecording) -> std::sync::MutexGuard<'_, Recording> {
    recording.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recording {
    pub fn new(curve: Curve, options: &super::TrainOptions, classifies: bool) -> Self {
        Self {
            curve,
            batches_per_step: options.batches_per_step(),
            save_every: options.save_every,
            total_steps: options.steps,
            open: Vec::new(),
            valid: [0.0; 3],
            classifies,
        }
    }

    /// Adds a batch, the batches of all devices counted together; the step if it is complete now.
    pub fn add_batch(
        &mut self,
        index: usize,
        losses: [f64; PARTS],
        learning_rate: f64,
    ) -> Option<StepLoss> {
        let step = index / self.batches_per_step;
        let place = match self.open.iter().position(|open| open.0 == step) {
            Some(place) => place,
            None => {
                self.open.push((step, [0.0; PARTS], 0));
                self.open.len() - 1
            }
        };
        let (_, sums, count) = &mut self.open[place];
        for (sum, loss) in sums.iter_mut().zip(losses) {
            *sum += loss;
        }
        *count += 1;
        if *count < self.batches_per_step {
            return None;
        }
        let (_, sums, count) = self.open.swap_remove(place);
        let [loss, task, output, hidden] = sums.map(|sum| sum / count as f64);
        let done = StepLoss {
            step: step + 1,
            learning_rate,
            loss,
            task,
            output,
            hidden,
        };
        self.curve.steps.push(done);
        Some(done)
    }

    /// Adds a batch of a validation.
    pub fn add_valid(&mut self, loss: f64, hits: f64, rows: usize) {
        let rows = rows as f64;
        for (sum, value) in self.valid.iter_mut().zip([loss * rows, hits, rows]) {
            *sum += value;
        }
    }

    /// Ends the validation after `round`; `None` if nothing was looked at.
    pub fn end_validation(&mut self, round: usize) -> Option<Validation> {
        let [loss, hits, rows] = std::mem::take(&mut self.valid);
        if rows == 0.0 {
            return None;
        }
        let done = Validation {
            step: (round * self.save_every).min(self.total_steps),
            loss: loss / rows,
            accuracy: self.classifies.then_some(hits / rows),
        };
        self.curve.validations.push(done);
        Some(done)
    }

    /// The curve so far.
    pub fn curve(&self) -> &Curve {
        &self.curve
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::TrainOptions;

    #[test]
    fn a_curve_until_a_step_has_no_later_one() {
        let step = |step| StepLoss {
            step,
            learning_rate: 0.1,
            loss: 1.0,
            task: 1.0,
            output: 0.0,
            hidden: 0.0,
        };
        let validation = |step| Validation {
            step,
            loss: 1.0,
            accuracy: None,
        };
        let curve = |steps: &[usize], validations: &[usize]| Curve {
            steps: steps.iter().copied().map(step).collect(),
            validations: validations.iter().copied().map(validation).collect(),
        };
        let until = curve(&[1, 2, 3, 4], &[0, 3, 6]).until(3);
        assert_eq!(until, curve(&[1, 2, 3], &[0, 3]));
    }

    #[test]
    fn batches_of_several_devices_make_a_step_in_any_order() {
        let options = TrainOptions {
            steps: 4,
            accumulate: 2,
            devices: 2,
            save_every: 3,
            ..TrainOptions::default()
        };
        let mut recording = Recording::new(Curve::default(), &options, false);
        let mut done = Vec::new();
        for index in [0, 2, 1, 4, 5, 3, 6, 7] {
            let loss = index as f64;
            done.extend(recording.add_batch(index, [loss, 2.0 * loss, 0.0, 0.0], 0.1));
        }
        let found: Vec<_> = done
            .iter()
            .map(|one| (one.step, one.loss, one.task))
            .collect();
        assert_eq!(found, [(1, 1.5, 3.0), (2, 5.5, 11.0)]);
        recording.add_valid(1.0, 0.0, 2);
        recording.add_valid(4.0, 0.0, 1);
        let valid = recording.end_validation(2).map(|one| (one.step, one.loss));
        assert_eq!(valid, Some((4, 2.0)));
        assert_eq!(recording.end_validation(2), None);
    }
}
