//! The kernels for few tokens.

use cubecl::prelude::*;

use super::plan::{StreamBlueprint, StreamCoupledBlueprint, StreamLines, TOKENS};
use crate::activation::activate;
use crate::coupled_product::geometry::CoupledGeometry;
use crate::product::kernel::epilogue::{add_bias, finish_one};
use crate::product::kernel::geometry::{Geometry, out_offset};
use crate::ptx::{
    MmaElement, Quad, global_address, load_constant_quad, multiply_add, round_to_tf32,
};

/// Bytes of a line that a plane reads at a time, 16 for each of four lanes.
const CHUNK: usize = 64;

/// 16 bytes of an operand, rounded if it is `f32`; zero where `inside` is false.
#[cube]
fn load_chunk(address: u64, inside: bool, #[comptime] element: MmaElement) -> Quad<u32> {
    let mut words = Quad::<u32>::new(0u32);
    if inside {
        words = load_constant_quad(address);
        if comptime!(element == MmaElement::Tf32) {
            #[unroll]
            for i in 0..4usize {
                words.insert(i, round_to_tf32(words.extract(i)));
            }
        }
    }
    words
}

/// Adds to `sums` the products of the lines of a factor that a plane has with all tokens, over the part
/// of the depth that belongs to plane `split` of `splits`.
///
/// Addresses and strides are in bytes; both operands are contiguous along the depth. Lines past
/// `lines` are read at the last one; the sums of tokens past `tokens` are zero.
#[cube]
#[expect(
    clippy::too_many_arguments,
    reason = "two operands, each with its place and extent"
)]
fn stream_lines(
    factor: u64,
    factor_stride: u64,
    line: u32,
    lines: u32,
    input: u64,
    input_stride: u64,
    tokens: u32,
    depth: u32,
    split: u32,
    sums: &mut Array<Quad<f32>>,
    #[comptime] splits: usize,
    #[comptime] plane_lines: StreamLines,
    #[comptime] token_groups: usize,
    #[comptime] element: MmaElement,
) {
    let bytes = comptime!(element.bytes() as u32);
    let ahead = comptime!(plane_lines.ahead());
    let both = comptime!(plane_lines == StreamLines::Sixteen);
    let position = UNIT_POS % 32;
    let group = position / 4;
    let start = (position % 4) * 16;
    let low = select(line + group < lines, line + group, lines - 1);
    let high = select(line + group + 8 < lines, line + group + 8, lines - 1);
    let low = factor + u64::cast_from(low) * factor_stride + u64::cast_from(start);
    let high = factor + u64::cast_from(high) * factor_stride + u64::cast_from(start);
    let input = input + u64::cast_from(group) * input_stride + u64::cast_from(start);

    // Each plane takes whole groups of chunks, neighbouring ones.
    let end = depth * bytes;
    let chunks = end
        .div_ceil(comptime!((CHUNK * ahead) as u32))
        .div_ceil(comptime!(splits as u32))
        * comptime!(ahead as u32);
    let mut chunk = split * chunks;
    let stop = min(chunk + chunks, end.div_ceil(comptime!(CHUNK as u32)));
    let mut left = Array::<Quad<u32>>::new(comptime!(2 * ahead));
    let mut right = Array::<Quad<u32>>::new(ahead);
    while chunk < stop {
        #[unroll]
        for next in 0..ahead {
            let byte = (chunk + comptime!(next as u32)) * comptime!(CHUNK as u32);
            let inside = byte + start < end;
            left[comptime!(2 * next)] = load_chunk(low + u64::cast_from(byte), inside, element);
            if comptime!(both) {
                left[comptime!(2 * next + 1)] =
                    load_chunk(high + u64::cast_from(byte), inside, element);
            }
        }
        #[unroll]
        for tile in 0..token_groups {
            let token = group + comptime!((tile * TOKENS) as u32);
            let from = input + comptime!((tile * TOKENS) as u64) * input_stride;
            #[unroll]
            for next in 0..ahead {
                let byte = (chunk + comptime!(next as u32)) * comptime!(CHUNK as u32);
                let inside = byte + start < end && token < tokens;
                right[next] = load_chunk(from + u64::cast_from(byte), inside, element);
            }
            #[unroll]
            for next in 0..ahead {
                let a = left[comptime!(2 * next)];
                let x = right[next];
                #[unroll]
                for half in 0..2usize {
                    let mut quad = Quad::<u32>::empty();
                    quad.insert(0usize, a.extract(comptime!(2 * half)));
                    quad.insert(2usize, a.extract(comptime!(2 * half + 1)));
                    if comptime!(both) {
                        let b = left[comptime!(2 * next + 1)];
                        quad.insert(1usize, b.extract(comptime!(2 * half)));
                        quad.insert(3usize, b.extract(comptime!(2 * half + 1)));
                    } else {
                        // The lower half of a fragment stays empty.
                        quad.insert(1usize, 0u32);
                        quad.insert(3usize, 0u32);
                    }
                    sums[tile] = multiply_add(
                        quad,
                        x.extract(comptime!(2 * half)),
                        x.extract(comptime!(2 * half + 1)),
                        sums[tile],
                        element,
                    );
                }
            }
        }
        chunk += comptime!(ahead as u32);
    }
}

