//! Dense to structured: the factorisations, and a whole checkpoint at a time.

mod blast;
mod calibration;
mod checkpoint;
mod checksum;
mod factorize;
mod factors;
mod host;
mod merge;
mod pipeline;
mod random;
mod ranks;
mod record;
mod request;
mod run_folder;
mod settings;
mod shard;
mod source;
mod subspace;
mod weighting;
mod write;

pub use blast::{BlastOptions, BlastSolver, Products};
pub use calibration::Calibration;
pub use checkpoint::compress;
pub use factorize::{Factorization, factorize, relative_error};
pub(crate) use factors::to_bytes;
pub use merge::{MergeRequest, merge};
pub use ranks::spread_ranks;
pub use request::{CompressEvent, CompressRequest, LayerReport, Ranks, partial_path};
pub(crate) use run_folder::{io, replace};
pub(crate) use write::{copy_files, other_files, write_json};
