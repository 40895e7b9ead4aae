//! Keys and values of a head through a ring in shared memory for each plane.

use cubecl::prelude::*;

use super::HIDDEN;
use crate::attention::geometry::AttentionGeometry;
use crate::attention::plan::{COPY_BYTES, RING_KEYS, SingleBlueprint};
use crate::ptx::{commit_copies, copy_async, global_address, shared_address, wait_copies};

/// Lanes of a plane that score a key together.
const LANES: usize = 32 / RING_KEYS;

/// The keys and values that a plane reads, [`RING_KEYS`] neighbours at a time, and where to.
///
/// Addresses and strides are in bytes.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct Stream {
    /// Address of the first key of the head.
    key: u64,
    /// Bytes from one key to the next.
    key_stride: u64,
    /// Address of the first value of the head.
    value: u64,
    /// Bytes from one value to the next.
    value_stride: u64,
    /// The first key of the plane.
    first: u32,
    /// Where the keys of all planes end.
    end: u32,
    /// The ring in shared memory.
    ring: u32,
}

/// Attends the query, the first of `rows`, to the keys of its head from `start` to `end`, and where
/// `own` to the second of `rows`, whose value is the third: `sums` begins with the sum of the weighted
/// values then, for which the highest score and the total of the weights are returned.
///
/// Every plane has keys and a running softmax of its own, and waits for the others at the end only.
#[cube]
#[expect(
    clippy::too_many_arguments,
    reason = "the cache and its part, the rows beside it, and where sums go"
)]
pub(super) fn attend_through_ring<T: Float, N: Size>(
    key: &[Vector<T, N>],
    value: &[Vector<T, N>],
    start: usize,
    end: usize,
    own: bool,
    rows: &Shared<[Vector<T, N>]>,
    sums: &mut Shared<[Vector<f32, N>]>,
    geometry: &AttentionGeometry,
    #[comptime] blueprint: SingleBlueprint,
) -> (f32, f32) {
    let pieces = comptime!(blueprint.pieces());
    let planes = comptime!(blueprint.planes());
    let (plane, lane) = (UNIT_POS / 32, UNIT_POS % 32);
    let (head, batch) = (CUBE_POS_X as usize, CUBE_POS_Y as usize);
    let key_head = head / geometry.shared;
    let vectors = Shared::<[Vector<T, N>]>::new_aligned_slice(
        comptime!(blueprint.ring_bytes() / COPY_BYTES),
        128usize,
    );
    let of_plane = comptime!((blueprint.ring_bytes() / planes) as u32);
    let stream = Stream {
        key: global_address::<Vector<T, N>>(key)
            + bytes(geometry.key.row(batch, key_head, 0usize), blueprint),
        key_stride: bytes(geometry.key.token, blueprint),
        value: global_address::<Vector<T, N>>(value)
            + bytes(geometry.value.row(batch, key_head, 0usize), blueprint),
        value_stride: bytes(geometry.value.token, blueprint),
        first: start as u32 + plane * comptime!(RING_KEYS as u32),
        end: end as u32,
        ring: shared_address::<Vector<T, N>>(vectors.as_slice()) + plane * of_plane,
    };
    for stage in 0..comptime!(blueprint.stages as u32 - 1) {
        fill(&stream, stage, blueprint);
    }

    // The lane's pieces of the query.
    let part = lane as usize % LANES;
    let parts = comptime!(pieces.div_ceil(LANES));
    let mut held = Array::<Vector<f32, N>>::new(parts);
    #[unroll]
    for i in 0..parts {
        let piece = part + comptime!(i * LANES);
        held[i] = Vector::new(0.0f32);
        if comptime!((i + 1) * LANES <= pieces) || piece < pieces {
            held[i] = Vector::cast_from(rows[piece]) * Vector::new(geometry.scale);
        }
    }

    // Lanes that read a value together, and which of the values of a step.
    let piece = lane as usize % pieces;
    let groups = comptime!(blueprint.value_groups());
    let group = min(lane as usize / pieces, comptime!(groups - 1));
    let step = comptime!((planes * RING_KEYS) as u32);
    let row = lane as usize / LANES;
    let ring = (plane * of_plane) as usize / COPY_BYTES;
    let mut maximum = HIDDEN.runtime();
    let mut total = 0.0f32.runtime();
    let mut sum = Vector::<f32, N>::new(0.0f32);
    if comptime!(blueprint.own) && own && plane == comptime!(planes as u32 - 1) {
        maximum = score::<T, N>(&held, rows, pieces, 0usize, blueprint);
        total = select(row == 0, 1.0f32, 0.0f32);
        if group == 0 {
            sum = Vector::cast_from(rows[comptime!(2 * pieces) + piece]);
        }
    }
    let mut index = 0u32;
    let mut first = stream.first;
    while first < stream.end {
        wait_copies(comptime!(blueprint.stages - 2));
        // Every lane's copies have arrived, and every lane has read the stage that is filled next.
        sync_plane();
        fill(
            &stream,
            index + comptime!(blueprint.stages as u32 - 1),
            blueprint,
        );
        let keys = ring
            + (index as usize % comptime!(blueprint.stages))
                * comptime!(blueprint.stage_bytes() / COPY_BYTES);
        let values = keys + comptime!(RING_KEYS * pieces);

        let score = score::<T, N>(&held, &vectors, keys, row, blueprint);
        let visible = first + (row as u32) < stream.end;
        let mut highest = select(visible, score, HIDDEN.runtime());
        #[unroll]
        for i in comptime!(LANES.ilog2())..5u32 {
            highest = max(highest, plane_shuffle_xor(highest, comptime!(1u32 << i)));
        }
        highest = max(highest, maximum);
        let weight = select(visible, (score - highest).exp(), 0.0f32);
        let correction = (maximum - highest).exp();
        maximum = highest;
        total = total * correction + weight;
        sum *= Vector::new(correction);
        #[unroll]
        for i in 0..comptime!(RING_KEYS.div_ceil(groups)) {
            let row = group + comptime!(i * groups);
            let weight = plane_shuffle(weight, (row * LANES) as u32 % 32);
            if comptime!((i + 1) * groups <= RING_KEYS) || row < RING_KEYS {
                let at = values + row * pieces + permuted(piece, row, blueprint);
                sum += Vector::new(weight) * Vector::cast_from(vectors[at]);
            }
        }
        index += 1;
        first += step;
    }
    join_planes(sum, maximum, total, sums, blueprint)
}

