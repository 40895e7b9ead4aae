//! Training on Burn's `Learner`: fine-tuning with a teacher, and from scratch.

mod batches;
mod clip;
mod curve;
mod export;
mod failure;
mod half;
mod image_batches;
mod losses;
mod metric;
mod optimizer;
mod options;
mod order;
mod pump;
mod run;
mod run_folder;
mod schedule;
mod silent;
mod text;
mod trainee;

pub use batches::{BatchSource, HostBatch};
pub use curve::{Curve, StepLoss, Validation};
pub use image_batches::{ImageBatches, ImageSets, NoisyBatches};
pub use options::{Distillation, Exchange, TrainOptions, Trained};
pub use run::{Start, TrainEvent, TrainReport, TrainRequest, train};
pub use text::TextBatches;
