//! Dense to structured: the factorisations, and a whole checkpoint at a time.

mod blast;
mod calibration;
mod checkpoint;
mod factorize;
mod host;
mod parts;
mod random;
mod ranks;
mod subspace;
mod weighting;
mod write;

pub use blast::{BlastOptions, BlastSolver, Products};
pub use calibration::Calibration;
pub use checkpoint::{CompressEvent, CompressRequest, LayerReport, compress, partial_path};
pub use factorize::{Factorization, factorize, relative_error};
pub(crate) use parts::{io, replace};
pub use ranks::spread_ranks;
