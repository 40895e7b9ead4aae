//! A square of block pairs per unit, the tokens shared by the units of a cube.

use cubecl::prelude::*;

use super::geometry::{CoupleGeometry, offset};
use crate::couple::plan::CoupleGradientBlueprint;

/// `out[j, i, k] = Σ_t grad[j, t, k] source[i, t, k]`, summed in `f32`.
///
/// Each unit sums `pairs × pairs` couplings over every `lanes`-th token; the lanes meet in shared
/// memory. Blocks and ranks past the end are read at the last valid place and never stored.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn tiled_couple_gradient<T: Float>(
    grad: &[T],
    source: &[T],
    out: &mut [T],
    geometry: CoupleGeometry,
    #[comptime] blueprint: CoupleGradientBlueprint,
    #[define(T)] _dtype: ElemType,
) {
    let pairs = comptime!(blueprint.pairs);
    let ranks = comptime!(blueprint.ranks);
    let lanes = comptime!(blueprint.lanes);
    let units = comptime!(blueprint.units());
    let unit = UNIT_POS as usize;
    let first_rank = CUBE_POS_X as usize * ranks;
    let j = CUBE_POS_Y as usize * pairs;
    let i = CUBE_POS_Z as usize * pairs;
    let k = first_rank + unit % ranks;
    let k = select(k < geometry.rank, k, geometry.rank - 1);

    let mut sums = Array::<f32>::new(comptime!(pairs * pairs));
    let mut left = Array::<f32>::new(pairs);
    let mut right = Array::<f32>::new(pairs);
    #[unroll]
    for p in 0..comptime!(pairs * pairs) {
        sums[p] = 0.0f32;
    }
    let mut token = unit / ranks;
    while token < geometry.tokens {
        #[unroll]
        for p in 0..pairs {
            let at = select(j + p < geometry.blocks, j + p, geometry.blocks - 1);
            left[p] = f32::cast_from(grad[offset(&geometry.left, at, token, k)]);
            let at = select(i + p < geometry.blocks, i + p, geometry.blocks - 1);
            right[p] = f32::cast_from(source[offset(&geometry.source, at, token, k)]);
        }
        #[unroll]
        for p in 0..pairs {
            #[unroll]
            for q in 0..pairs {
                sums[comptime!(p * pairs + q)] += left[p] * right[q];
            }
        }
        token += lanes;
    }

    let mut stage = Shared::<[f32]>::new_slice(comptime!(blueprint.stage_elements()));
    #[unroll]
    for p in 0..comptime!(pairs * pairs) {
        stage[comptime!(p * units) + unit] = sums[p];
    }
    sync_cube();
    let mut item = unit;
    while item < comptime!(pairs * pairs * ranks) {
        let pair = item / ranks;
        let at_j = j + pair / pairs;
        let at_i = i + pair % pairs;
        let at_k = first_rank + item % ranks;
        if at_j < geometry.blocks && at_i < geometry.blocks && at_k < geometry.rank {
            let mut sum = 0.0f32;
            #[unroll]
            for lane in 0..lanes {
                sum += stage[pair * units + comptime!(lane * ranks) + item % ranks];
            }
            out[offset(&geometry.out, at_j, at_i, at_k)] = T::cast_from(sum);
        }
        item += units;
    }
}
