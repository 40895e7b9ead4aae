//! Attention of a single query, which reads keys and values once.

use cubecl::prelude::*;

use super::HIDDEN;
use super::ring::attend_through_ring;
use crate::attention::geometry::{AttentionGeometry, Rows, first_query};
use crate::attention::plan::{SingleBlueprint, WEIGHTS};
use crate::attention::problem::Visible;
use crate::over_units::{Reduction, over_units};
use crate::ptx::{load_of_cube, shared_address, sync_cluster};

/// Values of a unit that are on their way at a time.
const AHEAD: usize = 8;

/// Keys of a unit that are on their way at a time.
const KEYS_AHEAD: usize = 4;

/// Attends the query of one head per cube, or a share of its keys where several cubes divide them;
/// the cubes of a head then leave their sums, highest scores and totals in `partial`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn single_query_attention<T: Float, I: Int, N: Size>(
    query: &[Vector<T, N>],
    key: &[Vector<T, N>],
    value: &[Vector<T, N>],
    position: ComptimeOption<&[I]>,
    out: &mut [Vector<T, N>],
    partial: ComptimeOption<&mut [f32]>,
    geometry: AttentionGeometry,
    #[comptime] blueprint: SingleBlueprint,
    #[define(T)] _dtype: ElemType,
    #[define(I)] _index: ElemType,
) {
    let vector = comptime!(blueprint.vector);
    let unit = UNIT_POS as usize;
    let mut sums = Shared::<[Vector<f32, N>]>::new_slice(comptime!(blueprint.sums()));
    let (maximum, total) = attend_share::<T, I, N>(
        query, key, value, &position, &mut sums, &geometry, blueprint,
    );
    if unit < comptime!(blueprint.pieces()) {
        let sum = sums[unit];
        #[comptime]
        match partial {
            ComptimeOption::Some(partial) => {
                let row = CUBE_POS_Y as usize * CUBE_COUNT_X as usize + CUBE_POS_X as usize;
                let at = (row * comptime!(blueprint.splits) + CUBE_POS_Z as usize)
                    * comptime!(blueprint.width + 2);
                #[unroll]
                for i in 0..vector {
                    partial[at + unit * vector + i] = sum.extract(i);
                }
                if unit == 0 {
                    partial[at + comptime!(blueprint.width)] = maximum;
                    partial[at + comptime!(blueprint.width + 1)] = total;
                }
            }
            ComptimeOption::None => {
                out[output_start(&geometry, vector) + unit] =
                    Vector::cast_from(sum / Vector::new(total));
            }
        }
    }
}

/// As [`single_query_attention`], by a cluster of cubes for each head, the first of which joins what the
/// others have in their shared memory.
#[cube(launch_unchecked, address_type = "dynamic", cluster_dim = CubeDim::new_3d(1, 1, blueprint.splits as u32))]
pub(crate) fn clustered_attention<T: Float, I: Int, N: Size>(
    query: &[Vector<T, N>],
    key: &[Vector<T, N>],
    value: &[Vector<T, N>],
    position: ComptimeOption<&[I]>,
    out: &mut [Vector<T, N>],
    geometry: AttentionGeometry,
    #[comptime] blueprint: SingleBlueprint,
    #[define(T)] _dtype: ElemType,
    #[define(I)] _index: ElemType,
) {
    let (vector, width) = comptime!((blueprint.vector, blueprint.width));
    let splits = comptime!(blueprint.splits);
    let unit = UNIT_POS as usize;
    let mut sums = Shared::<[Vector<f32, N>]>::new_slice(comptime!(blueprint.sums()));
    let mut ends = Shared::<[f32]>::new_slice(2usize);
    let mut joined = Shared::<[f32]>::new_slice(width);
    let (maximum, total) = attend_share::<T, I, N>(
        query, key, value, &position, &mut sums, &geometry, blueprint,
    );
    if unit == 0 {
        ends[0] = maximum;
        ends[1] = total;
    }
    let of_sums = shared_address::<Vector<f32, N>>(sums.as_slice());
    let of_ends = shared_address::<f32>(ends.as_slice());
    sync_cluster();
    if CUBE_POS_Z == 0 {
        let mut feature = unit;
        while feature < width {
            let mut highest = HIDDEN.runtime();
            #[unroll]
            for i in 0..splits {
                highest = max(highest, load_of_cube(of_ends, comptime!(i as u32)));
            }
            let mut sum = 0.0f32.runtime();
            let mut all = 0.0f32.runtime();
            #[unroll]
            for i in 0..splits {
                let cube = comptime!(i as u32);
                let weight = (load_of_cube(of_ends, cube) - highest).exp();
                sum += weight * load_of_cube(of_sums + feature as u32 * 4, cube);
                all += weight * load_of_cube(of_ends + 4, cube);
            }
            joined[feature] = sum / all;
            feature += comptime!(blueprint.units);
        }
        sync_cube();
        if unit < comptime!(blueprint.pieces()) {
            let mut row = Vector::<f32, N>::empty();
            #[unroll]
            for i in 0..vector {
                row.insert(i, joined[unit * vector + i]);
            }
            out[output_start(&geometry, vector) + unit] = Vector::cast_from(row);
        }
    }
    // Nobody may leave while its shared memory is read.
    sync_cluster();
}

