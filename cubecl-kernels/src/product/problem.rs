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
    /// The same problem with its token count rounded up as [`token_class`] has it.
    pub fn with_rounded_tokens(self) -> Self {
        match self.tokens {
            TokenAxis::Rows => Self {
                rows: token_class(self.rows),
                ..self
            },
            TokenAxis::Depth => Self {
                depth: token_class(self.depth),
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

/// Tokens up to which nothing changes: a tensor-core product takes as many at least.
const FEWEST_TOKENS: usize = 8;

/// `tokens` rounded up, four steps to a power of two: all counts of a class share plans and measured results.
pub(crate) fn token_class(tokens: usize) -> usize {
    let tokens = tokens.max(FEWEST_TOKENS);
    let step = (tokens.next_power_of_two() / 8).max(1);
    tokens.next_multiple_of(step)
}

#[cfg(test)]
mod tests {
    use super::token_class;

    #[test]
    fn token_classes_have_four_steps_to_a_power_of_two() {
        let classes: Vec<usize> = [1, 7, 8, 9, 17, 785, 897, 1024, 1025, 16384]
            .into_iter()
            .map(token_class)
            .collect();
        assert_eq!(classes, [8, 8, 8, 10, 20, 896, 1024, 1024, 1280, 16384]);
    }
}
