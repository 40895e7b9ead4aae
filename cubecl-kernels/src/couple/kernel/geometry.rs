//! Sizes and strides of a coupling, as every kernel receives them.

use cubecl::prelude::*;

/// Strides of one tensor of three axes.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct Strides {
    /// First axis: a block.
    pub block: usize,
    /// Second axis: a token, or the other block of a coupling.
    pub row: usize,
    /// Last axis: the rank.
    pub rank: usize,
}

/// Sizes, and the strides of the two operands and the output.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct CoupleGeometry {
    /// Blocks per side.
    pub blocks: usize,
    /// Tokens per block.
    pub tokens: usize,
    /// Rank.
    pub rank: usize,
    /// The first operand, indexed by output block.
    pub left: Strides,
    /// The second operand, indexed by input block.
    pub source: Strides,
    /// The output.
    pub out: Strides,
}

/// Offset of an element.
#[cube]
pub(crate) fn offset(strides: &Strides, block: usize, row: usize, rank: usize) -> usize {
    block * strides.block + row * strides.row + rank * strides.rank
}
