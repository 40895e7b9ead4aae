//! The kernels for few tokens.

use cubecl::prelude::*;

use super::plan::{StreamBlueprint, StreamCoupledBlueprint};
use super::ring::{Stream, part_of_depth, stage_turn, staged_sum, start};
use crate::activation::activate;
use crate::coupled_product::geometry::CoupledGeometry;
use crate::product::kernel::epilogue::{add_bias, finish_one};
use crate::product::kernel::geometry::{Geometry, out_offset};
use crate::ptx::{global_address, shared_address};

/// Bytes in shared memory to which planes' rings are aligned: rows keep their banks.
const RING_ALIGNMENT: usize = 128;

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
    let ring = comptime!(blueprint.ring);
    let memory = Shared::<[u32]>::new_aligned_slice(
        comptime!(blueprint.planes() * ring.bytes() / 4),
        RING_ALIGNMENT,
    );
    let mut stage = Shared::<[f32]>::new_aligned_slice(comptime!(2 * blueprint.staged()), 16usize);
    let plane = UNIT_POS / 32;
    let base = shared_address::<u32>(memory.as_slice()) + plane * comptime!(ring.bytes() as u32);

    let (mut turn, last) = turns(&geometry, blueprint);
    let stream = stream_of(
        global_address::<T>(rhs),
        global_address::<T>(lhs),
        &geometry,
        plane,
        turn,
        last,
        blueprint,
    );
    start(&stream, base, ring);
    let mut done = 0u32;
    let mut half = 0usize;
    while turn < last {
        let to = half + plane as usize * comptime!(ring.sums());
        stage_turn(&stream, done, base, &mut stage, to, ring);
        done += stream.steps;

        let mut index = UNIT_POS as usize;
        while index < comptime!(blueprint.groups * ring.sums()) {
            let (inside, batch, row, column) = place(index, turn, &geometry, blueprint);
            let from = half + inside;
            if batch < geometry.batches && row < geometry.rows && column < geometry.columns {
                let output = finish_one::<T>(
                    staged_sum(&stage, from, blueprint.splits, ring),
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
            index += comptime!(blueprint.planes() * 32);
        }
        half = comptime!(blueprint.staged()) - half;
        turn += 1;
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
    let ring = comptime!(blueprint.ring);
    let memory = Shared::<[u32]>::new_aligned_slice(
        comptime!(2 * blueprint.planes() * ring.bytes() / 4),
        RING_ALIGNMENT,
    );
    let mut stage = Shared::<[f32]>::new_aligned_slice(comptime!(4 * blueprint.staged()), 16usize);
    let plane = UNIT_POS / 32;
    let base = shared_address::<u32>(memory.as_slice()) + plane * comptime!(ring.bytes() as u32);

    let planes = comptime!(blueprint.planes() as u32);
    let gates = plane < planes;
    let (mut turn, last) = turns(&geometry, blueprint);
    let stream = stream_of(
        select(
            gates,
            global_address::<T>(gate_rhs),
            global_address::<T>(rhs),
        ),
        select(
            gates,
            global_address::<T>(gate_lhs),
            global_address::<T>(lhs),
        ),
        &geometry,
        plane % planes,
        turn,
        last,
        blueprint,
    );
    start(&stream, base, ring);
    let mut done = 0u32;
    let mut half = 0usize;
    while turn < last {
        let to = half + plane as usize * comptime!(ring.sums());
        stage_turn(&stream, done, base, &mut stage, to, ring);
        done += stream.steps;

        let mut index = UNIT_POS as usize;
        while index < comptime!(blueprint.groups * ring.sums()) {
            let (inside, batch, row, column) = place(index, turn, &geometry, blueprint);
            let from = half + inside;
            if batch < geometry.batches && row < geometry.rows && column < geometry.columns {
                let gate = staged_sum(&stage, from, blueprint.splits, ring);
                let gate = add_bias::<T>(gate, &gate_bias, &geometry, batch, column);
                let from = from + comptime!(blueprint.staged());
                let other = staged_sum(&stage, from, blueprint.splits, ring);
                let other = add_bias::<T>(other, &bias, &geometry, batch, column);
                let at = out_offset(&geometry, batch, row, column, blueprint.split_columns);
                out[at] = T::cast_from(activate(gate, blueprint.finish.activation) * other);
            }
            index += comptime!(2 * blueprint.planes() * 32);
        }
        half = comptime!(2 * blueprint.staged()) - half;
        turn += 1;
    }
}

/// The turns of a cube, each a group of lines for each set of planes that share a depth: the first,
/// and the one behind the last.
#[cube]
fn turns(geometry: &Geometry, #[comptime] blueprint: StreamBlueprint) -> (u32, u32) {
    let line_groups = geometry
        .columns
        .div_ceil(comptime!(blueprint.ring.lines.count()));
    let turns = (line_groups * geometry.batches).div_ceil(comptime!(blueprint.groups)) as u32;
    share(turns)
}

/// Of the `index`-th output of a turn: where the sums of its first plane are staged, its batch, row and
/// column. The last turn has outputs that lie outside.
#[cube]
fn place(
    index: usize,
    turn: u32,
    geometry: &Geometry,
    #[comptime] blueprint: StreamBlueprint,
) -> (usize, usize, usize, usize) {
    let sums = comptime!(blueprint.ring.sums());
    let lines = comptime!(blueprint.ring.lines.count());
    let (group, inside) = (index / sums, index % sums);
    let staged = group * comptime!(blueprint.splits * blueprint.ring.sums()) + inside;
    let group = turn as usize * comptime!(blueprint.groups) + group;
    let line_groups = geometry.columns.div_ceil(lines);
    let (batch, group) = (group / line_groups, group % line_groups);
    let (row, column) = (inside / lines, group * lines + inside % lines);
    (staged, batch, row, column)
}

/// This cube's share of `turns`: the first, and the one behind the last.
#[cube]
fn share(turns: u32) -> (u32, u32) {
    let (each, rest) = (turns / CUBE_COUNT_X, turns % CUBE_COUNT_X);
    let first = CUBE_POS_X * each + min(CUBE_POS_X, rest);
    (first, first + each + u32::cast_from(CUBE_POS_X < rest))
}

/// What a plane reads for a product of the factor and the input at these addresses, from turn to turn.
#[cube]
fn stream_of(
    factor: u64,
    input: u64,
    geometry: &Geometry,
    plane: u32,
    turn: u32,
    last: u32,
    #[comptime] blueprint: StreamBlueprint,
) -> Stream {
    let ring = comptime!(blueprint.ring);
    let bytes = comptime!(ring.element.bytes() as u64);
    let groups = comptime!(blueprint.groups as u32);
    let splits = comptime!(blueprint.splits as u32);
    let depth = geometry.depth as u32 * comptime!(ring.element.bytes() as u32);
    let (start, steps) = part_of_depth(depth, plane % splits, blueprint.splits, ring);
    let line_groups = geometry.columns.div_ceil(comptime!(ring.lines.count())) as u32;
    Stream {
        factor,
        factor_batch: geometry.rhs.batch as u64 * bytes,
        factor_stride: geometry.rhs.column as u64 * bytes,
        input,
        input_batch: geometry.lhs.batch as u64 * bytes,
        input_stride: geometry.lhs.row as u64 * bytes,
        tokens: geometry.rows as u32,
        lines: geometry.columns as u32,
        line_groups,
        depth,
        first: turn * groups + plane / splits,
        every: groups,
        last: line_groups * geometry.batches as u32 - 1,
        start,
        steps,
        total: (last - turn) * steps,
    }
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
    let ring = comptime!(blueprint.ring);
    let splits = comptime!(blueprint.splits);
    let lines = comptime!(ring.lines.count());
    let blocks = comptime!(blueprint.blocks);
    let bytes = comptime!(ring.element.bytes() as u64);
    let memory = Shared::<[u32]>::new_aligned_slice(
        comptime!(blueprint.planes() * ring.bytes() / 4),
        RING_ALIGNMENT,
    );
    let mut stage = Shared::<[f32]>::new_aligned_slice(comptime!(2 * blueprint.staged()), 16usize);
    let plane = UNIT_POS / 32;
    let base = shared_address::<u32>(memory.as_slice()) + plane * comptime!(ring.bytes() as u32);

    let block = (plane / comptime!(splits as u32)) as u64;
    let depth = geometry.depth as u32 * comptime!(ring.element.bytes() as u32);
    let split = plane % comptime!(splits as u32);
    let (first_step, steps) = part_of_depth(depth, split, splits, ring);
    let line_groups = (geometry.rank as u32).div_ceil(comptime!(lines as u32));
    let (mut turn, last) = share(line_groups);
    let stream = Stream {
        factor: global_address::<T>(rhs) + block * geometry.rhs.block as u64 * bytes,
        factor_batch: 0u64.runtime(),
        factor_stride: geometry.rhs.line as u64 * bytes,
        input: global_address::<T>(lhs) + block * geometry.lhs.block as u64 * bytes,
        input_batch: 0u64.runtime(),
        input_stride: geometry.lhs.line as u64 * bytes,
        tokens: geometry.tokens as u32,
        lines: geometry.rank as u32,
        line_groups,
        depth,
        first: turn,
        every: 1u32.runtime(),
        last: line_groups - 1,
        start: first_step,
        steps,
        total: (last - turn) * steps,
    };
    start(&stream, base, ring);

    // A unit couples one output block and rank, for every `parts`-th token.
    let pairs = comptime!(blocks * lines);
    let parts = comptime!((blueprint.planes() * 32 / (blocks * lines)).max(1));
    let pair = UNIT_POS as usize % pairs;
    let inside = pair % lines;
    let out_block = pair / lines;
    let mut factors = Array::<f32>::new(blocks);
    let mut done = 0u32;
    let mut half = 0usize;
    while turn < last {
        let rank = turn as usize * lines + inside;
        // Loaded before the products, so that they arrive meanwhile.
        if rank < geometry.rank {
            let from = out_block * geometry.coupling.block + rank;
            #[unroll]
            for i in 0..blocks {
                factors[i] = f32::cast_from(coupling[from + i * geometry.coupling.line]);
            }
        }
        let to = half + plane as usize * comptime!(ring.sums());
        stage_turn(&stream, done, base, &mut stage, to, ring);
        done += stream.steps;

        let column = if comptime!(blueprint.split_ranks) {
            rank / part * part_stride + rank % part
        } else {
            rank
        };
        if rank < geometry.rank {
            let mut token = UNIT_POS as usize / pairs;
            while token < geometry.tokens {
                let mut sum = 0.0f32;
                #[unroll]
                for i in 0..blocks {
                    let from = half + comptime!(i * splits * ring.sums()) + token * lines + inside;
                    sum += factors[i] * staged_sum(&stage, from, splits, ring);
                }
                let at = out_block * geometry.out.block + token * geometry.out.line + column;
                out[at] = T::cast_from(sum);
                token += parts;
            }
        }
        half = comptime!(blueprint.staged()) - half;
        turn += 1;
    }
}