/// Writes the sums of a plane to `stage`, `[plane, token, line]`.
#[cube]
fn stage_sums(
    sums: &Array<Quad<f32>>,
    stage: &mut Shared<[f32]>,
    plane: usize,
    #[comptime] plane_lines: StreamLines,
    #[comptime] token_groups: usize,
) {
    let lines = comptime!(plane_lines.count());
    let position = (UNIT_POS % 32) as usize;
    let line = position / 4;
    #[unroll]
    for tile in 0..token_groups {
        let quad = sums[tile];
        let token = plane * comptime!(token_groups * TOKENS)
            + comptime!(tile * TOKENS)
            + (position % 4) * 2;
        stage[token * lines + line] = quad.extract(0usize);
        stage[(token + 1) * lines + line] = quad.extract(1usize);
        if comptime!(plane_lines == StreamLines::Sixteen) {
            stage[token * lines + line + 8] = quad.extract(2usize);
            stage[(token + 1) * lines + line + 8] = quad.extract(3usize);
        }
    }
}

/// The sum of `splits` planes, the first of which staged it at `from`.
#[cube]
fn staged_sum(
    stage: &Shared<[f32]>,
    from: usize,
    #[comptime] splits: usize,
    #[comptime] plane_elements: usize,
) -> f32 {
    let mut sum = 0.0f32;
    #[unroll]
    for split in 0..splits {
        sum += stage[from + comptime!(split * plane_elements)];
    }
    sum
}

/// `C[p] = A[p] B[p] (+ bias[p])` for few rows of `A`, summed in `f32`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn stream_product<T: Float>(
    lhs: &[T],
    rhs: &[T],
    bias: ComptimeOption<&[T]>,
    merged: ComptimeOption<&[T]>,
    out: &mut [T],
    geometry: Geometry,
    #[comptime] blueprint: StreamBlueprint,
    #[define(T)] _dtype: ElemType,
) {
    let lines = comptime!(blueprint.lines.count());
    let first = CUBE_POS_X as usize * lines;
    let mut stage =
        Shared::<[f32]>::new_aligned_slice(comptime!(blueprint.stage_elements()), 16usize);
    let plane = UNIT_POS / 32;
    stage_product::<T>(lhs, rhs, &geometry, &mut stage, plane, blueprint);
    sync_cube();

    let mut index = UNIT_POS as usize;
    while index < comptime!(blueprint.token_groups * TOKENS * lines) {
        let row = index / lines;
        let column = first + index % lines;
        if row < geometry.rows && column < geometry.columns {
            let output = finish_one::<T>(
                staged_sum(&stage, index, blueprint.splits, blueprint.plane_elements()),
                &bias,
                &merged,
                &geometry,
                CUBE_POS_Y as usize,
                row,
                column,
                blueprint.finish,
            );
            let batch = CUBE_POS_Y as usize;
            let at = out_offset(&geometry, batch, row, column, blueprint.split_columns);
            out[at] = T::cast_from(output);
        }
        index += comptime!(blueprint.units());
    }
}

