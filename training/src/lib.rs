//! Compressing dense weights into low-rank, Monarch and BLAST factors, and training them.
//!
//! - [`factorize`]: one weight to one structured layer, on any device.
//! - [`compress`]: a checkpoint directory to a compressed checkpoint directory, layer by layer, with
//!   progress, bounded memory and resumption after a kill.
//! - [`merge`]: one checkpoint from parts that were compressed apart.
//! - [`train`]: a model from a checkpoint, with or without a teacher, or from scratch, on Burn's
//!   `Learner`; resumes with the same numbers.

mod compress;
mod error;
mod learn;

pub use compress::{
    BlastOptions, BlastSolver, Calibration, CompressEvent, CompressRequest, Factorization,
    LayerReport, MergeRequest, Products, Ranks, compress, factorize, merge, partial_path,
    relative_error, spread_ranks,
};
pub use error::TrainingError;
pub use learn::{
    BatchSource, Curve, Distillation, Exchange, HostBatch, ImageBatches, ImageSets, NoisyBatches,
    Start, StepLoss, TextBatches, TrainEvent, TrainOptions, TrainReport, TrainRequest, Trained,
    Validation, train,
};
