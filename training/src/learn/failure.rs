//! Why a training that is under way has to stop.
//!
//! Burn's training takes no errors from a step: what went wrong is kept here, and the training is
//! interrupted.

use std::sync::{Arc, Mutex, PoisonError};

use burn::train::Interrupter;

use crate::TrainingError;

/// The first error of a training, held by everything that takes part in it.
#[derive(Clone)]
pub(crate) struct Failure {
    first: Arc<Mutex<Option<TrainingError>>>,
    interrupter: Interrupter,
}

impl std::fmt::Debug for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Failure").finish_non_exhaustive()
    }
}

impl Failure {
    pub fn new(interrupter: Interrupter) -> Self {
        Self {
            first: Arc::default(),
            interrupter,
        }
    }

    /// Keeps the error, unless there was one before, and interrupts the training.
    pub fn keep(&self, error: impl Into<TrainingError>) {
        let error = error.into();
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        self.interrupter.stop(Some(&error.to_string()));
        first.get_or_insert(error);
    }

    /// The error, if there was one.
    pub fn take(&self) -> Result<(), TrainingError> {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.take().map_or(Ok(()), Err)
    }
}