/// `C[p] = f(A[p] B[p] (+ bias[p])) · (A'[p] B'[p] (+ bias'[p]))` for few rows, summed in `f32`: one
/// half of a cube has the planes of the first product, the other those of the second.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn stream_gated<T: Float>(
    gate_lhs: &[T],
    gate_rhs: &[T],
    gate_bias: ComptimeOption<&[T]>,
    lhs: &[T],
    rhs: &[T],
    bias: ComptimeOption<&[T]>,
    out: &mut [T],
    geometry: Geometry,
    #[comptime] blueprint: StreamBlueprint,
    #[define(T)] _dtype: ElemType,
) {
    let lines = comptime!(blueprint.lines.count());
    let first = CUBE_POS_X as usize * lines;
    let batch = CUBE_POS_Y as usize;
    let elements = comptime!(blueprint.stage_elements());
    let mut stage = Shared::<[f32]>::new_aligned_slice(comptime!(2 * elements), 16usize);
    let plane = UNIT_POS / 32;
    if plane < comptime!(blueprint.splits as u32) {
        stage_product::<T>(gate_lhs, gate_rhs, &geometry, &mut stage, plane, blueprint);
    } else {
        stage_product::<T>(lhs, rhs, &geometry, &mut stage, plane, blueprint);
    }
    sync_cube();

    let mut index = UNIT_POS as usize;
    while index < comptime!(blueprint.token_groups * TOKENS * lines) {
        let row = index / lines;
        let column = first + index % lines;
        if row < geometry.rows && column < geometry.columns {
            let (splits, plane_elements) =
                comptime!((blueprint.splits, blueprint.plane_elements()));
            let gate = staged_sum(&stage, index, splits, plane_elements);
            let gate = add_bias::<T>(gate, &gate_bias, &geometry, batch, column);
            let other = staged_sum(&stage, index + elements, splits, plane_elements);
            let other = add_bias::<T>(other, &bias, &geometry, batch, column);
            let at = out_offset(&geometry, batch, row, column, blueprint.split_columns);
            out[at] = T::cast_from(activate(gate, blueprint.finish.activation) * other);
        }
        index += comptime!(2 * blueprint.units());
    }
}

/// Multiplies the lines of a cube over the part of the depth that belongs to a plane, and stages the
/// sums at its place.
#[cube]
fn stage_product<T: Float>(
    lhs: &[T],
    rhs: &[T],
    geometry: &Geometry,
    stage: &mut Shared<[f32]>,
    plane: u32,
    #[comptime] blueprint: StreamBlueprint,
) {
    let token_groups = comptime!(blueprint.token_groups);
    let bytes = comptime!(blueprint.element.bytes() as u64);
    let batch = CUBE_POS_Y as usize;
    let mut sums = Array::<Quad<f32>>::new(token_groups);
    #[unroll]
    for tile in 0..token_groups {
        sums[tile] = Quad::<f32>::new(0.0f32);
    }
    stream_lines(
        global_address::<T>(rhs) + (batch * geometry.rhs.batch) as u64 * bytes,
        geometry.rhs.column as u64 * bytes,
        CUBE_POS_X * comptime!(blueprint.lines.count() as u32),
        geometry.columns as u32,
        global_address::<T>(lhs) + (batch * geometry.lhs.batch) as u64 * bytes,
        geometry.lhs.row as u64 * bytes,
        geometry.rows as u32,
        geometry.depth as u32,
        plane % comptime!(blueprint.splits as u32),
        &mut sums,
        blueprint.splits,
        blueprint.lines,
        token_groups,
        blueprint.element,
    );
    stage_sums(&sums, stage, plane as usize, blueprint.lines, token_groups);
}

