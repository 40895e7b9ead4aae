//! Tiles by the tensor cores of compute capability 9.0, the depth of each shared by a cluster of cubes: for few
//! tiles of great depth, which would leave multiprocessors idle.

use cubecl::prelude::barrier::Barrier;
use cubecl::prelude::*;

use super::epilogue::{bias_pair, merge};
use super::geometry::{Geometry, out_offset};
use super::wgmma::{fill, place, sum_tile};
use crate::activation::activate_approximately;
use crate::product::wgmma_plan::{DEPTH, ROWS, STORED, WgmmaBlueprint};
use crate::ptx::{
    Quad, address_in_cluster, arrive_at_cluster, load_shared_quad, pack, shared_address,
    store_global, store_pair_in_cluster, sync_cluster, wait_for_cluster, written_address,
};
use crate::ring::{Ring, init_barriers};

/// Sums a tile of `C` per cluster, in `f32`: every cube some steps of the depth. Each hands the sums of some rows of
/// the tile to each, which adds and finishes them.
#[cube(launch_unchecked, address_type = "dynamic", cluster_dim = CubeDim::new_3d(blueprint.shares as u32, 1, 1))]
pub(crate) fn wgmma_shared_depth<T: Float, N: Size>(
    lhs: &TensorMap<T, Tiled>,
    rhs: &TensorMap<T, Tiled>,
    bias: ComptimeOption<&[T]>,
    merged: ComptimeOption<&[T]>,
    out: &mut [T],
    geometry: Geometry,
    #[comptime] blueprint: WgmmaBlueprint,
    #[define(T)] _dtype: ElemType,
) {
    let (stages, shares) = comptime!((blueprint.stages, blueprint.shares as u32));
    let mut lhs_memory =
        Shared::<[T]>::new_aligned_slice(comptime!(stages * ROWS * DEPTH), 1024usize);
    let mut rhs_memory =
        Shared::<[T]>::new_aligned_slice(comptime!(stages * blueprint.columns * DEPTH), 1024usize);
    let handed = Shared::<[f32]>::new_aligned_slice(comptime!(blueprint.handed_sums()), 16usize);
    let full: Shared<[Barrier]> = Shared::new_slice(stages);
    let empty: Shared<[Barrier]> = Shared::new_slice(stages);
    // One arrival for each plane that reads the stage.
    init_barriers(&full, &empty, stages, 8u32);
    sync_async_proxy_shared();
    sync_cube();
    arrive_at_cluster();

    let plane = plane_broadcast(UNIT_POS / 32, 0u32);
    let all_steps = (geometry.depth as u32).div_ceil(comptime!(DEPTH as u32));
    let row_tiles = (geometry.rows as u32).div_ceil(comptime!(ROWS as u32));
    let column_tiles = (geometry.columns as u32).div_ceil(comptime!(blueprint.columns as u32));
    let position = UNIT_POS % 32;
    let share = CUBE_POS_X % shares;
    let first = share * all_steps / shares;
    let end = (share + 1) * all_steps / shares;
    let (batch, row, column) = place(
        CUBE_POS_X / shares,
        geometry.batches as u32,
        row_tiles,
        column_tiles,
        blueprint,
    );
    let handed = shared_address::<f32>(handed.as_slice());
    let mut ring = Ring::start();
    if plane == 8 {
        if position == 0 {
            fill::<T>(
                lhs,
                rhs,
                &mut lhs_memory,
                &mut rhs_memory,
                &full,
                &empty,
                &mut ring,
                (batch, row, column),
                (first, end),
                blueprint,
            );
        }
        wait_for_cluster();
    } else {
        let sums = sum_tile::<N>(
            shared_address::<T>(lhs_memory.as_slice()),
            shared_address::<T>(rhs_memory.as_slice()),
            &full,
            &empty,
            &mut ring,
            plane / 4,
            end - first,
            blueprint,
        );
        // All cubes have started, so their shared memory is theirs.
        wait_for_cluster();
        hand_over::<N>(sums, handed, plane, share, blueprint);
    }
    sync_cluster();
    if plane < 8 {
        let address = written_address::<T>(out);
        finish_rows::<T>(
            handed,
            address,
            bias,
            merged,
            &geometry,
            share,
            (batch, row, column),
            blueprint,
        );
    }
}

