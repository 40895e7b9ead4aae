//! Tiles by the tensor cores of compute capability 9.0: panels arrive through tensor maps, products
//! run asynchronously on shared memory, and the cubes stay for all tiles.

use cubecl::prelude::barrier::Barrier;
use cubecl::prelude::*;

use super::bias::bias_pair;
use super::geometry::{Geometry, out_offset};
use crate::activation::activate;
use crate::product::wgmma_plan::{CHUNK, CHUNK_PITCH, DEPTH, GROUP_ROWS, ROWS, WgmmaBlueprint};
use crate::ptx::{
    copy_out, descriptor, multiply_group, pack, shared_address, store_shared, sync_some,
    written_address,
};

/// Sums tiles of `C`, in `f32`.
///
/// Two groups of four planes multiply 64 rows each; the ninth plane fills the stages, also those of
/// the next tile while the groups store the current one.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn wgmma_product<T: Float, N: Size>(
    lhs: &TensorMap<T, Tiled>,
    rhs: &TensorMap<T, Tiled>,
    bias: ComptimeOption<&[T]>,
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
        Shared::<[u32]>::new_aligned_slice(comptime!(2 * GROUP_ROWS * CHUNK_PITCH / 4), 128usize);
    let full: Shared<[Barrier]> = Shared::new_slice(stages);
    let empty: Shared<[Barrier]> = Shared::new_slice(stages);
    if UNIT_POS == 0 {
        #[unroll]
        for stage in 0..stages {
            full[stage].init_manual(1u32);
            // One arrival for each plane that reads the stage.
            empty[stage].init_manual(8u32);
        }
    }
    sync_async_proxy_shared();
    sync_cube();

    let plane = plane_broadcast(UNIT_POS / 32, 0u32);
    let position = UNIT_POS % 32;
    let steps = (geometry.depth as u32).div_ceil(comptime!(DEPTH as u32));
    let row_tiles = (geometry.rows as u32).div_ceil(comptime!(ROWS as u32));
    let column_tiles = (geometry.columns as u32).div_ceil(comptime!(blueprint.columns as u32));
    let tiles = row_tiles * column_tiles * geometry.batches as u32;
    let mut tile = CUBE_POS as u32;
    let mut stage = 0u32;
    let mut phase = 0u32;

    if plane == 8 {
        if position == 0 {
            let bytes = comptime!((2 * (lhs_elements + rhs_elements)) as u32);
            while tile < tiles {
                let (batch, row, column) = place(
                    tile,
                    geometry.batches as u32,
                    row_tiles,
                    column_tiles,
                    blueprint,
                );
                for step in 0..steps {
                    let filled = &full[stage as usize];
                    empty[stage as usize].wait_parity(phase ^ 1);
                    filled.arrive_and_expect_tx(1u32, bytes);
                    let depth = step * comptime!(DEPTH as u32);
                    let first = stage as usize * lhs_elements;
                    filled.tma_load_3d(
                        lhs,
                        &mut lhs_memory[first..first + lhs_elements],
                        batch as i32,
                        row as i32,
                        depth as i32,
                    );
                    let first = stage as usize * rhs_elements;
                    filled.tma_load_3d(
                        rhs,
                        &mut rhs_memory[first..first + rhs_elements],
                        batch as i32,
                        column as i32,
                        depth as i32,
                    );
                    stage += 1;
                    if stage == comptime!(stages as u32) {
                        stage = 0;
                        phase ^= 1;
                    }
                }
                tile += CUBE_COUNT as u32;
            }
        }
    } else {
        let group = plane / 4;
        let lhs_address = shared_address::<T>(lhs_memory.as_slice())
            + group * comptime!((GROUP_ROWS * DEPTH * 2) as u32);
        let rhs_address = shared_address::<T>(rhs_memory.as_slice());
        let staged = shared_address::<u32>(staged.as_slice())
            + group * comptime!((GROUP_ROWS * CHUNK_PITCH) as u32);
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
            let mut sums = Vector::<f32, N>::new(0.0f32);
            for _ in 0..steps {
                full[stage as usize].wait_parity(phase);
                let left = descriptor(lhs_address + stage * comptime!((lhs_elements * 2) as u32));
                let right = descriptor(rhs_address + stage * comptime!((rhs_elements * 2) as u32));
                sums = multiply_group::<N>(sums, left, right, blueprint.columns, blueprint.element);
                if position == 0 {
                    empty[stage as usize].arrive();
                }
                stage += 1;
                if stage == comptime!(stages as u32) {
                    stage = 0;
                    phase ^= 1;
                }
            }
            store_group::<T, N>(
                sums,
                &bias,
                out_address,
                &geometry,
                staged,
                group,
                batch as usize,
                row,
                column,
                blueprint,
            );
            tile += CUBE_COUNT as u32;
        }
    }
}

/// Batch, first row and first column of a tile.
#[cube]
fn place(
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

/// Adds the bias, applies the activation and stores the 64 rows of one group, leaving out what lies
/// outside `C`.
#[cube]
#[expect(
    clippy::too_many_arguments,
    reason = "each is one coordinate of the tile"
)]
fn store_group<T: Float, N: Size>(
    sums: Vector<f32, N>,
    bias: &ComptimeOption<&[T]>,
    out: u64,
    geometry: &Geometry,
    staged: u32,
    group: u32,
    batch: usize,
    row: u32,
    column: u32,
    #[comptime] blueprint: WgmmaBlueprint,
) {
    let pitch = comptime!(CHUNK_PITCH as u32);
    let lane = UNIT_POS % 32;
    let unit = UNIT_POS % 128;
    let start = staged + ((unit / 32) * 16 + lane / 4) * pitch + (lane % 4) * 4;
    let width = comptime!((blueprint.out_bytes / 2) as u32);
    let pieces = comptime!((CHUNK * 2 / blueprint.out_bytes) as u32);
    #[unroll]
    for chunk in 0..comptime!(blueprint.columns / CHUNK) {
        let first = column + comptime!((chunk * CHUNK) as u32);
        // The group has read what the last chunk staged.
        sync_some(group + 1, 128usize);
        #[unroll]
        for j in 0..comptime!(CHUNK / 8) {
            let at = (first + comptime!(j as u32 * 8) + (lane % 4) * 2) as usize;
            let (low_bias, high_bias) = bias_pair::<T>(bias, geometry, batch, at);
            #[unroll]
            for half in 0..2usize {
                let index = comptime!((chunk * CHUNK / 8 + j) * 4 + half * 2);
                let low = activate(sums.extract(index) + low_bias, blueprint.activation);
                let high = sums.extract(comptime!(index + 1)) + high_bias;
                let high = activate(high, blueprint.activation);
                let to = start + comptime!(half as u32 * 8) * pitch + comptime!(j as u32 * 16);
                store_shared(to, pack(low, high, blueprint.element));
            }
        }
        sync_some(group + 1, 128usize);
        let mut index = unit;
        while index < comptime!(GROUP_ROWS as u32) * pieces {
            let inside = index / pieces;
            let piece = index % pieces;
            let at_row = (row + inside) as usize;
            let at_column = (first + piece * width) as usize;
            if at_row < geometry.rows && at_column < geometry.columns {
                let from = staged + inside * pitch + piece * comptime!(blueprint.out_bytes as u32);
                let offset = out_offset(geometry, batch, at_row, at_column, blueprint.split);
                let to = out + offset as u64 * 2;
                copy_out(from, to, blueprint.out_bytes);
            }
            index += 128;
        }
    }
}