/// Where the outputs of the head of this cube start, in vectors.
#[cube]
fn output_start(geometry: &AttentionGeometry, #[comptime] vector: usize) -> usize {
    let (head, batch) = (CUBE_POS_X as usize, CUBE_POS_Y as usize);
    (batch * geometry.out.batch + head * geometry.out.head) / vector
}

/// Attends the query of a head to this cube's share of its keys: `sums` begins with the sum of the
/// weighted values then, for which the highest score and the total of the weights are returned.
#[cube]
fn attend_share<T: Float, I: Int, N: Size>(
    query: &[Vector<T, N>],
    key: &[Vector<T, N>],
    value: &[Vector<T, N>],
    position: &ComptimeOption<&[I]>,
    sums: &mut Shared<[Vector<f32, N>]>,
    geometry: &AttentionGeometry,
    #[comptime] blueprint: SingleBlueprint,
) -> (f32, f32) {
    let mut seen = geometry.keys;
    if comptime!(blueprint.visible == Visible::Causal) {
        seen = min(seen, first_query::<I>(position, geometry) as usize + 1);
    }
    let share = seen.div_ceil(comptime!(blueprint.splits));
    let start = min(seen, CUBE_POS_Z as usize * share);
    let end = min(seen, start + share);
    if comptime!(blueprint.stages > 0) {
        attend_through_ring::<T, N>(query, key, value, start, end, sums, geometry, blueprint)
    } else {
        attend_through_registers::<T, N>(query, key, value, start, end, sums, geometry, blueprint)
    }
}

/// As [`attend_through_ring`], where keys and values are loaded by the units that use them.
#[cube]
fn attend_through_registers<T: Float, N: Size>(
    query: &[Vector<T, N>],
    key: &[Vector<T, N>],
    value: &[Vector<T, N>],
    start: usize,
    seen: usize,
    sums: &mut Shared<[Vector<f32, N>]>,
    geometry: &AttentionGeometry,
    #[comptime] blueprint: SingleBlueprint,
) -> (f32, f32) {
    let vector = comptime!(blueprint.vector);
    let pieces = comptime!(blueprint.pieces());
    let units = comptime!(blueprint.units);
    let unit = UNIT_POS as usize;
    let head = CUBE_POS_X as usize;
    let batch = CUBE_POS_Y as usize;
    let key_head = head / geometry.shared;
    let mut start = start;
    let mut held = Shared::<[Vector<f32, N>]>::new_slice(pieces);
    let mut weights = Shared::<[f32]>::new_slice(WEIGHTS);
    let mut entries = Shared::<[f32]>::new_slice(units);
    let query_start = (batch * geometry.query.batch + head * geometry.query.head) / vector;
    if unit < pieces {
        held[unit] = Vector::cast_from(query[query_start + unit]) * Vector::new(geometry.scale);
    }
    let key_start = (batch * geometry.key.batch + key_head * geometry.key.head) / vector;
    let key_stride = geometry.key.token / vector;
    let value_stride = geometry.value.token / vector;

    let piece = unit % pieces;
    let group = unit / pieces;
    let groups = comptime!(blueprint.groups());
    let value_start =
        (batch * geometry.value.batch + key_head * geometry.value.head) / vector + piece;
    let mut maximum = HIDDEN.runtime();
    let mut total = 0.0f32.runtime();
    let mut sum = Vector::<f32, N>::new(0.0f32);
    sync_cube();
    while start < seen {
        let end = min(seen, start + WEIGHTS);
        // The first values come while the keys are scored.
        let mut rows = Array::<Vector<T, N>>::new(AHEAD);
        #[unroll]
        for i in 0..AHEAD {
            let row = min(start + group + comptime!(i * groups), end - 1);
            rows[i] = value[value_start + row * value_stride];
        }
        let own = score_keys::<T, N>(
            key,
            key_start,
            key_stride,
            start,
            end,
            &held,
            &mut weights,
            blueprint,
        );
        let highest = over_units(&mut entries, max(own, maximum), units, Reduction::Highest);
        let correction = (maximum - highest).exp();
        maximum = highest;
        total *= correction;
        sum *= Vector::new(correction);
        let mut at = start + unit;
        while at < end {
            let weight = (weights[at - start] - highest).exp();
            weights[at - start] = weight;
            total += weight;
            at += units;
        }
        sync_cube();
        if group < groups {
            let mut at = start + group;
            while at < end {
                #[unroll]
                for i in 0..AHEAD {
                    let row = at + comptime!(i * groups);
                    let weight = select(row < end, weights[min(row, end - 1) - start], 0.0f32);
                    sum += Vector::new(weight) * Vector::cast_from(rows[i]);
                }
                at += comptime!(AHEAD * groups);
                #[unroll]
                for i in 0..AHEAD {
                    let row = min(at + comptime!(i * groups), end - 1);
                    rows[i] = value[value_start + row * value_stride];
                }
            }
        }
        sync_cube();
        start += WEIGHTS;
    }

    let all = over_units(&mut entries, total, units, Reduction::Sum);
    if group < groups {
        sums[group * pieces + piece] = sum;
    }
    sync_cube();
    if unit < pieces {
        let mut sum = Vector::<f32, N>::new(0.0f32);
        for i in 0..groups {
            sum += sums[i * pieces + unit];
        }
        sums[unit] = sum;
    }
    (maximum, all)
}

