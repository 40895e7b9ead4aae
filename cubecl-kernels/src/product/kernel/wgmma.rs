//! Tiles by the tensor cores of compute capability 9.0: panels arrive through tensor maps, products
//! run asynchronously on shared memory, and the cubes stay for all tiles.

use cubecl::prelude::barrier::Barrier;
use cubecl::prelude::*;

use super::geometry::Geometry;
use super::group_store::{Place, finish, store_copied, store_mapped};
use crate::product::wgmma_plan::{DEPTH, GROUP_ROWS, ROWS, WgmmaBlueprint};
use crate::ptx::{descriptor, multiply_group, shared_address, written_address};
use crate::ring::{Ring, init_barriers};

/// Sums tiles of `C`, in `f32`.
///
/// Two groups of four planes multiply 64 rows each; the ninth plane fills the stages, also those of
/// the next tile while the groups store the current one. With a tensor map of `C`, what is stored
/// leaves shared memory while the groups multiply the next tile.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn wgmma_product<T: Float, N: Size>(
    lhs: &TensorMap<T, Tiled>,
    rhs: &TensorMap<T, Tiled>,
    bias: ComptimeOption<&[T]>,
    merged: ComptimeOption<&[T]>,
    mapped: ComptimeOption<TensorMap<T, Tiled>>,
    out: &mut [T],
    geometry: Geometry,
    #[comptime] blueprint: WgmmaBlueprint,
    #[define(T)] _dtype: ElemType,
) {
    let stages = comptime!(blueprint.stages);
    let lhs_elements = comptime!(ROWS * DEPTH);
    let rhs_elements = comptime!(blueprint.columns * DEPTH);
    let mut lhs_memory =
        Shared::<[T]>::new_aligned_slice(comptime!(stages * lhs_elements), 1024usize);
    let mut rhs_memory =
        Shared::<[T]>::new_aligned_slice(comptime!(stages * rhs_elements), 1024usize);
    let staged =
        Shared::<[T]>::new_aligned_slice(comptime!(blueprint.staged_elements()), 1024usize);
    let full: Shared<[Barrier]> = Shared::new_slice(stages);
    let empty: Shared<[Barrier]> = Shared::new_slice(stages);
    // One arrival for each plane that reads the stage.
    init_barriers(&full, &empty, stages, 8u32);
    sync_async_proxy_shared();
    sync_cube();

    let plane = plane_broadcast(UNIT_POS / 32, 0u32);
    let position = UNIT_POS % 32;
    let steps = (geometry.depth as u32).div_ceil(comptime!(DEPTH as u32));
    let row_tiles = (geometry.rows as u32).div_ceil(comptime!(ROWS as u32));
    let column_tiles = (geometry.columns as u32).div_ceil(comptime!(blueprint.columns as u32));
    let tiles = row_tiles * column_tiles * geometry.batches as u32;
    let mut tile = CUBE_POS as u32;
    let mut ring = Ring::start();

    if plane == 8 {
        if position == 0 {
            while tile < tiles {
                let (batch, row, column) = place(
                    tile,
                    geometry.batches as u32,
                    row_tiles,
                    column_tiles,
                    blueprint,
                );
                fill::<T>(
                    lhs,
                    rhs,
                    &mut lhs_memory,
                    &mut rhs_memory,
                    &full,
                    &empty,
                    &mut ring,
                    (batch, row, column),
                    (0u32.runtime(), steps),
                    blueprint,
                );
                tile += CUBE_COUNT as u32;
            }
        }
    } else {
        let group = plane / 4;
        let lhs_address = shared_address::<T>(lhs_memory.as_slice());
        let rhs_address = shared_address::<T>(rhs_memory.as_slice());
        let out_address = written_address::<T>(out);
        while tile < tiles {
            let (batch, first_row, column) = place(
                tile,
                geometry.batches as u32,
                row_tiles,
                column_tiles,
                blueprint,
            );
            let row = first_row + group * comptime!(GROUP_ROWS as u32);
            let place = Place {
                batch: batch as usize,
                row: row as usize,
                column: column as usize,
            };
            let sums = sum_tile::<N>(
                lhs_address,
                rhs_address,
                &full,
                &empty,
                &mut ring,
                group,
                steps,
                blueprint,
            );
            let words = finish::<T, N>(sums, &bias, merged, &geometry, place, blueprint);
            #[comptime]
            match mapped {
                ComptimeOption::Some(map) => {
                    store_mapped::<T>(&words, map, &geometry, &staged, group, place, blueprint)
                }
                ComptimeOption::None => store_copied::<T>(
                    &words,
                    out_address,
                    &geometry,
                    &staged,
                    group,
                    place,
                    blueprint,
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

/// Starts the loads of some steps of a tile, by one unit, as stages become empty.
#[cube]
#[expect(
    clippy::too_many_arguments,
    reason = "both operands and their stages, and which part of them"
)]
pub(crate) fn fill<T: Float>(
    lhs: &TensorMap<T, Tiled>,
    rhs: &TensorMap<T, Tiled>,
    lhs_memory: &mut Shared<[T]>,
    rhs_memory: &mut Shared<[T]>,
    full: &Shared<[Barrier]>,
    empty: &Shared<[Barrier]>,
    ring: &mut Ring,
    tile: (u32, u32, u32),
    steps: (u32, u32),
    #[comptime] blueprint: WgmmaBlueprint,
) {
    let lhs_elements = comptime!(ROWS * DEPTH);
    let rhs_elements = comptime!(blueprint.columns * DEPTH);
    let bytes = comptime!((2 * (lhs_elements + rhs_elements)) as u32);
    let (batch, row, column) = tile;
    for step in steps.0..steps.1 {
        let filled = &full[ring.stage as usize];
        empty[ring.stage as usize].wait_parity(ring.phase ^ 1);
        filled.arrive_and_expect_tx(1u32, bytes);
        let depth = step * comptime!(DEPTH as u32);
        let first = ring.stage as usize * lhs_elements;
        filled.tma_load_3d(
            lhs,
            &mut lhs_memory[first..first + lhs_elements],
            batch as i32,
            row as i32,
            depth as i32,
        );
        let first = ring.stage as usize * rhs_elements;
        filled.tma_load_3d(
            rhs,
            &mut rhs_memory[first..first + rhs_elements],
            batch as i32,
            column as i32,
            depth as i32,
        );
        ring.advance(blueprint.stages);
    }
}

/// The sums of a group's rows of a tile over so many steps, as the stages are filled.
#[cube]
#[expect(
    clippy::too_many_arguments,
    reason = "the stages of both operands, and which part of them"
)]
pub(crate) fn sum_tile<N: Size>(
    lhs: u32,
    rhs: u32,
    full: &Shared<[Barrier]>,
    empty: &Shared<[Barrier]>,
    ring: &mut Ring,
    group: u32,
    steps: u32,
    #[comptime] blueprint: WgmmaBlueprint,
) -> Vector<f32, N> {
    let lhs = lhs + group * comptime!((GROUP_ROWS * DEPTH * 2) as u32);
    let position = UNIT_POS % 32;
    let mut sums = Vector::<f32, N>::new(0.0f32);
    for _ in 0..steps {
        full[ring.stage as usize].wait_parity(ring.phase);
        let left = descriptor(lhs + ring.stage * comptime!((ROWS * DEPTH * 2) as u32));
        let right =
            descriptor(rhs + ring.stage * comptime!((blueprint.columns * DEPTH * 2) as u32));
        sums = multiply_group::<N>(sums, left, right, blueprint.columns, blueprint.element);
        if position == 0 {
            empty[ring.stage as usize].arrive();
        }
        ring.advance(blueprint.stages);
    }
    sums
}

/// Batch, first row and first column of a tile.
#[cube]
pub(crate) fn place(
    tile: u32,
    batches: u32,
    row_tiles: u32,
    column_tiles: u32,
    #[comptime] blueprint: WgmmaBlueprint,
) -> (u32, u32, u32) {
    if comptime!(blueprint.rows_outermost) {
        let inside = tile % (column_tiles * batches);
        (
            inside / column_tiles,
            (tile / (column_tiles * batches)) * comptime!(ROWS as u32),
            (inside % column_tiles) * comptime!(blueprint.columns as u32),
        )
    } else {
        let inside = tile % (row_tiles * column_tiles);
        (
            tile / (row_tiles * column_tiles),
            (inside % row_tiles) * comptime!(ROWS as u32),
            (inside / row_tiles) * comptime!(blueprint.columns as u32),
        )
    }
}
