//! Sizes and strides of attention, as its kernels receive them.

use cubecl::prelude::*;

use super::problem::{AttentionProblem, OwnRows, RowStrides};

/// Elements between neighbours of a tensor `[batch, heads, tokens, width]` whose features are
/// contiguous.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct Rows {
    /// Stride of the batch axis.
    pub batch: usize,
    /// Stride of the heads.
    pub head: usize,
    /// Stride of the tokens.
    pub token: usize,
}

#[cube]
impl Rows {
    /// First element of a row.
    pub fn row(&self, batch: usize, head: usize, token: usize) -> usize {
        batch * self.batch + head * self.head + token * self.token
    }
}

/// Sizes and strides, all known at run time only.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct AttentionGeometry {
    /// Query heads that share a key head.
    pub shared: usize,
    /// Queries of each head.
    pub tokens: usize,
    /// Keys of each head.
    pub keys: usize,
    /// Strides of the queries.
    pub query: Rows,
    /// Strides of the keys.
    pub key: Rows,
    /// Strides of the values.
    pub value: Rows,
    /// Strides of the result.
    pub out: Rows,
    /// Multiplies the scores.
    pub scale: f32,
}

/// Strides of the rows of the queries' own tokens, known at run time only.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct OwnGeometry {
    /// Strides of their keys.
    pub key: Rows,
    /// Strides of their values.
    pub value: Rows,
    /// Angles from one row of the batch to the next.
    pub angles: usize,
}

/// The strides of a tensor, for a kernel.
pub(crate) fn rows<R: Runtime>(strides: RowStrides) -> RowsLaunch<R> {
    RowsLaunch::new(strides.batch, strides.head, strides.token)
}

/// Sizes and strides of `problem`, for a kernel.
pub(crate) fn geometry<R: Runtime>(problem: &AttentionProblem) -> AttentionGeometryLaunch<R> {
    AttentionGeometryLaunch::new(
        problem.heads / problem.key_heads,
        problem.tokens,
        problem.keys,
        rows(problem.query),
        rows(problem.key),
        rows(problem.value),
        rows(problem.out),
        problem.scale as f32,
    )
}

/// Strides of the rows of the queries' own tokens, for a kernel; zeros where there are none.
pub(crate) fn own_geometry<R: Runtime>(own: Option<OwnRows>) -> OwnGeometryLaunch<R> {
    let own = own.unwrap_or_default();
    let of_batch = own.angles.map_or(0, |angles| angles.of_batch);
    OwnGeometryLaunch::new(rows(own.key), rows(own.value), of_batch)
}

/// Keys before the first query: what `position` holds, or as many as leave the last query with all
/// keys.
#[cube]
pub(crate) fn first_query<I: Int>(
    position: &ComptimeOption<&[I]>,
    geometry: &AttentionGeometry,
) -> u32 {
    let mut first = (geometry.keys - geometry.tokens) as u32;
    #[comptime]
    if let ComptimeOption::Some(position) = position {
        first = u32::cast_from(position[0]);
    }
    first
}
