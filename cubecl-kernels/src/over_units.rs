//! A value of every unit of a cube to one that all of them have.

use cubecl::prelude::*;

/// Entries of the second stage where units can not exchange values.
const STAGE: usize = 32;

/// What becomes of the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reduction {
    Sum,
    Highest,
}

/// How the units of a cube reduce their values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OverUnits {
    /// A multiple of 32.
    pub units: usize,
    /// Whether planes are of 32 units that can exchange values.
    pub shuffles: bool,
}

impl OverUnits {
    /// Entries in shared memory.
    pub fn entries(&self) -> usize {
        match self.shuffles {
            true => self.units / 32,
            false => self.units,
        }
    }
}

/// The sum or the highest of the values of all units of a cube: of each plane by shuffles, and of the planes
/// through `entries`, or else in two stages through `entries`.
///
/// A barrier has to come before `entries` are used again.
#[cube]
pub(crate) fn over_units(
    entries: &mut Shared<[f32]>,
    own: f32,
    #[comptime] over: OverUnits,
    #[comptime] reduction: Reduction,
) -> f32 {
    let unit = UNIT_POS as usize;
    let mut all = own;
    if comptime!(over.shuffles) {
        #[unroll]
        for i in 0..5u32 {
            all = combine(all, plane_shuffle_xor(all, comptime!(1u32 << i)), reduction);
        }
        let lane = unit % 32;
        if lane == 0 {
            entries[unit / 32] = all;
        }
    } else {
        entries[unit] = own;
        sync_cube();
        if unit < STAGE {
            let mut at = unit + STAGE;
            while at < comptime!(over.units) {
                all = combine(all, entries[at], reduction);
                at += STAGE;
            }
            entries[unit] = all;
        }
    }
    sync_cube();
    let mut all = entries[0];
    #[unroll]
    for i in 1..comptime!(over.entries().min(STAGE)) {
        all = combine(all, entries[i], reduction);
    }
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
