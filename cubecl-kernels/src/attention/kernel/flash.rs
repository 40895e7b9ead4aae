//! Attention of many queries by tensor cores, with a running softmax.

use core::f32::consts::LOG2_E;

use cubecl::prelude::*;

use super::HIDDEN;
use crate::attention::geometry::{AttentionGeometry, OwnGeometry, Rows, first_query};
use crate::attention::plan::{COPY_BYTES, FlashBlueprint, STEP_KEYS};
use crate::attention::problem::Visible;
use crate::mma::panel::{Panel, Side, Source, cursor, fragment, lane, start_copies};
use crate::ptx::{
    Quad, commit_copies, exp2, global_address, load_constant_quad, multiply_add, pack,
    shared_address, store_global, wait_copies, written_address,
};

/// Pairs of 8 keys in a step.
const KEY_FRAGMENTS: usize = STEP_KEYS / 16;

/// Attends some queries of one head per cube, 16 of them per plane.
///
/// The scores of a step are in registers as a product leaves them, two rows of each plane's 16 per
/// lane; packed, they are the left operand of the product with the values.
///
/// Keys and values of the queries' own tokens may come with them: they are read from there, in steps behind
/// those of the cache, and the cubes of one query head of each key head append them to `keys` and
/// `values`, which are `key` and `value`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn flash_attention<T: Float, I: Int>(
    query: &[T],
    key: &[T],
    value: &[T],
    position: ComptimeOption<&[I]>,
    own_key: ComptimeOption<&[T]>,
    own_value: ComptimeOption<&[T]>,
    keys: ComptimeOption<&mut [T]>,
    values: ComptimeOption<&mut [T]>,
    out: &mut [T],
    geometry: AttentionGeometry,
    own: OwnGeometry,
    #[comptime] blueprint: FlashBlueprint,
    #[define(T)] _dtype: ElemType,
    #[define(I)] _index: ElemType,
) {
    let causal = comptime!(blueprint.visible == Visible::Causal);
    let rows = comptime!(blueprint.rows() as u32);
    let head = CUBE_POS_X as usize;
    let batch = CUBE_POS_Z as usize;
    // The last queries see most keys: they begin first.
    let row = (CUBE_COUNT_Y - CUBE_POS_Y) * rows - rows;
    let capacity = geometry.keys as u32;
    let mut first = 0u32.runtime();
    // Rows of the cache that this cube reads, and of the queries' own tokens behind them.
    let mut seen = capacity;
    let mut own_seen = 0u32.runtime();
    if comptime!(blueprint.own) {
        first = first_query::<I>(&position, &geometry);
        seen = min(capacity, first);
        // Those that the cache has no place for are left out.
        own_seen = min(min(geometry.tokens as u32, row + rows), capacity - seen);
    } else if comptime!(causal) {
        first = first_query::<I>(&position, &geometry);
        seen = min(capacity, first + row + rows);
    }
    let cached_steps = seen.div_ceil(comptime!(STEP_KEYS as u32));

    let key_head = head / geometry.shared;
    let query_source = source::<T>(
        query,
        &geometry.query,
        batch,
        head,
        geometry.tokens as u32,
        blueprint,
    );
    let key_source = source::<T>(key, &geometry.key, batch, key_head, seen, blueprint);
    let value_source = source::<T>(value, &geometry.value, batch, key_head, seen, blueprint);
    let own_keys = own_source::<T>(
        own_key, &own.key, batch, key_head, own_seen, key_source, blueprint,
    );
    let own_values = own_source::<T>(
        own_value,
        &own.value,
        batch,
        key_head,
        own_seen,
        value_source,
        blueprint,
    );

    let memory =
        Shared::<[u32]>::new_aligned_slice(comptime!(blueprint.shared_bytes() / 4), 1024usize);
    let base = shared_address::<u32>(memory.as_slice());
    let step_bytes = comptime!(blueprint.step_bytes() as u32);
    let key_stages = base + comptime!(blueprint.query_bytes() as u32);
    let value_stages = key_stages + 2 * step_bytes;

    let (query_panel, key_panel) = comptime!((blueprint.query_panel(), blueprint.key_panel()));
    let value_panel = comptime!(blueprint.value_panel());
    copy_rows(&query_source, row, base, query_panel, blueprint);
    let (from, at) = of_step(
        key_source,
        own_keys,
        0u32.runtime(),
        cached_steps,
        blueprint,
    );
    copy_rows(
        &from,
        at * comptime!(STEP_KEYS as u32),
        key_stages,
        key_panel,
        blueprint,
    );
    commit_copies();
    let (from, at) = of_step(
        value_source,
        own_values,
        0u32.runtime(),
        cached_steps,
        blueprint,
    );
    copy_values(&from, at, value_stages, value_panel);
    commit_copies();
    #[comptime]
    if let (ComptimeOption::Some(keys), ComptimeOption::Some(values)) = (keys, values) {
        // One query head for each key head.
        let appends = head == key_head * geometry.shared && row < own_seen;
        if appends {
            let to = &geometry.key;
            append_rows::<T>(&own_keys, keys, to, batch, key_head, row, first, blueprint);
            let to = &geometry.value;
            append_rows::<T>(
                &own_values,
                values,
                to,
                batch,
                key_head,
                row,
                first,
                blueprint,
            );
        }
    }

    let plane = UNIT_POS / 32;
    let position_in_plane = UNIT_POS % 32;
    let query_lane = lane(plane * 16, query_panel, Side::Lhs);
    let key_lane = lane(0u32, key_panel, Side::Rhs);
    let value_lane = lane(0u32, value_panel, Side::Rhs);
    let feature_steps = comptime!(blueprint.feature_steps());
    let element = comptime!(blueprint.element);

    let own_row = row + plane * 16 + position_in_plane / 4;
    let own_column = (position_in_plane % 4) * 2;
    let mut limits = Array::<u32>::new(2usize);
    let mut plane_limit = seen;
    limits[0] = seen;
    limits[1] = seen;
    if comptime!(causal && !blueprint.own) {
        limits[0] = min(seen, first + own_row + 1);
        limits[1] = min(seen, first + own_row + 9);
        plane_limit = min(seen, first + row + plane * 16 + 1);
    }

    // Powers of two are what the device has an instruction for.
    let scale = geometry.scale * LOG2_E;
    let mut queries = Array::<Quad<u32>>::new(feature_steps);
    let mut scores = Array::<Quad<f32>>::new(comptime!(2 * KEY_FRAGMENTS));
    let mut sums = Array::<Quad<f32>>::new(comptime!(2 * feature_steps));
    let mut maxima = Array::<f32>::new(2usize);
    let mut totals = Array::<f32>::new(2usize);
    #[unroll]
    for i in 0..comptime!(2 * feature_steps) {
        sums[i] = Quad::<f32>::new(0.0f32);
    }
    #[unroll]
    for half in 0..2usize {
        maxima[half] = HIDDEN.runtime();
        totals[half] = 0.0f32.runtime();
    }

    let steps = cached_steps + own_seen.div_ceil(comptime!(STEP_KEYS as u32));
    for step in 0..steps {
        let stage = (step % 2) * step_bytes;
        let next = ((step + 1) % 2) * step_bytes;
        let mut start = step * comptime!(STEP_KEYS as u32);
        if comptime!(blueprint.own) {
            if step == cached_steps {
                // From here on keys are counted from the first of the queries' tokens.
                limits[0] = min(own_seen, own_row + 1);
                limits[1] = min(own_seen, own_row + 9);
                plane_limit = min(own_seen, row + plane * 16 + 1);
            }
            if step >= cached_steps {
                start -= cached_steps * comptime!(STEP_KEYS as u32);
            }
        }
        // The keys of this step have come; its values may be under way.
        wait_copies(1usize);
        sync_cube();
        if step == 0 {
            #[unroll]
            for i in 0..feature_steps {
                queries[i] = fragment(
                    &query_lane,
                    base + comptime!(((i / 4) * query_panel.bytes()) as u32),
                    0usize,
                    comptime!(i % 4),
                    query_panel,
                    Side::Lhs,
                );
            }
        }
        if step + 1 < steps {
            let (from, at) = of_step(key_source, own_keys, step + 1, cached_steps, blueprint);
            copy_rows(
                &from,
                at * comptime!(STEP_KEYS as u32),
                key_stages + next,
                key_panel,
                blueprint,
            );
        }
        commit_copies();

        #[unroll]
        for i in 0..comptime!(2 * KEY_FRAGMENTS) {
            scores[i] = Quad::<f32>::new(0.0f32);
        }
        #[unroll]
        for i in 0..feature_steps {
            let panel = key_stages + stage + comptime!(((i / 4) * key_panel.bytes()) as u32);
            #[unroll]
            for j in 0..KEY_FRAGMENTS {
                let pair = fragment(&key_lane, panel, j, comptime!(i % 4), key_panel, Side::Rhs);
                #[unroll]
                for half in 0..2usize {
                    scores[comptime!(2 * j + half)] = multiply_add(
                        queries[i],
                        pair.extract(comptime!(2 * half)),
                        pair.extract(comptime!(2 * half + 1)),
                        scores[comptime!(2 * j + half)],
                        element,
                    );
                }
            }
        }
        if start + comptime!(STEP_KEYS as u32) > plane_limit {
            hide(&mut scores, &limits, start + own_column);
        }
        let corrections = weigh(&mut scores, &mut maxima, &mut totals, scale);
        #[unroll]
        for i in 0..comptime!(2 * feature_steps) {
            sums[i] *= corrections;
        }

        // The values of this step have come; the keys of the next may be under way.
        wait_copies(1usize);
        sync_cube();
        if step + 1 < steps {
            let (from, at) = of_step(value_source, own_values, step + 1, cached_steps, blueprint);
            copy_values(&from, at, value_stages + next, value_panel);
        }
        commit_copies();
        #[unroll]
        for i in 0..KEY_FRAGMENTS {
            let (low, high) = (scores[comptime!(2 * i)], scores[comptime!(2 * i + 1)]);
            let mut weights = Quad::<u32>::empty();
            weights.insert(
                0usize,
                pack(low.extract(0usize), low.extract(1usize), element),
            );
            weights.insert(
                1usize,
                pack(low.extract(2usize), low.extract(3usize), element),
            );
            weights.insert(
                2usize,
                pack(high.extract(0usize), high.extract(1usize), element),
            );
            weights.insert(
                3usize,
                pack(high.extract(2usize), high.extract(3usize), element),
            );
            #[unroll]
            for j in 0..feature_steps {
                let pair = fragment(
                    &value_lane,
                    value_stages + stage,
                    j,
                    i,
                    value_panel,
                    Side::Rhs,
                );
                #[unroll]
                for half in 0..2usize {
                    sums[comptime!(2 * j + half)] = multiply_add(
                        weights,
                        pair.extract(comptime!(2 * half)),
                        pair.extract(comptime!(2 * half + 1)),
                        sums[comptime!(2 * j + half)],
                        element,
                    );
                }
            }
        }
    }
    wait_copies(0usize);

    let address = written_address::<T>(out)
        + (batch * geometry.out.batch + head * geometry.out.head) as u64
            * comptime!(element.bytes() as u64);
    #[unroll]
    for half in 0..2usize {
        let mut total = totals[half];
        total += plane_shuffle_xor(total, 1u32);
        total += plane_shuffle_xor(total, 2u32);
        let share = 1.0f32 / total;
        let at_row = own_row + comptime!(8 * half as u32);
        if (at_row as usize) < geometry.tokens {
            let to = address
                + (at_row as usize * geometry.out.token) as u64 * comptime!(element.bytes() as u64);
            #[unroll]
            for i in 0..comptime!(2 * feature_steps) {
                let column = own_column + comptime!(8 * i as u32);
                if column < comptime!(blueprint.width as u32) {
                    let low = sums[i].extract(comptime!(2 * half)) * share;
                    let high = sums[i].extract(comptime!(2 * half + 1)) * share;
                    let mut words = Quad::<u32>::new(0u32);
                    words.insert(0usize, pack(low, high, element));
                    store_global(to + u64::cast_from(column) * 2, words, 4usize);
                }
            }
        }
    }
}

