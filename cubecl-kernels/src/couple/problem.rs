//! What coupling computes.

use crate::operand::View;
use crate::product::ColumnSplit;

/// `out[j, t, k] = Σ_i coupling[j, i, k] source[i, t, k]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CoupleProblem {
    /// Blocks of `source` and of `out`.
    pub blocks: usize,
    /// Tokens per block.
    pub tokens: usize,
    /// Rank.
    pub rank: usize,
    /// `[j, i, k]`.
    pub coupling: View,
    /// `[i, t, k]`.
    pub source: View,
    /// `[j, t, k]`.
    pub out: View,
    /// Splits the ranks of `out` in two axes. Only the kernel for few tokens can do that.
    pub split: Option<ColumnSplit>,
}

/// `out[j, i, k] = Σ_t grad[j, t, k] source[i, t, k]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CoupleGradientProblem {
    /// Blocks of `source` and of `grad`.
    pub blocks: usize,
    /// Tokens per block.
    pub tokens: usize,
    /// Rank.
    pub rank: usize,
    /// `[j, t, k]`.
    pub grad: View,
    /// `[i, t, k]`.
    pub source: View,
    /// `[j, i, k]`.
    pub out: View,
}
