//! Sizes and strides of a product, as every kernel receives them.

use cubecl::prelude::*;

/// Strides of one operand.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct Axes {
    /// Stride of the batch axis.
    pub batch: usize,
    /// Stride of the row axis.
    pub row: usize,
    /// Stride of the column axis.
    pub column: usize,
}

/// Sizes and strides of a product, all known at run time only.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct Geometry {
    /// Products in the batch.
    pub batches: usize,
    /// Rows of `A` and `C`.
    pub rows: usize,
    /// Columns of `B` and `C`.
    pub columns: usize,
    /// Terms of each sum.
    pub depth: usize,
    /// Strides of `A [p, row, k]`.
    pub lhs: Axes,
    /// Strides of `B [p, k, column]`.
    pub rhs: Axes,
    /// Strides of `C [p, row, column]`.
    pub out: Axes,
    /// Strides of what is merged with `C`.
    pub merged: Axes,
    /// Columns of `C` that stay together, where they are split.
    pub part: usize,
    /// Stride from part to part, where they are split.
    pub part_stride: usize,
    /// Stride of the bias along the batch.
    pub bias_batch: usize,
    /// Stride of the bias along the columns.
    pub bias_column: usize,
}

/// Where element `[batch, row, column]` of `C` lies.
#[cube]
pub(crate) fn out_offset(
    geometry: &Geometry,
    batch: usize,
    row: usize,
    column: usize,
    #[comptime] split: bool,
) -> usize {
    let start = batch * geometry.out.batch + row * geometry.out.row;
    let (part, inside) = split_column(geometry, column, split);
    start + part * geometry.part_stride + inside * geometry.out.column
}

/// The part that a column of `C` is in, and its place there.
#[cube]
pub(crate) fn split_column(
    geometry: &Geometry,
    column: usize,
    #[comptime] split: bool,
) -> (usize, usize) {
    if comptime!(split) {
        (column / geometry.part, column % geometry.part)
    } else {
        (0usize.runtime(), column)
    }
}
