//! Dense to structured: the factorisations, and a whole checkpoint at a time.

mod blast;
mod checkpoint;
mod factorize;
mod host;
mod parts;
mod solve;
mod write;

pub use blast::BlastOptions;
pub use checkpoint::{CompressEvent, CompressRequest, LayerReport, compress, partial_path};
pub use factorize::{Factorization, factorize, relative_error};