/// The `lines` first rows of one head of a tensor.
#[cube]
fn source<T: Float>(
    tensor: &[T],
    rows: &Rows,
    batch: usize,
    head: usize,
    lines: u32,
    #[comptime] blueprint: FlashBlueprint,
) -> Source {
    let bytes = comptime!(blueprint.element.bytes() as u64);
    let start = batch * rows.batch + head * rows.head;
    Source {
        address: global_address::<T>(tensor) + start as u64 * bytes,
        line_stride: rows.token as u64 * bytes,
        depth_stride: bytes.runtime(),
        lines,
        depth: comptime!(blueprint.width as u32).runtime(),
    }
}

/// The `lines` first rows of one head of the queries' own tokens; `other` where there are none.
#[cube]
fn own_source<T: Float>(
    tensor: ComptimeOption<&[T]>,
    rows: &Rows,
    batch: usize,
    head: usize,
    lines: u32,
    other: Source,
    #[comptime] blueprint: FlashBlueprint,
) -> Source {
    #[comptime]
    match tensor {
        ComptimeOption::Some(tensor) => source::<T>(tensor, rows, batch, head, lines, blueprint),
        ComptimeOption::None => other,
    }
}

/// What step `step` reads, and which step of that it is: the cache in its first steps, the rows of the
/// queries' own tokens behind them.
#[cube]
fn of_step(
    cache: Source,
    own: Source,
    step: u32,
    cached_steps: u32,
    #[comptime] blueprint: FlashBlueprint,
) -> (Source, u32) {
    if comptime!(blueprint.own) {
        let behind = step >= cached_steps;
        let rows = Source {
            address: select(behind, own.address, cache.address),
            line_stride: select(behind, own.line_stride, cache.line_stride),
            depth_stride: cache.depth_stride,
            lines: select(behind, own.lines, cache.lines),
            depth: cache.depth,
        };
        (rows, select(behind, step - cached_steps, step))
    } else {
        (cache, step)
    }
}

