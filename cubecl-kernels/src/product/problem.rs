//! What a batched product computes.

use crate::epilogue::Finish;
use crate::operand::View;

/// `C[p, row, column] = f(Σ_k A[p, row, k] B[p, k, column])`, with `f` the epilogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProductProblem {
    /// Products in the batch (blocks).
    pub batches: usize,
    /// Rows of `A` and `C`.
    pub rows: usize,
    /// Columns of `B` and `C`.
    pub columns: usize,
    /// Columns of `A` and rows of `B`.
    pub depth: usize,
    /// Which axis counts tokens, and so changes from call to call.
    pub tokens: TokenAxis,
    /// `A`, `[p, row, k]`.
    pub lhs: View,
    /// `B`, `[p, k, column]`.
    pub rhs: View,
    /// `C`, `[p, row, column]`.
    pub out: View,
    /// Splits the column axis of `C` in two.
    pub split: Option<ColumnSplit>,
    /// Strides of the bias, if one is added.
    pub bias: Option<BiasView>,
    /// Strides of what is merged with `C`; nothing reads them where nothing is.
    pub merged: View,
    /// What is done to each sum after the bias.
    pub finish: Finish,
}

impl ProductProblem {
    /// The same problem with its token count rounded up to a power of two, or to a multiple of
    /// 1024.
    pub fn with_rounded_tokens(self) -> Self {
        let round = |tokens: usize| match tokens {
            0..=1024 => tokens.next_power_of_two(),
            _ => tokens.next_multiple_of(1024),
        };
        match self.tokens {
            TokenAxis::Rows => Self {
                rows: round(self.rows),
                ..self
            },
            TokenAxis::Depth => Self {
                depth: round(self.depth),
                ..self
            },
        }
    }
}

/// The axis of a product that counts tokens.
///
/// Nothing compiled into a kernel may follow its exact length: each length would be one more
/// kernel to compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenAxis {
    /// The rows of `A` and `C`: a product over features.
    Rows,
    /// The depth: the gradient of a factor.
    Depth,
}

/// Column `c` of `C` lies at `(c / width) · stride + (c % width) · column stride`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ColumnSplit {
    /// Columns that stay together.
    pub width: usize,
    /// Elements between the starts of neighbouring parts.
    pub stride: usize,
}

/// Strides of `bias [p, column]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BiasView {
    /// Stride of the batch axis.
    pub batch: usize,
    /// Stride of the column axis.
    pub column: usize,
}