/// `out[j, t, k] = Σ_i S[j, i, k] Y[i, t, k]` with `Y_i = A_i B_i`, for few tokens; `Y` is kept in
/// `f32`. Where the ranks are those of several layers, `part` each, each layer's are stored
/// `part_stride` behind those of the one before.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn stream_coupled<T: Float>(
    lhs: &[T],
    rhs: &[T],
    coupling: &[T],
    out: &mut [T],
    geometry: CoupledGeometry,
    part: usize,
    part_stride: usize,
    #[comptime] blueprint: StreamCoupledBlueprint,
    #[define(T)] _dtype: ElemType,
) {
    let splits = comptime!(blueprint.splits);
    let lines = comptime!(blueprint.lines.count());
    let token_groups = comptime!(blueprint.token_groups);
    let blocks = comptime!(blueprint.blocks);
    let bytes = comptime!(blueprint.element.bytes() as u64);
    let first = CUBE_POS_X as usize * lines;
    let plane = UNIT_POS / 32;
    let block = (plane / comptime!(splits as u32)) as usize;
    // A unit couples one output block and rank, for every `parts`-th token. What it multiplies by
    // is loaded before everything else, and arrives meanwhile.
    let pairs = comptime!(blocks * lines);
    let parts = comptime!((blueprint.units() / (blocks * lines)).max(1));
    let pair = UNIT_POS as usize % pairs;
    let inside = pair % lines;
    let out_block = pair / lines;
    let rank = first + inside;
    let mut factors = Array::<f32>::new(blocks);
    if rank < geometry.rank {
        let start = out_block * geometry.coupling.block + rank;
        #[unroll]
        for i in 0..blocks {
            factors[i] = f32::cast_from(coupling[start + i * geometry.coupling.line]);
        }
    }
    let mut sums = Array::<Quad<f32>>::new(token_groups);
    #[unroll]
    for tile in 0..token_groups {
        sums[tile] = Quad::<f32>::new(0.0f32);
    }
    stream_lines(
        global_address::<T>(rhs) + (block * geometry.rhs.block) as u64 * bytes,
        geometry.rhs.line as u64 * bytes,
        first as u32,
        geometry.rank as u32,
        global_address::<T>(lhs) + (block * geometry.lhs.block) as u64 * bytes,
        geometry.lhs.line as u64 * bytes,
        geometry.tokens as u32,
        geometry.depth as u32,
        plane % comptime!(splits as u32),
        &mut sums,
        splits,
        blueprint.lines,
        token_groups,
        blueprint.element,
    );
    let mut stage =
        Shared::<[f32]>::new_aligned_slice(comptime!(blueprint.stage_elements()), 16usize);
    stage_sums(
        &sums,
        &mut stage,
        plane as usize,
        blueprint.lines,
        token_groups,
    );
    sync_cube();

    let tokens = comptime!(token_groups * TOKENS);
    let mut token = UNIT_POS as usize / pairs;
    let column = if comptime!(blueprint.split_ranks) {
        rank / part * part_stride + rank % part
    } else {
        rank
    };
    if rank < geometry.rank {
        while token < geometry.tokens {
            let mut sum = 0.0f32;
            #[unroll]
            for i in 0..blocks {
                let from = comptime!(i * splits * tokens * lines) + token * lines + inside;
                sum += factors[i] * staged_sum(&stage, from, splits, comptime!(tokens * lines));
            }
            let at = out_block * geometry.out.block + token * geometry.out.line + column;
            out[at] = T::cast_from(sum);
            token += parts;
        }
    }
}
