//! Compressing dense weights into low-rank, Monarch and BLAST factors.
//!
//! - [`factorize`]: one weight to one structured layer, on any device.
//! - [`compress`]: a checkpoint directory to a compressed checkpoint directory, layer by layer, with
//!   progress, bounded memory and resumption after a kill.
//! - [`merge`]: one checkpoint from parts that were compressed apart.

mod compress;
mod error;

pub use compress::{
    BlastOptions, BlastSolver, Calibration, CompressEvent, CompressRequest, Factorization,
    LayerReport, MergeRequest, Products, Ranks, compress, factorize, merge, partial_path,
    relative_error, spread_ranks,
};
pub use error::TrainingError;
