//! Reading, factorising and writing at the same time: while a layer is factorised, the next one is
//! read and the one before is written. Each of the three holds one layer.

use std::io::ErrorKind;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use models::{Checkpoint, LinearLayer};

use super::run_folder::{FinishedLayer, RunFolder, io};
use super::source::DenseWeight;
use crate::TrainingError;

/// The ends of the pipeline that factorising sees.
pub(super) struct Pipeline<'a> {
    weights: Receiver<Result<DenseWeight, TrainingError>>,
    finished: SyncSender<(usize, FinishedLayer)>,
    folder: &'a RunFolder,
}

impl Pipeline<'_> {
    /// The weight of the next layer.
    pub fn next(&self) -> Result<DenseWeight, TrainingError> {
        self.weights.recv().map_err(|_| self.broken())?
    }

    /// Has a finished layer written; returns once the one before it is.
    pub fn keep(&self, index: usize, layer: FinishedLayer) -> Result<(), TrainingError> {
        self.finished
            .send((index, layer))
            .map_err(|_| self.broken())
    }

    /// The other end is gone, and says itself why.
    fn broken(&self) -> TrainingError {
        io(self.folder.path())(ErrorKind::BrokenPipe.into())
    }
}

/// Runs `factorise` on a pipeline of the weights of `layers`, in their order. When it returns, all
/// that it kept is written.
pub(super) fn run<T>(
    source: &Checkpoint,
    layers: &[&LinearLayer],
    folder: &RunFolder,
    factorise: impl FnOnce(Pipeline<'_>) -> Result<T, TrainingError>,
) -> Result<T, TrainingError> {
    std::thread::scope(|scope| {
        // Without room between the ends: a layer is handed over when the next end is free.
        let (read, weights) = sync_channel(0);
        let (finished, taken) = sync_channel::<(usize, FinishedLayer)>(0);
        scope.spawn(move || {
            for layer in layers {
                if read.send(DenseWeight::read(source, layer)).is_err() {
                    break;
                }
            }
        });
        let writer = scope.spawn(move || {
            taken
                .into_iter()
                .try_for_each(|(index, layer)| folder.keep(index, &layer))
        });
        let result = factorise(Pipeline {
            weights,
            finished,
            folder,
        });
        match writer.join() {
            Ok(Ok(())) => result,
            Ok(Err(error)) => Err(error),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
