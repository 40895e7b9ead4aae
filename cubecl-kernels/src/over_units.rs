//! A value of every unit of a cube to one that all of them have.

use cubecl::prelude::*;

/// Entries of the second stage.
const STAGE: usize = 32;

/// What becomes of the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reduction {
    Sum,
    Highest,
}

/// The sum or the highest of the values of all units of a cube, in two stages through `entries`, one
/// for each unit. There are at least [`STAGE`] units.
#[cube]
pub(crate) fn over_units(
    entries: &mut Shared<[f32]>,
    own: f32,
    #[comptime] units: usize,
    #[comptime] reduction: Reduction,
) -> f32 {
    let unit = UNIT_POS as usize;
    entries[unit] = own;
    sync_cube();
    let mut all = own;
    if unit < STAGE {
        let mut at = unit + STAGE;
        while at < units {
            all = combine(all, entries[at], reduction);
            at += STAGE;
        }
        entries[unit] = all;
    }
    sync_cube();
    let mut all = entries[0];
    #[unroll]
    for i in 1..STAGE {
        all = combine(all, entries[i], reduction);
    }
    sync_cube();
    all
}

#[cube]
fn combine(a: f32, b: f32, #[comptime] reduction: Reduction) -> f32 {
    if comptime!(reduction == Reduction::Sum) {
        a + b
    } else {
        max(a, b)
    }
}