/// Appends those of the queries' own tokens that are this cube's to one head of the cache, whose row `first` is
/// that of the first token.
#[cube]
#[expect(
    clippy::too_many_arguments,
    reason = "rows, and where in the cache they go"
)]
fn append_rows<T: Float>(
    own: &Source,
    cache: &mut [T],
    rows: &Rows,
    batch: usize,
    head: usize,
    row: u32,
    first: u32,
    #[comptime] blueprint: FlashBlueprint,
) {
    let bytes = comptime!(blueprint.element.bytes() as u64);
    let pieces = comptime!((blueprint.width * blueprint.element.bytes() / COPY_BYTES) as u32);
    let count = comptime!(blueprint.rows() as u32 * pieces);
    let to = written_address::<T>(cache) + (batch * rows.batch + head * rows.head) as u64 * bytes;
    let stride = rows.token as u64 * bytes;
    let each = comptime!(count.div_ceil(blueprint.units() as u32));
    let mut words = Array::<Quad<u32>>::new(comptime!(each as usize));
    // All on their way before the first is stored; places past the end read the last row.
    #[unroll]
    for i in 0..each {
        let (line, byte) = append_place(row, i, pieces, blueprint);
        let line = u64::cast_from(min(line, own.lines - 1));
        words[i as usize] = load_constant_quad(own.address + line * own.line_stride + byte);
    }
    #[unroll]
    for i in 0..each {
        let (line, byte) = append_place(row, i, pieces, blueprint);
        let inside = UNIT_POS + comptime!(i * blueprint.units() as u32) < count;
        if inside && line < own.lines {
            let line = u64::cast_from(first + line);
            store_global(to + line * stride + byte, words[i as usize], COPY_BYTES);
        }
    }
}

