//! The losses as metrics of Burn, which also record the curve.

use std::sync::Arc;

use burn::train::metric::state::{FormatOptions, NumericMetricState};
use burn::train::metric::{
    Adaptor, Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericAttributes,
    NumericEntry, SerializedEntry,
};

use super::TrainEvent;
use super::curve::{PARTS, SharedRecording, locked};
use super::failure::Failure;
use super::trainee::BatchLosses;
use crate::TrainingError;

/// Told of what happens in a training, from whichever thread.
pub(crate) type Listener = Arc<dyn Fn(TrainEvent) + Send + Sync>;

/// Losses on the host.
#[derive(Debug, Clone)]
pub(crate) struct HostLosses {
    index: usize,
    rows: usize,
    values: Result<Vec<f64>, String>,
}

impl Adaptor<HostLosses> for BatchLosses {
    fn adapt(&self) -> HostLosses {
        let values = self.values();
        HostLosses {
            index: self.index,
            rows: self.rows,
            values: values
                .map(|values| values.iter().map(|&value| f64::from(value)).collect())
                .map_err(str::to_string),
        }
    }
}

/// What a metric of losses shares with the training.
#[derive(Clone)]
pub(crate) struct Shared {
    pub recording: SharedRecording,
    pub failure: Failure,
    pub listener: Listener,
}

/// The loss of a batch, in training or in validation.
#[derive(Clone)]
pub(crate) struct Loss {
    name: MetricName,
    state: NumericMetricState,
    shared: Shared,
    validates: bool,
}

impl Loss {
    pub fn new(shared: &Shared, validates: bool) -> Self {
        Self {
            name: Arc::new(String::from("Loss")),
            state: NumericMetricState::default(),
            shared: shared.clone(),
            validates,
        }
    }

    fn format(&self) -> FormatOptions {
        FormatOptions::new(self.name.clone()).precision(4)
    }

    /// Records the losses and returns the first.
    fn record(&self, losses: &HostLosses, metadata: &MetricMetadata) -> Result<f64, TrainingError> {
        let values = losses.values.as_ref().map_err(|reason| {
            let reason = reason.clone();
            TrainingError::Device { reason }
        })?;
        let first = values.first().copied().unwrap_or(f64::NAN);
        if self.validates {
            let hits = values.get(1).copied().unwrap_or_default();
            locked(&self.shared.recording).add_valid(first, hits, losses.rows);
            return Ok(first);
        }
        let mut parts = [0.0; PARTS];
        for (part, value) in parts.iter_mut().zip(values) {
            *part = *value;
        }
        let rate = metadata.lr.as_ref().map_or(0.0, |rate| rate.base());
        let done = locked(&self.shared.recording).add_batch(losses.index, parts, rate);
        if let Some(step) = done {
            (self.shared.listener)(TrainEvent::Step(step));
        }
        match first.is_finite() {
            true => Ok(first),
            false => Err(TrainingError::NotFinite),
        }
    }
}

impl Metric for Loss {
    type Input = HostLosses;

    fn update(&mut self, losses: &HostLosses, metadata: &MetricMetadata) -> SerializedEntry {
        let loss = match self.record(losses, metadata) {
            Ok(loss) => loss,
            Err(error) => {
                self.shared.failure.keep(error);
                f64::NAN
            }
        };
        self.state.update(loss, losses.rows);
        self.state.compute_update(self.format())
    }

    fn compute(&mut self) -> SerializedEntry {
        self.state.compute_final(self.format())
    }

    fn clear(&mut self) {
        self.state.reset();
    }

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn attributes(&self) -> MetricAttributes {
        let attributes = NumericAttributes {
            unit: None,
            higher_is_better: false,
        };
        attributes.into()
    }
}

impl Numeric for Loss {
    fn value(&self) -> Option<NumericEntry> {
        Some(self.state.current_value())
    }

    fn running_value(&self) -> Option<NumericEntry> {
        Some(self.state.running_value())
    }

    fn final_value(&self) -> NumericEntry {
        self.state.final_value()
    }
}
