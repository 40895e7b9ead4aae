//! Attention of a single query, which reads keys and values once.

use cubecl::prelude::*;

use super::HIDDEN;
use super::ring::attend_through_ring;
use crate::attention::geometry::{AttentionGeometry, OwnGeometry, Rows, first_query};
use crate::attention::plan::{SingleBlueprint, WEIGHTS};
use crate::attention::problem::Visible;
use crate::attention::rotate::turn;
use crate::over_units::{Reduction, over_units};
use crate::ptx::{Quad, load_of_cube, shared_address, sync_cluster};

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
    let (seen, _) = seen_keys::<I>(&position, &geometry, blueprint);
    let mut rows = Shared::<[Vector<T, N>]>::new_slice(comptime!(blueprint.rows()));
    stage_query::<T, N>(query, &mut rows, &geometry, blueprint);
    sync_cube();
    let mut sums = Shared::<[Vector<f32, N>]>::new_slice(comptime!(blueprint.sums()));
    let (maximum, total) = attend_share::<T, N>(
        key, value, seen, false, &rows, &mut sums, &geometry, blueprint,
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
/// others have in their shared memory. Key and value of the query's own token may come with it: they are
/// turned, and one cube of each key head appends them to `keys` and `values`, which are `key` and `value`.
#[cube(launch_unchecked, address_type = "dynamic", cluster_dim = CubeDim::new_3d(1, 1, blueprint.splits as u32))]
pub(crate) fn clustered_attention<T: Float, I: Int, N: Size>(
    query: &[Vector<T, N>],
    key: &[Vector<T, N>],
    value: &[Vector<T, N>],
    position: ComptimeOption<&[I]>,
    own_key: ComptimeOption<&[Vector<T, N>]>,
    own_value: ComptimeOption<&[Vector<T, N>]>,
    cos: ComptimeOption<&[Quad<f32>]>,
    sin: ComptimeOption<&[Quad<f32>]>,
    keys: ComptimeOption<&mut [Vector<T, N>]>,
    values: ComptimeOption<&mut [Vector<T, N>]>,
    out: &mut [Vector<T, N>],
    geometry: AttentionGeometry,
    own: OwnGeometry,
    #[comptime] blueprint: SingleBlueprint,
    #[define(T)] _dtype: ElemType,
    #[define(I)] _index: ElemType,
) {
    let (vector, width) = comptime!((blueprint.vector, blueprint.width));
    let pieces = comptime!(blueprint.pieces());
    let splits = comptime!(blueprint.splits);
    let unit = UNIT_POS as usize;
    let (seen, appended) = seen_keys::<I>(&position, &geometry, blueprint);
    let mut rows = Shared::<[Vector<T, N>]>::new_slice(comptime!(blueprint.rows()));
    #[comptime]
    match (own_key, own_value) {
        (ComptimeOption::Some(own_key), ComptimeOption::Some(own_value)) => {
            stage_own::<T, N>(
                query, own_key, own_value, &cos, &sin, &mut rows, &geometry, &own, blueprint,
            );
        }
        _ => {
            stage_query::<T, N>(query, &mut rows, &geometry, blueprint);
        }
    }
    sync_cube();
    #[comptime]
    if let (ComptimeOption::Some(keys), ComptimeOption::Some(values)) = (keys, values) {
        let (head, batch) = (CUBE_POS_X as usize, CUBE_POS_Y as usize);
        let key_head = head / geometry.shared;
        if appended && CUBE_POS_Z == 0 && head % geometry.shared == 0 && unit < pieces {
            keys[geometry.key.row(batch, key_head, seen) / vector + unit] = rows[pieces + unit];
            values[geometry.value.row(batch, key_head, seen) / vector + unit] =
                rows[comptime!(2 * pieces) + unit];
        }
    }

    let mut sums = Shared::<[Vector<f32, N>]>::new_slice(comptime!(blueprint.sums()));
    let mut ends = Shared::<[f32]>::new_slice(2usize);
    let mut joined = Shared::<[f32]>::new_slice(width);
    let (maximum, total) = attend_share::<T, N>(
        key, value, seen, appended, &rows, &mut sums, &geometry, blueprint,
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
        if unit < pieces {
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

/// How many keys of the cache the query sees, and whether that of its own token is appended to them: it
/// is not among those then, since nobody has to read it again.
#[cube]
fn seen_keys<I: Int>(
    position: &ComptimeOption<&[I]>,
    geometry: &AttentionGeometry,
    #[comptime] blueprint: SingleBlueprint,
) -> (usize, bool) {
    let mut seen = geometry.keys;
    let mut appended = false.runtime();
    if comptime!(blueprint.own) {
        let before = first_query::<I>(position, geometry) as usize;
        appended = before < seen;
        seen = min(seen, before);
    } else if comptime!(blueprint.visible == Visible::Causal) {
        seen = min(seen, first_query::<I>(position, geometry) as usize + 1);
    }
    (seen, appended)
}

/// Leaves the query of this cube's head in the first of `rows`, in shared memory.
#[cube]
fn stage_query<T: Float, N: Size>(
    query: &[Vector<T, N>],
    rows: &mut Shared<[Vector<T, N>]>,
    geometry: &AttentionGeometry,
    #[comptime] blueprint: SingleBlueprint,
) {
    let unit = UNIT_POS as usize;
    let (head, batch) = (CUBE_POS_X as usize, CUBE_POS_Y as usize);
    if unit < comptime!(blueprint.pieces()) {
        let start = geometry.query.row(batch, head, 0usize) / comptime!(blueprint.vector);
        rows[unit] = query[start + unit];
    }
}

/// As [`stage_query`], with key and value of the query's own token in the second and third of `rows`;
/// query and key turned by their angles where there are some.
#[cube]
#[expect(
    clippy::too_many_arguments,
    reason = "three rows, what they turn by, and where they are"
)]
fn stage_own<T: Float, N: Size>(
    query: &[Vector<T, N>],
    key: &[Vector<T, N>],
    value: &[Vector<T, N>],
    cos: &ComptimeOption<&[Quad<f32>]>,
    sin: &ComptimeOption<&[Quad<f32>]>,
    rows: &mut Shared<[Vector<T, N>]>,
    geometry: &AttentionGeometry,
    own: &OwnGeometry,
    #[comptime] blueprint: SingleBlueprint,
) {
    let (vector, pieces) = comptime!((blueprint.vector, blueprint.pieces()));
    let unit = UNIT_POS as usize;
    let (head, batch) = (CUBE_POS_X as usize, CUBE_POS_Y as usize);
    let key_head = head / geometry.shared;
    let of_query = geometry.query.row(batch, head, 0usize) / vector;
    let of_key = own.key.row(batch, key_head, 0usize) / vector;
    let of_value = own.value.row(batch, key_head, 0usize) / vector;
    #[comptime]
    match cos {
        ComptimeOption::Some(_) => {
            let half = comptime!(pieces / 2);
            let pair = unit % half;
            let at = batch * own.angles / vector + pair;
            if unit < half {
                let (cos, sin) = (angles::<N>(cos, at, vector), angles::<N>(sin, at, vector));
                let from = of_query + pair;
                let (first, second) = turn(query[from], query[from + half], cos, sin);
                rows[pair] = first;
                rows[pair + half] = second;
            } else if unit < pieces {
                let (cos, sin) = (angles::<N>(cos, at, vector), angles::<N>(sin, at, vector));
                let from = of_key + pair;
                let (first, second) = turn(key[from], key[from + half], cos, sin);
                rows[pieces + pair] = first;
                rows[pieces + pair + half] = second;
            }
        }
        _ => {
            if unit < pieces {
                rows[unit] = query[of_query + unit];
                rows[pieces + unit] = key[of_key + unit];
            }
        }
    }
    if unit < pieces {
        rows[comptime!(2 * pieces) + unit] = value[of_value + unit];
    }
}

/// Piece `at` of the cosines or sines, where there are some.
#[cube]
fn angles<N: Size>(
    all: &ComptimeOption<&[Quad<f32>]>,
    at: usize,
    #[comptime] vector: usize,
) -> Vector<f32, N> {
    let mut piece = Vector::<f32, N>::new(0.0f32);
    #[comptime]
    if let ComptimeOption::Some(all) = all {
        #[unroll]
        for quad in 0..comptime!(vector / 4) {
            let angles = all[at * comptime!(vector / 4) + quad];
            #[unroll]
            for i in 0..4usize {
                piece.insert(comptime!(4 * quad + i), angles.extract(i));
            }
        }
    }
    piece
}

/// Attends the query in `rows` to this cube's share of the first `seen` keys, and to its own where that
/// was `appended`: `sums` begins with the sum of the weighted values then, for which the highest score
/// and the total of the weights are returned.
#[cube]
#[expect(
    clippy::too_many_arguments,
    reason = "the cache, the rows beside it, and where sums go"
)]
fn attend_share<T: Float, N: Size>(
    key: &[Vector<T, N>],
    value: &[Vector<T, N>],
    seen: usize,
    appended: bool,
    rows: &Shared<[Vector<T, N>]>,
    sums: &mut Shared<[Vector<f32, N>]>,
    geometry: &AttentionGeometry,
    #[comptime] blueprint: SingleBlueprint,
) -> (f32, f32) {
    let share = seen.div_ceil(comptime!(blueprint.splits));
    let start = min(seen, CUBE_POS_Z as usize * share);
    let end = min(seen, start + share);
    if comptime!(blueprint.stages > 0) {
        let last = CUBE_POS_Z == comptime!(blueprint.splits as u32 - 1);
        attend_through_ring::<T, N>(
            key,
            value,
            start,
            end,
            appended && last,
            rows,
            sums,
            geometry,
            blueprint,
        )
    } else {
        attend_through_registers::<T, N>(key, value, start, end, rows, sums, geometry, blueprint)
    }
}

/// Attends the query to the keys from `start` to `seen`, which the units load that use them.
#[cube]
#[expect(
    clippy::too_many_arguments,
    reason = "the cache and its part, the query, and where sums go"
)]
fn attend_through_registers<T: Float, N: Size>(
    key: &[Vector<T, N>],
    value: &[Vector<T, N>],
    start: usize,
    seen: usize,
    query: &Shared<[Vector<T, N>]>,
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
    let mut weights = Shared::<[f32]>::new_slice(WEIGHTS);
    let over = comptime!(blueprint.over_units());
    let mut entries = Shared::<[f32]>::new_slice(comptime!(over.entries()));
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
            query,
            &mut weights,
            geometry.scale,
            blueprint,
        );
        let highest = over_units(&mut entries, max(own, maximum), over, Reduction::Highest);
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

    let all = over_units(&mut entries, total, over, Reduction::Sum);
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
    query: &Shared<[Vector<T, N>]>,
    scores: &mut Shared<[f32]>,
    scale: f32,
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
                    products[k] += Vector::<f32, N>::cast_from(query[piece])
                        * Vector::cast_from(key[row + piece]);
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
            score *= scale;
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
