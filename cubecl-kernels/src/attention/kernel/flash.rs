//! Attention of many queries by tensor cores, with a running softmax.

use core::f32::consts::LOG2_E;

use cubecl::prelude::*;

use super::HIDDEN;
use crate::attention::geometry::{AttentionGeometry, Rows, first_query};
use crate::attention::plan::{FlashBlueprint, STEP_KEYS};
use crate::attention::problem::Visible;
use crate::mma::panel::{Panel, Side, Source, cursor, fragment, lane, start_copies};
use crate::ptx::{
    Quad, commit_copies, exp2, global_address, multiply_add, pack, shared_address, store_global,
    wait_copies, written_address,
};

/// Pairs of 8 keys in a step.
const KEY_FRAGMENTS: usize = STEP_KEYS / 16;

/// Attends some queries of one head per cube, 16 of them per plane.
///
/// The scores of a step are in registers as a product leaves them, two rows of each plane's 16 per
/// lane; packed, they are the left operand of the product with the values.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn flash_attention<T: Float, I: Int>(
    query: &[T],
    key: &[T],
    value: &[T],
    position: ComptimeOption<&[I]>,
    out: &mut [T],
    geometry: AttentionGeometry,
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
    let keys = geometry.keys as u32;
    let mut first = 0u32.runtime();
    let mut seen = keys;
    if comptime!(causal) {
        first = first_query::<I>(&position, &geometry);
        seen = min(keys, first + row + rows);
    }

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
    let value_rows = source::<T>(value, &geometry.value, batch, key_head, seen, blueprint);
    // The values are the right operand of a product whose depth is the keys.
    let value_source = Source {
        address: value_rows.address,
        line_stride: value_rows.depth_stride,
        depth_stride: value_rows.line_stride,
        lines: value_rows.depth,
        depth: value_rows.lines,
    };

    let memory =
        Shared::<[u32]>::new_aligned_slice(comptime!(blueprint.shared_bytes() / 4), 1024usize);
    let base = shared_address::<u32>(memory.as_slice());
    let step_bytes = comptime!(blueprint.step_bytes() as u32);
    let key_stages = base + comptime!(blueprint.query_bytes() as u32);
    let value_stages = key_stages + 2 * step_bytes;

    let (query_panel, key_panel) = comptime!((blueprint.query_panel(), blueprint.key_panel()));
    let value_panel = comptime!(blueprint.value_panel());
    copy_rows(&query_source, row, base, query_panel, blueprint);
    copy_rows(
        &key_source,
        0u32.runtime(),
        key_stages,
        key_panel,
        blueprint,
    );
    commit_copies();
    copy_values(&value_source, 0u32.runtime(), value_stages, value_panel);
    commit_copies();

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
    if comptime!(causal) {
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

    let steps = seen.div_ceil(comptime!(STEP_KEYS as u32));
    for step in 0..steps {
        let stage = (step % 2) * step_bytes;
        let next = ((step + 1) % 2) * step_bytes;
        let start = step * comptime!(STEP_KEYS as u32);
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
            copy_rows(
                &key_source,
                start + comptime!(STEP_KEYS as u32),
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
            copy_values(&value_source, step + 1, value_stages + next, value_panel);
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
fn copy_values(source: &Source, step: u32, stage: u32, #[comptime] panel: Panel) {
    let mut cursor = cursor(source, UNIT_POS, 0u32.runtime(), step, panel);
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
