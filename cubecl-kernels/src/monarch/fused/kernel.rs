//! The kernel, for tensor cores of compute capability 9.0.

use cubecl::prelude::barrier::Barrier;
use cubecl::prelude::*;

use super::plan::FusedBlueprint;
use crate::product::kernel::geometry::Geometry;
use crate::product::kernel::group_store::{Place, finish, store_copied, store_mapped};
use crate::product::kernel::wgmma::place;
use crate::product::wgmma_plan::{DEPTH, GROUP_ROWS, ROWS};
use crate::ptx::{
    MmaElement, PANEL_STEPS, descriptor, give_registers, multiply_group, multiply_held, pack,
    shared_address, take_registers, written_address,
};
use crate::ring::{Ring, init_barriers};

/// Registers of a unit after the groups have shared them out: 65536 are fewer than 384 times 171.
const PRODUCER_REGISTERS: usize = 40;
const CONSUMER_REGISTERS: usize = 232;

/// Sums tiles of the output, in `f32`; `Z` is rounded as it would be in memory.
///
/// `geometry` is that of the second product, whose blocks are as many as those of the input for each
/// layer. Two groups of four planes take 64 tokens each; a
/// unit of the third fills two rings of stages: panels of the input and of the right factor, and
/// panels of the left factor.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn fused_monarch<T: Float, N: Size, P: Size, W: Size>(
    input: &TensorMap<T, Tiled>,
    right: &TensorMap<T, Tiled>,
    left: &TensorMap<T, Tiled>,
    bias: ComptimeOption<&[T]>,
    merged: ComptimeOption<&[T]>,
    mapped: ComptimeOption<TensorMap<T, Tiled>>,
    out: &mut [T],
    geometry: Geometry,
    inner_blocks: u32,
    inner_depth: u32,
    #[comptime] blueprint: FusedBlueprint,
    #[define(T)] _dtype: ElemType,
) {
    let tile_of = comptime!(blueprint.output);
    let (part, columns) = comptime!((blueprint.part, tile_of.columns));
    let (inner_stages, left_stages) = comptime!((blueprint.inner_stages, tile_of.stages));
    let input_elements = comptime!(ROWS * DEPTH);
    let right_elements = comptime!(part * DEPTH);
    let left_elements = comptime!(columns * DEPTH);
    let mut input_memory =
        Shared::<[T]>::new_aligned_slice(comptime!(inner_stages * input_elements), 1024usize);
    let mut right_memory =
        Shared::<[T]>::new_aligned_slice(comptime!(inner_stages * right_elements), 1024usize);
    let mut left_memory =
        Shared::<[T]>::new_aligned_slice(comptime!(left_stages * left_elements), 1024usize);
    let staged = Shared::<[T]>::new_aligned_slice(comptime!(tile_of.staged_elements()), 1024usize);
    let inner_full: Shared<[Barrier]> = Shared::new_slice(inner_stages);
    let inner_empty: Shared<[Barrier]> = Shared::new_slice(inner_stages);
    let left_full: Shared<[Barrier]> = Shared::new_slice(left_stages);
    let left_empty: Shared<[Barrier]> = Shared::new_slice(left_stages);
    // One arrival for each plane that reads the stage.
    init_barriers(&inner_full, &inner_empty, inner_stages, 8u32);
    init_barriers(&left_full, &left_empty, left_stages, 8u32);
    sync_async_proxy_shared();
    sync_cube();

    let plane = plane_broadcast(UNIT_POS / 32, 0u32);
    let position = UNIT_POS % 32;
    let blocks = geometry.batches as u32;
    let inner_steps = inner_depth.div_ceil(comptime!(DEPTH as u32));
    let row_tiles = (geometry.rows as u32).div_ceil(comptime!(ROWS as u32));
    let column_tiles = (geometry.columns as u32).div_ceil(comptime!(columns as u32));
    let tiles = row_tiles * column_tiles * blocks;
    let mut tile = CUBE_POS as u32;
    let mut inner = Ring::start();
    let mut outer = Ring::start();

    if plane >= 8 {
        if comptime!(blueprint.shares_registers()) {
            give_registers(PRODUCER_REGISTERS);
        }
        if UNIT_POS == 256 {
            let inner_bytes = comptime!((2 * (input_elements + right_elements)) as u32);
            let left_bytes = comptime!((2 * left_elements) as u32);
            while tile < tiles {
                let (block, row, column) = place(tile, blocks, row_tiles, column_tiles, tile_of);
                let mut loaded = 0u32.runtime();
                for other in 0..inner_blocks {
                    for step in 0..inner_steps {
                        let depth = step * comptime!(DEPTH as u32);
                        let filled = &inner_full[inner.stage as usize];
                        inner_empty[inner.stage as usize].wait_parity(inner.phase ^ 1);
                        filled.arrive_and_expect_tx(1u32, inner_bytes);
                        let first = inner.stage as usize * input_elements;
                        filled.tma_load_3d(
                            input,
                            &mut input_memory[first..first + input_elements],
                            other as i32,
                            row as i32,
                            depth as i32,
                        );
                        let first = inner.stage as usize * right_elements;
                        filled.tma_load_3d(
                            right,
                            &mut right_memory[first..first + right_elements],
                            other as i32,
                            (block * comptime!(part as u32)) as i32,
                            depth as i32,
                        );
                        inner.advance(inner_stages);
                    }
                    // Every panel of the left factor that this part begins in.
                    while loaded < (other + 1) * comptime!(part as u32) {
                        let filled = &left_full[outer.stage as usize];
                        left_empty[outer.stage as usize].wait_parity(outer.phase ^ 1);
                        filled.arrive_and_expect_tx(1u32, left_bytes);
                        let first = outer.stage as usize * left_elements;
                        filled.tma_load_3d(
                            left,
                            &mut left_memory[first..first + left_elements],
                            block as i32,
                            column as i32,
                            loaded as i32,
                        );
                        outer.advance(left_stages);
                        loaded += comptime!(DEPTH as u32);
                    }
                }
                tile += CUBE_COUNT as u32;
            }
        }
    } else {
        if comptime!(blueprint.shares_registers()) {
            take_registers(CONSUMER_REGISTERS);
        }
        let group = plane / 4;
        let input_address = shared_address::<T>(input_memory.as_slice())
            + group * comptime!((GROUP_ROWS * DEPTH * 2) as u32);
        let right_address = shared_address::<T>(right_memory.as_slice());
        let left_address = shared_address::<T>(left_memory.as_slice());
        let out_address = written_address::<T>(out);
        let element = comptime!(tile_of.element);
        let steps = comptime!(blueprint.part_steps());
        while tile < tiles {
            let (block, first_row, column) = place(tile, blocks, row_tiles, column_tiles, tile_of);
            let row = first_row + group * comptime!(GROUP_ROWS as u32);
            let place = Place {
                batch: block as usize,
                row: row as usize,
                column: column as usize,
            };
            let mut sums = Vector::<f32, N>::new(0.0f32);
            for _ in 0..inner_blocks / comptime!(blueprint.turns() as u32) {
                // Panels of the left factor begin anew with the first turn.
                #[unroll]
                for turn in 0..comptime!(blueprint.turns()) {
                    let mut scores = Vector::<f32, P>::new(0.0f32);
                    for _ in 0..inner_steps {
                        inner_full[inner.stage as usize].wait_parity(inner.phase);
                        let from =
                            input_address + inner.stage * comptime!((input_elements * 2) as u32);
                        let with =
                            right_address + inner.stage * comptime!((right_elements * 2) as u32);
                        let (from, with) = (descriptor(from), descriptor(with));
                        scores = multiply_group::<P>(scores, from, with, part, element);
                        if position == 0 {
                            inner_empty[inner.stage as usize].arrive();
                        }
                        inner.advance(inner_stages);
                    }
                    let held = hold::<P, W>(scores, part, element);
                    let first = comptime!(blueprint.first_step(turn));
                    let following = outer.following(left_stages);
                    if comptime!(first == 0) {
                        left_full[outer.stage as usize].wait_parity(outer.phase);
                    }
                    if comptime!(first + steps > PANEL_STEPS) {
                        left_full[following.stage as usize].wait_parity(following.phase);
                    }
                    let panel_bytes = comptime!((left_elements * 2) as u32);
                    let begin = descriptor(left_address + outer.stage * panel_bytes);
                    let end = descriptor(left_address + following.stage * panel_bytes);
                    sums = multiply_held::<N, W>(
                        sums, held, begin, end, columns, first, steps, element,
                    );
                    #[unroll]
                    for _ in 0..comptime!((first + steps) / PANEL_STEPS) {
                        if position == 0 {
                            left_empty[outer.stage as usize].arrive();
                        }
                        outer.advance(left_stages);
                    }
                }
            }
            let words = finish::<T, N>(sums, &bias, merged, &geometry, place, tile_of);
            #[comptime]
            match mapped {
                ComptimeOption::Some(map) => {
                    store_mapped::<T>(&words, map, &geometry, &staged, group, place, tile_of)
                }
                ComptimeOption::None => store_copied::<T>(
                    &words,
                    out_address,
                    &geometry,
                    &staged,
                    group,
                    place,
                    tile_of,
                ),
            }
            tile += CUBE_COUNT as u32;
        }
        if comptime!(mapped.is_some()) {
            // Shared memory has to stay until the last of it is read.
            tma_group_wait_read(0usize);
        }
    }
}

/// The sums of a group as the left operand of its next product.
#[cube]
fn hold<P: Size, W: Size>(
    sums: Vector<f32, P>,
    #[comptime] columns: usize,
    #[comptime] element: MmaElement,
) -> Vector<u32, W> {
    let mut words = Vector::<u32, W>::new(0u32);
    #[unroll]
    for i in 0..comptime!(columns / 4) {
        let low = sums.extract(comptime!(2 * i));
        let high = sums.extract(comptime!(2 * i + 1));
        words.insert(i, pack(low, high, element));
    }
    words
}