/// Writes a unit's sums to the cube that finishes their rows.
#[cube]
fn hand_over<N: Size>(
    sums: Vector<f32, N>,
    handed: u32,
    plane: u32,
    share: u32,
    #[comptime] blueprint: WgmmaBlueprint,
) {
    let lane = UNIT_POS % 32;
    let pitch = comptime!(blueprint.sums_pitch() as u32);
    let rows = comptime!((ROWS / blueprint.shares) as u32);
    let row = plane * 16 + lane / 4;
    let to = handed + (share * rows + row % rows) * pitch + (lane % 4) * 8;
    let to = address_in_cluster(to, row / rows);
    #[unroll]
    for octet in 0..comptime!(blueprint.columns / 8) {
        #[unroll]
        for half in 0..2usize {
            let index = comptime!(4 * octet + 2 * half);
            let place = to + comptime!(8 * half as u32) * pitch + comptime!(32 * octet as u32);
            store_pair_in_cluster(
                place,
                sums.extract(index),
                sums.extract(comptime!(index + 1)),
            );
        }
    }
}

/// Adds what all cubes have handed over, and stores it, some neighbouring outputs of a row per unit.
#[cube]
fn finish_rows<T: Float>(
    handed: u32,
    address: u64,
    bias: ComptimeOption<&[T]>,
    merged: ComptimeOption<&[T]>,
    geometry: &Geometry,
    share: u32,
    tile: (u32, u32, u32),
    #[comptime] blueprint: WgmmaBlueprint,
) {
    let shares = comptime!(blueprint.shares as u32);
    let rows = comptime!((ROWS / blueprint.shares) as u32);
    let pieces = comptime!((blueprint.columns / STORED) as u32);
    let units = comptime!(2 * 128u32);
    let finish = comptime!(blueprint.finish);
    let (batch, first_row, first_column) = tile;
    let batch = batch as usize;
    #[unroll]
    for i in 0..comptime!((rows * pieces).div_ceil(units)) {
        let item = UNIT_POS + comptime!(i * units);
        let line = item / pieces;
        let piece = item % pieces;
        let row = (first_row + share * rows + line) as usize;
        let column = (first_column + piece * comptime!(STORED as u32)) as usize;
        if item < comptime!(rows * pieces) && row < geometry.rows && column < geometry.columns {
            let pitch = comptime!(blueprint.sums_pitch() as u32);
            let from = handed + line * pitch + piece * comptime!(4 * STORED as u32);
            let mut low = Quad::<f32>::new(0.0f32);
            let mut high = Quad::<f32>::new(0.0f32);
            #[unroll]
            for other in 0..shares {
                let from = from + other * rows * pitch;
                low += Quad::<f32>::reinterpret(load_shared_quad(from));
                high += Quad::<f32>::reinterpret(load_shared_quad(from + 16));
            }
            let mut words = Quad::<u32>::new(0u32);
            #[unroll]
            for pair in 0..comptime!(STORED / 2) {
                let at = column + comptime!(2 * pair);
                let (low_bias, high_bias) = bias_pair::<T>(&bias, geometry, batch, at);
                let quad = if comptime!(pair < 2) { low } else { high };
                let first = quad.extract(comptime!(2 * (pair % 2))) + low_bias;
                let second = quad.extract(comptime!(2 * (pair % 2) + 1)) + high_bias;
                let first = activate_approximately(first, finish.activation);
                let second = activate_approximately(second, finish.activation);
                let first = merge::<T>(first, &merged, geometry, batch, row, at, finish);
                let second = merge::<T>(second, &merged, geometry, batch, row, at + 1, finish);
                words.insert(pair, pack(first, second, blueprint.element));
            }
            let offset = out_offset(geometry, batch, row, column, blueprint.split);
            store_global(address + offset as u64 * 2, words, comptime!(2 * STORED));
        }
    }
}