/// The score of a key whose row is the `row`-th of those from `start` on, which some neighbouring lanes
/// compute together: each holds its pieces of the scaled query.
#[cube]
fn score<T: Float, N: Size>(
    held: &Array<Vector<f32, N>>,
    keys: &Shared<[Vector<T, N>]>,
    start: usize,
    row: usize,
    #[comptime] blueprint: SingleBlueprint,
) -> f32 {
    let pieces = comptime!(blueprint.pieces());
    let part = UNIT_POS as usize % LANES;
    let mut products = Vector::<f32, N>::new(0.0f32);
    #[unroll]
    for i in 0..comptime!(pieces.div_ceil(LANES)) {
        let piece = part + comptime!(i * LANES);
        if comptime!((i + 1) * LANES <= pieces) || piece < pieces {
            let at = start + row * pieces + permuted(piece, row, blueprint);
            products += held[i] * Vector::cast_from(keys[at]);
        }
    }
    let mut score = 0.0f32.runtime();
    #[unroll]
    for i in 0..comptime!(blueprint.vector) {
        score += products.extract(i);
    }
    #[unroll]
    for i in 0..comptime!(LANES.ilog2()) {
        score += plane_shuffle_xor(score, comptime!(1u32 << i));
    }
    score
}

/// `elements` of an operand in bytes.
#[cube]
fn bytes(elements: usize, #[comptime] blueprint: SingleBlueprint) -> u64 {
    u64::cast_from(elements / comptime!(blueprint.vector)) * comptime!(COPY_BYTES as u64)
}

