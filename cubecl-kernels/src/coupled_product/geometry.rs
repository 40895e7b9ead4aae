//! Sizes and strides, as every kernel receives them.

use cubecl::prelude::*;

use crate::operand::View;

/// Strides of one tensor of three axes, in elements.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct BlockStrides {
    /// A block.
    pub block: usize,
    /// A line of the block.
    pub line: usize,
    /// A depth, or for `S` and the output a rank.
    pub depth: usize,
}

/// Sizes and strides, all known at run time only.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct CoupledGeometry {
    /// Rows of `A` and of the output.
    pub tokens: usize,
    /// Columns of `B` and of the output.
    pub rank: usize,
    /// Terms of each sum of the products.
    pub depth: usize,
    /// Lines are rows.
    pub lhs: BlockStrides,
    /// Lines are columns.
    pub rhs: BlockStrides,
    /// Blocks are those of the output, lines those of `Y`.
    pub coupling: BlockStrides,
    /// Lines are tokens.
    pub out: BlockStrides,
}

impl BlockStrides {
    /// Those of `view`, as kernels take them.
    pub fn launch<R: Runtime>(view: View) -> BlockStridesLaunch<R> {
        BlockStridesLaunch::new(view.batch, view.row, view.column)
    }
}

impl CoupledGeometry {
    /// The geometry of a coupling alone: blocks, tokens and rank, and the views of the couplings,
    /// the source and the output.
    pub fn launch<R: Runtime>(
        [_, tokens, rank]: [usize; 3],
        [coupling, source, out]: [View; 3],
    ) -> CoupledGeometryLaunch<R> {
        let source = BlockStrides::launch(source);
        CoupledGeometryLaunch::new(
            tokens,
            rank,
            0,
            source,
            BlockStridesLaunch::new(0, 0, 0),
            BlockStrides::launch(coupling),
            BlockStrides::launch(out),
        )
    }
}
