//! Compressing dense weights into low-rank, Monarch and BLAST factors.
//!
//! - [`factorize`]: one weight to one structured layer, on any device.
//! - [`compress`]: a checkpoint directory to a compressed checkpoint directory, layer by layer, with
//!   progress, bounded memory and resumption after a kill.

mod compress;
mod error;

pub use compress::{
    BlastOptions, BlastSolver, Calibration, CompressEvent, CompressRequest, Factorization,
    LayerReport, Products, compress, factorize, partial_path, relative_error, spread_ranks,
};
pub use error::TrainingError;