/// Starts copying step `index` of a plane, if there is one; zeros stand for what lies past the end.
#[cube]
fn fill(stream: &Stream, index: u32, #[comptime] blueprint: SingleBlueprint) {
    let pieces = comptime!(blueprint.pieces());
    let first = stream.first + index * comptime!((blueprint.planes() * RING_KEYS) as u32);
    if first < stream.end {
        let stage = stream.ring
            + (index % comptime!(blueprint.stages as u32))
                * comptime!(blueprint.stage_bytes() as u32);
        let all = comptime!(RING_KEYS * pieces);
        #[unroll]
        for copy in 0..comptime!(all.div_ceil(32)) {
            let at = (UNIT_POS % 32) as usize + comptime!(copy * 32);
            if comptime!((copy + 1) * 32 <= all) || at < all {
                let (row, piece) = (at / pieces, at % pieces);
                let token = first + row as u32;
                let inside = u32::cast_from(token < stream.end);
                let line = u64::cast_from(min(token, stream.end - 1));
                let byte = u64::cast_from(piece * COPY_BYTES);
                let to =
                    stage + ((row * pieces + permuted(piece, row, blueprint)) * COPY_BYTES) as u32;
                let key = stream.key + line * stream.key_stride + byte;
                copy_async(to, 0u32, key, inside, COPY_BYTES);
                let value = stream.value + line * stream.value_stride + byte;
                copy_async(
                    to,
                    comptime!((all * COPY_BYTES) as u32),
                    value,
                    inside,
                    COPY_BYTES,
                );
            }
        }
    }
    commit_copies();
}

/// Where a piece of a row lies in it: where rows are multiples of 128 bytes, odd ones have the halves of
/// those exchanged, so that eight lanes that read 64 bytes of two rows meet every bank once.
#[cube]
fn permuted(piece: usize, row: usize, #[comptime] blueprint: SingleBlueprint) -> usize {
    if comptime!(blueprint.pieces().is_multiple_of(8)) {
        piece ^ ((row % 2) * 4)
    } else {
        piece
    }
}

/// Joins the sums, highest scores and totals of all planes of a cube.
#[cube]
fn join_planes<N: Size>(
    sum: Vector<f32, N>,
    maximum: f32,
    total: f32,
    sums: &mut Shared<[Vector<f32, N>]>,
    #[comptime] blueprint: SingleBlueprint,
) -> (f32, f32) {
    let pieces = comptime!(blueprint.pieces());
    let groups = comptime!(blueprint.value_groups());
    let planes = comptime!(blueprint.planes());
    let unit = UNIT_POS as usize;
    let (plane, lane) = (unit / 32, unit % 32);
    let mut total = total;
    #[unroll]
    for i in comptime!(LANES.ilog2())..5u32 {
        total += plane_shuffle_xor(total, comptime!(1u32 << i));
    }
    let mut ends = Shared::<[f32]>::new_slice(comptime!(2 * planes));
    if lane == 0 {
        ends[2 * plane] = maximum;
        ends[2 * plane + 1] = total;
    }
    if lane < comptime!(groups * pieces) {
        sums[plane * comptime!(groups * pieces) + lane] = sum;
    }
    sync_cube();
    let mut highest = HIDDEN.runtime();
    #[unroll]
    for plane in 0..planes {
        highest = max(highest, ends[comptime!(2 * plane)]);
    }
    let mut all = 0.0f32.runtime();
    let mut joined = Vector::<f32, N>::new(0.0f32);
    #[unroll]
    for plane in 0..planes {
        let weight = (ends[comptime!(2 * plane)] - highest).exp();
        all += weight * ends[comptime!(2 * plane + 1)];
        if unit < pieces {
            #[unroll]
            for group in 0..groups {
                let at = comptime!((plane * groups + group) * pieces);
                joined += Vector::new(weight) * sums[at + unit];
            }
        }
    }
    // Whoever writes a sum is the only one to have read it.
    if unit < pieces {
        sums[unit] = joined;
    }
    (highest, all)
}
