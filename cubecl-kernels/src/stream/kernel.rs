//! The kernels for few tokens.

use cubecl::prelude::*;

use super::plan::{LINES, StreamBlueprint, StreamCoupledBlueprint, TOKENS};
use crate::coupled_product::geometry::CoupledGeometry;
use crate::product::kernel::epilogue::finish_one;
use crate::product::kernel::geometry::{Geometry, out_offset};
use crate::ptx::{
    MmaElement, Quad, global_address, load_constant_quad, multiply_add, round_to_tf32,
};

/// Chunks of 16 bytes per lane whose loads are under way at a time.
const AHEAD: usize = 4;

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

/// Adds to `sums` the products of 16 lines of a factor with all tokens, over the part of the depth
/// that belongs to plane `split` of `splits`.
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
    #[comptime] token_groups: usize,
    #[comptime] element: MmaElement,
) {
    let bytes = comptime!(element.bytes() as u32);
    let position = UNIT_POS % 32;
    let group = position / 4;
    let start = (position % 4) * 16;
    let low = select(line + group < lines, line + group, lines - 1);
    let high = select(line + group + 8 < lines, line + group + 8, lines - 1);
    let low = factor + u64::cast_from(low) * factor_stride + u64::cast_from(start);
    let high = factor + u64::cast_from(high) * factor_stride + u64::cast_from(start);
    let input = input + u64::cast_from(group) * input_stride + u64::cast_from(start);

    // Chunks of 64 bytes of depth; each plane takes whole groups of `AHEAD`, neighbouring ones.
    let end = depth * bytes;
    let chunks = end
        .div_ceil(comptime!(64 * AHEAD as u32))
        .div_ceil(comptime!(splits as u32))
        * comptime!(AHEAD as u32);
    let first = split * chunks;
    let mut chunk = first;
    let mut left = Array::<Quad<u32>>::new(comptime!(2 * AHEAD));
    let mut right = Array::<Quad<u32>>::new(AHEAD);
    while chunk < first + chunks && chunk * 64 < end {
        #[unroll]
        for ahead in 0..AHEAD {
            let byte = (chunk + comptime!(ahead as u32)) * 64;
            let inside = byte + start < end;
            left[comptime!(2 * ahead)] = load_chunk(low + u64::cast_from(byte), inside, element);
            left[comptime!(2 * ahead + 1)] =
                load_chunk(high + u64::cast_from(byte), inside, element);
        }
        #[unroll]
        for tile in 0..token_groups {
            let token = group + comptime!((tile * TOKENS) as u32);
            let from = input + comptime!((tile * TOKENS) as u64) * input_stride;
            #[unroll]
            for ahead in 0..AHEAD {
                let byte = (chunk + comptime!(ahead as u32)) * 64;
                let inside = byte + start < end && token < tokens;
                right[ahead] = load_chunk(from + u64::cast_from(byte), inside, element);
            }
            #[unroll]
            for ahead in 0..AHEAD {
                let (a, b) = (left[comptime!(2 * ahead)], left[comptime!(2 * ahead + 1)]);
                let x = right[ahead];
                #[unroll]
                for half in 0..2usize {
                    let mut quad = Quad::<u32>::empty();
                    quad.insert(0usize, a.extract(comptime!(2 * half)));
                    quad.insert(1usize, b.extract(comptime!(2 * half)));
                    quad.insert(2usize, a.extract(comptime!(2 * half + 1)));
                    quad.insert(3usize, b.extract(comptime!(2 * half + 1)));
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
        chunk += comptime!(AHEAD as u32);
    }
}

/// Writes the sums of a plane to `stage`, `[plane, token, line]`.
#[cube]
fn stage_sums(
    sums: &Array<Quad<f32>>,
    stage: &mut Shared<[f32]>,
    plane: usize,
    #[comptime] token_groups: usize,
) {
    let position = (UNIT_POS % 32) as usize;
    let line = position / 4;
    #[unroll]
    for tile in 0..token_groups {
        let quad = sums[tile];
        let token = plane * comptime!(token_groups * TOKENS)
            + comptime!(tile * TOKENS)
            + (position % 4) * 2;
        stage[token * LINES + line] = quad.extract(0usize);
        stage[(token + 1) * LINES + line] = quad.extract(1usize);
        stage[token * LINES + line + 8] = quad.extract(2usize);
        stage[(token + 1) * LINES + line + 8] = quad.extract(3usize);
    }
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
    let splits = comptime!(blueprint.splits);
    let token_groups = comptime!(blueprint.token_groups);
    let bytes = comptime!(blueprint.element.bytes() as u64);
    let batch = CUBE_POS_Y as usize;
    let first = CUBE_POS_X as usize * comptime!(blueprint.groups * LINES);
    let plane = UNIT_POS / 32;
    let group = plane / comptime!(splits as u32);
    let mut sums = Array::<Quad<f32>>::new(token_groups);
    #[unroll]
    for tile in 0..token_groups {
        sums[tile] = Quad::<f32>::new(0.0f32);
    }
    stream_lines(
        global_address::<T>(rhs) + (batch * geometry.rhs.batch) as u64 * bytes,
        geometry.rhs.column as u64 * bytes,
        first as u32 + group * comptime!(LINES as u32),
        geometry.columns as u32,
        global_address::<T>(lhs) + (batch * geometry.lhs.batch) as u64 * bytes,
        geometry.lhs.row as u64 * bytes,
        geometry.rows as u32,
        geometry.depth as u32,
        plane % comptime!(splits as u32),
        &mut sums,
        splits,
        token_groups,
        blueprint.element,
    );
    let mut stage =
        Shared::<[f32]>::new_aligned_slice(comptime!(blueprint.stage_elements()), 16usize);
    stage_sums(&sums, &mut stage, plane as usize, token_groups);
    sync_cube();

    let lines = comptime!(blueprint.groups * LINES);
    let mut index = UNIT_POS as usize;
    while index < comptime!(token_groups * TOKENS) * lines {
        let row = index / lines;
        let line = index % lines;
        let column = first + line;
        if row < geometry.rows && column < geometry.columns {
            let from = (line / LINES) * comptime!(splits * token_groups * TOKENS * LINES)
                + row * LINES
                + line % LINES;
            let mut sum = 0.0f32;
            #[unroll]
            for split in 0..splits {
                sum += stage[from + comptime!(split * token_groups * TOKENS * LINES)];
            }
            let output = finish_one::<T>(
                sum,
                &bias,
                &merged,
                &geometry,
                batch,
                row,
                column,
                blueprint.finish,
            );
            let at = out_offset(&geometry, batch, row, column, blueprint.split_columns);
            out[at] = T::cast_from(output);
        }
        index += comptime!(blueprint.units());
    }
}

/// `out[j, t, k] = Σ_i S[j, i, k] Y[i, t, k]` with `Y_i = A_i B_i`, for few tokens; `Y` is kept in
/// `f32`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn stream_coupled<T: Float>(
    lhs: &[T],
    rhs: &[T],
    coupling: &[T],
    out: &mut [T],
    geometry: CoupledGeometry,
    #[comptime] blueprint: StreamCoupledBlueprint,
    #[define(T)] _dtype: ElemType,
) {
    let splits = comptime!(blueprint.splits);
    let token_groups = comptime!(blueprint.token_groups);
    let blocks = comptime!(blueprint.blocks);
    let bytes = comptime!(blueprint.element.bytes() as u64);
    let first = CUBE_POS_X as usize * LINES;
    let plane = UNIT_POS / 32;
    let block = (plane / comptime!(splits as u32)) as usize;
    // A unit couples one output block and rank, for every `parts`-th token. What it multiplies by
    // is loaded before everything else, and arrives meanwhile.
    let pairs = comptime!(blocks * LINES);
    let parts = comptime!((blueprint.units() / (blocks * LINES)).max(1));
    let pair = UNIT_POS as usize % pairs;
    let inside = pair % LINES;
    let out_block = pair / LINES;
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
        token_groups,
        blueprint.element,
    );
    let mut stage =
        Shared::<[f32]>::new_aligned_slice(comptime!(blueprint.stage_elements()), 16usize);
    stage_sums(&sums, &mut stage, plane as usize, token_groups);
    sync_cube();

    let tokens = comptime!(token_groups * TOKENS);
    let mut token = UNIT_POS as usize / pairs;
    if rank < geometry.rank {
        while token < geometry.tokens {
            let mut sum = 0.0f32;
            #[unroll]
            for i in 0..blocks {
                let mut inner = 0.0f32;
                #[unroll]
                for split in 0..splits {
                    let at = comptime!((i * splits + split) * tokens * LINES);
                    inner += stage[at + token * LINES + inside];
                }
                sum += factors[i] * inner;
            }
            let at = out_block * geometry.out.block + token * geometry.out.line + rank;
            out[at] = T::cast_from(sum);
            token += parts;
        }
    }
}