/// Writes the scores of the keys from `start` to `end` to shared memory and returns the highest of
/// those that this unit has seen.
///
/// Some neighbouring lanes share a key, so that they read neighbouring pieces of its row.
#[cube]
#[expect(
    clippy::too_many_arguments,
    reason = "the keys, their place and the query"
)]
fn score_keys<T: Float, N: Size>(
    key: &[Vector<T, N>],
    key_start: usize,
    key_stride: usize,
    start: usize,
    end: usize,
    query: &Shared<[Vector<f32, N>]>,
    scores: &mut Shared<[f32]>,
    #[comptime] blueprint: SingleBlueprint,
) -> f32 {
    let vector = comptime!(blueprint.vector);
    let pieces = comptime!(blueprint.pieces());
    let lanes = comptime!(blueprint.lanes);
    let parallel = comptime!(blueprint.units / blueprint.lanes);
    let unit = UNIT_POS as usize;
    let lane = unit % lanes;
    let mut highest = HIDDEN.runtime();
    let mut at = start + unit / lanes;
    // All lanes of a plane go round equally often, as their exchange of sums asks for.
    while at < end + unit / lanes {
        let mut products = Array::<Vector<f32, N>>::new(KEYS_AHEAD);
        #[unroll]
        for k in 0..KEYS_AHEAD {
            let row = key_start + min(at + comptime!(k * parallel), end - 1) * key_stride;
            products[k] = Vector::new(0.0f32);
            #[unroll]
            for i in 0..comptime!(pieces.div_ceil(lanes)) {
                let piece = lane + comptime!(i * lanes);
                // The first is known when the kernel is compiled.
                if comptime!((i + 1) * lanes <= pieces) || piece < pieces {
                    products[k] += query[piece] * Vector::cast_from(key[row + piece]);
                }
            }
        }
        #[unroll]
        for k in 0..KEYS_AHEAD {
            let mut score = 0.0f32.runtime();
            #[unroll]
            for i in 0..vector {
                score += products[k].extract(i);
            }
            #[unroll]
            for i in 0..comptime!(lanes.ilog2()) {
                score += plane_shuffle_xor(score, comptime!(1u32 << i));
            }
            let key = at + comptime!(k * parallel);
            if key < end {
                scores[key - start] = score;
                highest = max(highest, score);
            }
        }
        at += comptime!(KEYS_AHEAD * parallel);
    }
    highest
}

/// Joins the shares of the cubes of each head, one feature per unit.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn join_shares<T: Float>(
    partial: &[f32],
    out: &mut [T],
    heads: usize,
    batch: usize,
    to: Rows,
    #[comptime] blueprint: SingleBlueprint,
    #[define(T)] _dtype: ElemType,
) {
    let width = comptime!(blueprint.width);
    let splits = comptime!(blueprint.splits);
    let feature = ABSOLUTE_POS % width;
    let row = ABSOLUTE_POS / width;
    if row >= heads * batch {
        terminate!();
    }
    let start = row * splits * comptime!(width + 2);
    let mut highest = HIDDEN.runtime();
    #[unroll]
    for i in 0..splits {
        highest = max(highest, partial[start + comptime!(i * (width + 2) + width)]);
    }
    let mut sum = 0.0f32.runtime();
    let mut total = 0.0f32.runtime();
    #[unroll]
    for i in 0..splits {
        let at = start + comptime!(i * (width + 2));
        let weight = (partial[at + width] - highest).exp();
        sum += weight * partial[at + feature];
        total += weight * partial[at + comptime!(width + 1)];
    }
    out[(row / heads) * to.batch + (row % heads) * to.head + feature] = T::cast_from(sum / total);
}
