//! Brings tiles of an operand from memory to shared memory.

use cubecl::prelude::*;

use crate::product::plan::{Along, Staging};

/// Position in a tile of the `i`-th vector that this unit carries, as (line, depth).
///
/// Neighbouring units take neighbouring vectors along the axis of stride one, so that their loads
/// fall into the same memory transactions.
#[cube]
fn carried(#[comptime] i: usize, #[comptime] staging: Staging) -> (usize, usize) {
    let index = UNIT_POS as usize + comptime!(i * staging.units);
    if comptime!(staging.along == Along::Depth) {
        let vectors = comptime!(staging.depth / staging.vector);
        (index / vectors, (index % vectors) * staging.vector)
    } else {
        let vectors = comptime!(staging.lines / staging.vector);
        ((index % vectors) * staging.vector, index / vectors)
    }
}

/// Loads this unit's share of a tile into registers; what lies outside the operand is zero.
///
/// `start` is the offset of the operand's block, `line` and `depth` where the tile begins in it,
/// `lines` and `depths` where the block ends.
///
/// No vector straddles an end: wherever vectors are longer than one element, the plan has seen
/// that the axis they run along is a multiple of their length.
#[cube]
#[expect(
    clippy::too_many_arguments,
    reason = "each is one coordinate of the tile"
)]
pub(crate) fn fetch<T: Float, N: Size>(
    source: &[Vector<T, N>],
    held: &mut Array<Vector<T, N>>,
    start: usize,
    line: usize,
    lines: usize,
    line_stride: usize,
    depth: usize,
    depths: usize,
    depth_stride: usize,
    #[comptime] staging: Staging,
) {
    #[unroll]
    for i in 0..comptime!(staging.fetches()) {
        let (line_inside, depth_inside) = carried(i, staging);
        let at_line = line + line_inside;
        let at_depth = depth + depth_inside;
        if at_line < lines && at_depth < depths {
            let offset = start + at_line * line_stride + at_depth * depth_stride;
            held[i] = source[offset / staging.vector];
        } else {
            held[i] = Vector::new(T::from_int(0));
        }
    }
}

/// Writes what [`fetch`] has loaded into shared memory, as `f32`, depth by depth.
///
/// Converting here and not where the values are used costs shared memory but saves the
/// conversions from the inner loop, where each value is used many times.
#[cube]
pub(crate) fn place<T: Float, N: Size>(
    held: &Array<Vector<T, N>>,
    stage: &mut Shared<[f32]>,
    #[comptime] staging: Staging,
) {
    #[unroll]
    for i in 0..comptime!(staging.fetches()) {
        let (line, depth) = carried(i, staging);
        let values = held[i];
        #[unroll]
        for e in 0..comptime!(staging.vector) {
            let value = f32::cast_from(values.extract(e));
            if comptime!(staging.along == Along::Depth) {
                stage[(depth + e) * comptime!(staging.pitch()) + line] = value;
            } else {
                stage[depth * comptime!(staging.pitch()) + line + e] = value;
            }
        }
    }
}
