//! The products of one plane.

use cubecl::prelude::*;

use super::panel::{Lane, Panel, Side, fragment};
use crate::ptx::{MmaElement, Quad, multiply_add};

/// Product steps in the depth of one panel.
pub(crate) const STEPS: usize = 4;

/// The outputs of one plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PlaneTile {
    /// Rows, a multiple of 16.
    pub rows: usize,
    /// Columns, a multiple of 16.
    pub columns: usize,
}

impl PlaneTile {
    /// Fragments of `A`.
    pub fn row_fragments(&self) -> usize {
        self.rows / 16
    }

    /// Pairs of fragments of `B`.
    pub fn column_fragments(&self) -> usize {
        self.columns / 16
    }

    /// 16 x 8 sums.
    pub fn sums(&self) -> usize {
        self.row_fragments() * self.column_fragments() * 2
    }

    /// Index of the sums of row fragment `i` and the `half` of column fragments `j`.
    pub fn sum(&self, i: usize, j: usize, half: usize) -> usize {
        (i * self.column_fragments() + j) * 2 + half
    }
}

/// Sets all sums to zero.
#[cube]
pub(crate) fn clear(sums: &mut Array<Quad<f32>>, #[comptime] tile: PlaneTile) {
    #[unroll]
    for i in 0..comptime!(tile.sums()) {
        sums[i] = Quad::<f32>::new(0.0f32);
    }
}

/// The fragments of both operands for one product step, twice: those that are multiplied, and those
/// that are loaded meanwhile.
#[derive(CubeType)]
pub(crate) struct Fragments {
    lhs: Array<Quad<u32>>,
    rhs: Array<Quad<u32>>,
}

/// Fragments that hold nothing yet.
#[cube]
pub(crate) fn fragments(#[comptime] tile: PlaneTile) -> Fragments {
    Fragments {
        lhs: Array::<Quad<u32>>::new(comptime!(2 * tile.row_fragments())),
        rhs: Array::<Quad<u32>>::new(comptime!(2 * tile.column_fragments())),
    }
}

/// Loads the fragments of product `step` from the panels at these places in shared memory.
#[cube]
#[expect(
    clippy::too_many_arguments,
    reason = "two operands, each with its place and its panel"
)]
pub(crate) fn load(
    fragments: &mut Fragments,
    lhs: &Lane,
    lhs_stage: u32,
    rhs: &Lane,
    rhs_stage: u32,
    #[comptime] step: usize,
    #[comptime] lhs_panel: Panel,
    #[comptime] rhs_panel: Panel,
    #[comptime] tile: PlaneTile,
) {
    let rows = comptime!(tile.row_fragments());
    let columns = comptime!(tile.column_fragments());
    let half = comptime!(step % 2);
    #[unroll]
    for i in 0..rows {
        fragments.lhs[comptime!(half * rows + i)] =
            fragment(lhs, lhs_stage, i, step, lhs_panel, Side::Lhs);
    }
    #[unroll]
    for j in 0..columns {
        fragments.rhs[comptime!(half * columns + j)] =
            fragment(rhs, rhs_stage, j, step, rhs_panel, Side::Rhs);
    }
}

/// Adds the products of the fragments of product `step` to the sums.
#[cube]
pub(crate) fn multiply(
    fragments: &Fragments,
    sums: &mut Array<Quad<f32>>,
    #[comptime] step: usize,
    #[comptime] element: MmaElement,
    #[comptime] tile: PlaneTile,
) {
    let rows = comptime!(tile.row_fragments());
    let columns = comptime!(tile.column_fragments());
    let now = comptime!(step % 2);
    #[unroll]
    for i in 0..rows {
        #[unroll]
        for j in 0..columns {
            let pair = fragments.rhs[comptime!(now * columns + j)];
            #[unroll]
            for half in 0..2usize {
                let at = comptime!(tile.sum(i, j, half));
                sums[at] = multiply_add(
                    fragments.lhs[comptime!(now * rows + i)],
                    pair.extract(comptime!(2 * half)),
                    pair.extract(comptime!(2 * half + 1)),
                    sums[at],
                    element,
                );
            }
        }
    }
}
