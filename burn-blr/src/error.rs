//! The error type of this crate.

use cubecl_kernels::KernelError;
use thiserror::Error;

/// Why a layer or a structure could not be made.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum BlrError {
    /// The numbers of a structure do not fit together.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A factor has another shape than the structure asks for.
    #[error("factor `{factor}` has shape {actual:?}, expected {expected:?}")]
    FactorShape {
        /// Name of the factor, as in the stored layout.
        factor: &'static str,
        /// Shape the other factors ask for.
        expected: Vec<usize>,
        /// Shape found.
        actual: Vec<usize>,
    },
    /// A structure that would hold more weights than it can use.
    #[error(
        "rank {rank} is larger than {limit}, the largest rank a {in_features} -> {out_features} layer can use"
    )]
    RankTooLarge {
        /// Rank asked for.
        rank: usize,
        /// Largest useful rank.
        limit: usize,
        /// Width of the input.
        in_features: usize,
        /// Width of the output.
        out_features: usize,
    },
    /// A method name that is not one of the structures.
    #[error("unknown method `{found}`, expected one of: low-rank, monarch, blast")]
    UnknownMethod {
        /// The text found.
        found: String,
    },
}