/// Row and first byte in it of what this unit appends with its `i`-th copy, of `pieces` for each row.
#[cube]
fn append_place(
    row: u32,
    #[comptime] i: u32,
    #[comptime] pieces: u32,
    #[comptime] blueprint: FlashBlueprint,
) -> (u32, u64) {
    let piece = UNIT_POS + comptime!(i * blueprint.units() as u32);
    let byte = u64::cast_from(piece % pieces) * comptime!(COPY_BYTES as u64);
    (row + piece / pieces, byte)
}

/// Starts the copies of all features of the rows from `line` on.
#[cube]
fn copy_rows(
    source: &Source,
    line: u32,
    stage: u32,
    #[comptime] panel: Panel,
    #[comptime] blueprint: FlashBlueprint,
) {
    #[unroll]
    for i in 0..comptime!(blueprint.panels()) {
        let mut cursor = cursor(source, UNIT_POS, line, comptime!(i as u32).runtime(), panel);
        start_copies(
            &mut cursor,
            stage + comptime!((i * panel.bytes()) as u32),
            panel,
        );
    }
}

/// Starts the copies of the values of a step.
#[cube]
fn copy_values(rows: &Source, step: u32, stage: u32, #[comptime] panel: Panel) {
    // They are the right operand of a product whose depth is the keys.
    let source = Source {
        address: rows.address,
        line_stride: rows.depth_stride,
        depth_stride: rows.line_stride,
        lines: rows.depth,
        depth: rows.lines,
    };
    let mut cursor = cursor(&source, UNIT_POS, 0u32.runtime(), step, panel);
    start_copies(&mut cursor, stage, panel);
}

/// Lowers the scores of the keys past each row's limit; the first of this lane's is key `start`.
#[cube]
fn hide(scores: &mut Array<Quad<f32>>, limits: &Array<u32>, start: u32) {
    #[unroll]
    for i in 0..comptime!(2 * KEY_FRAGMENTS) {
        let mut quad = scores[i];
        #[unroll]
        for j in 0..4usize {
            let key = start + comptime!((8 * i + j % 2) as u32);
            let seen = key < limits[comptime!(j / 2)];
            quad.insert(j, select(seen, quad.extract(j), HIDDEN));
        }
        scores[i] = quad;
    }
}

/// Turns scores into weights, `2^(scale (score - maximum))` with the maximum of all keys so far, and
/// adds them to the totals. Returns what earlier sums have to be multiplied with, for each element
/// of a product's result.
#[cube]
fn weigh(
    scores: &mut Array<Quad<f32>>,
    maxima: &mut Array<f32>,
    totals: &mut Array<f32>,
    scale: f32,
) -> Quad<f32> {
    let mut corrections = Quad::<f32>::empty();
    #[unroll]
    for half in 0..2usize {
        let mut maximum = maxima[half];
        #[unroll]
        for i in 0..comptime!(2 * KEY_FRAGMENTS) {
            let quad = scores[i];
            maximum = max(maximum, quad.extract(comptime!(2 * half)));
            maximum = max(maximum, quad.extract(comptime!(2 * half + 1)));
        }
        // The four lanes of a row.
        maximum = max(maximum, plane_shuffle_xor(maximum, 1u32));
        maximum = max(maximum, plane_shuffle_xor(maximum, 2u32));
        let shift = maximum * scale;
        let correction = exp2(maxima[half] * scale - shift);
        let mut total = totals[half] * correction;
        #[unroll]
        for i in 0..comptime!(2 * KEY_FRAGMENTS) {
            let mut quad = scores[i];
            let low = exp2(quad.extract(comptime!(2 * half)) * scale - shift);
            let high = exp2(quad.extract(comptime!(2 * half + 1)) * scale - shift);
            total += low + high;
            quad.insert(comptime!(2 * half), low);
            quad.insert(comptime!(2 * half + 1), high);
            scores[i] = quad;
        }
        maxima[half] = maximum;
        totals[half] = total;
        corrections.insert(comptime!(2 * half), correction);
        corrections.insert(comptime!(2 * half + 1), correction);
    }
    corrections
}
