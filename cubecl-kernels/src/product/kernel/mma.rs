//! Tiles by tensor cores, panels copied to shared memory several steps ahead.

use cubecl::prelude::*;

use super::epilogue::{bias_pair, merge};
use super::geometry::{Geometry, out_offset};
use crate::activation::activate_approximately;
use crate::mma::accumulate::{PlaneTile, STEPS, clear, fragments, load, multiply};
use crate::mma::panel::{Cursor, Panel, Side, Source, cursor, lane, start_copies};
use crate::product::mma_plan::{MmaBlueprint, MmaTile};
use crate::ptx::{
    MmaElement, Quad, commit_copies, copy_out, global_address, load_shared_quad, pack,
    shared_address, store_shared, store_shared_pair, store_shared_quad, sync_some, wait_copies,
    written_address,
};

/// Sums one tile of `C` per cube, in `f32`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn mma_product<T: Float>(
    lhs: &[T],
    rhs: &[T],
    bias: ComptimeOption<&[T]>,
    merged: ComptimeOption<&[T]>,
    out: &mut [T],
    geometry: Geometry,
    #[comptime] blueprint: MmaBlueprint,
    #[define(T)] _dtype: ElemType,
) {
    let tile = comptime!(blueprint.tile);
    let (lhs_panel, rhs_panel) = comptime!((blueprint.lhs, blueprint.rhs));
    let bytes = comptime!(blueprint.element.bytes() as u64);
    let batch = CUBE_POS_Z as usize;
    let row = CUBE_POS_Y * comptime!(tile.rows as u32);
    let column = CUBE_POS_X * comptime!(tile.columns as u32);

    let lhs_source = Source {
        address: global_address::<T>(lhs) + (batch * geometry.lhs.batch) as u64 * bytes,
        line_stride: geometry.lhs.row as u64 * bytes,
        depth_stride: geometry.lhs.column as u64 * bytes,
        lines: geometry.rows as u32,
        depth: geometry.depth as u32,
    };
    let rhs_source = Source {
        address: global_address::<T>(rhs) + (batch * geometry.rhs.batch) as u64 * bytes,
        line_stride: geometry.rhs.column as u64 * bytes,
        depth_stride: geometry.rhs.row as u64 * bytes,
        lines: geometry.columns as u32,
        depth: geometry.depth as u32,
    };
    let memory =
        Shared::<[u32]>::new_aligned_slice(comptime!(blueprint.shared_bytes() / 4), 1024usize);
    let base = shared_address::<u32>(memory.as_slice());
    let stage_bytes = comptime!(blueprint.stage_bytes() as u32);
    let rhs_offset = comptime!(lhs_panel.bytes() as u32);

    // Groups of planes share the depth: each takes every `groups`-th step, with stages of its own.
    let groups = comptime!(tile.groups as u32);
    let group = UNIT_POS / comptime!(tile.group_units() as u32);
    let unit = UNIT_POS % comptime!(tile.group_units() as u32);
    let mut lhs_cursor = cursor(&lhs_source, unit, row, group, lhs_panel);
    let mut rhs_cursor = cursor(&rhs_source, unit, column, group, rhs_panel);
    let plane = unit / 32;
    let across = comptime!((tile.columns / tile.plane.columns) as u32);
    let plane_row = (plane / across) * comptime!(tile.plane.rows as u32);
    let plane_column = (plane % across) * comptime!(tile.plane.columns as u32);
    let lhs_lane = lane(plane_row, lhs_panel, Side::Lhs);
    let rhs_lane = lane(plane_column, rhs_panel, Side::Rhs);
    let mut sums = Array::<Quad<f32>>::new(comptime!(tile.plane.sums()));
    clear(&mut sums, tile.plane);

    let depth = comptime!(lhs_panel.depth() as u32);
    let all_steps = (geometry.depth as u32).div_ceil(depth);
    let steps = (all_steps + groups - 1 - group) / groups;
    let first_stage = base + group * comptime!(tile.stages as u32) * stage_bytes;
    #[unroll]
    for ahead in 0..comptime!(tile.stages - 1) {
        if comptime!(ahead as u32) < steps {
            let stage = first_stage + comptime!(ahead as u32) * stage_bytes;
            start_copies(&mut lhs_cursor, stage, lhs_panel);
            start_copies(&mut rhs_cursor, stage + rhs_offset, rhs_panel);
        }
        commit_copies();
    }
    let end = first_stage + comptime!(tile.stages as u32) * stage_bytes;
    let mut filled = first_stage + comptime!(tile.stages as u32 - 1) * stage_bytes;
    let mut read = first_stage;
    let mut held = fragments(tile.plane);
    wait_copies(comptime!(tile.stages - 2));
    sync_group(group, tile);
    load(
        &mut held,
        &lhs_lane,
        read,
        &rhs_lane,
        read + rhs_offset,
        0usize,
        lhs_panel,
        rhs_panel,
        tile.plane,
    );
    for step in 0..steps {
        let copies = step + comptime!(tile.stages as u32 - 1) < steps;
        #[unroll]
        for product in 0..STEPS {
            if comptime!(product + 1 == STEPS) {
                // Every unit holds the last fragments of this stage: it may be filled again, and
                // the next one has arrived.
                wait_copies(comptime!(tile.stages - 2));
                sync_group(group, tile);
                read += stage_bytes;
                if read == end {
                    read = first_stage;
                }
            }
            load(
                &mut held,
                &lhs_lane,
                read,
                &rhs_lane,
                read + rhs_offset,
                comptime!((product + 1) % STEPS),
                lhs_panel,
                rhs_panel,
                tile.plane,
            );
            if comptime!(product == 0) {
                copy_if(copies, &mut lhs_cursor, filled, lhs_panel);
            }
            if comptime!(product == 1) {
                copy_if(copies, &mut rhs_cursor, filled + rhs_offset, rhs_panel);
                commit_copies();
                filled += stage_bytes;
                if filled == end {
                    filled = first_stage;
                }
            }
            multiply(&held, &mut sums, product, blueprint.element, tile.plane);
        }
    }
    wait_copies(0usize);
    sync_cube();

    if comptime!(tile.groups > 1) {
        gather_sums(&mut sums, base, group, unit, tile);
        sync_cube();
    }
    if group == 0 {
        stage_sums::<T>(
            &sums,
            bias,
            merged,
            &geometry,
            base,
            plane_row,
            plane_column,
            row,
            column,
            batch,
            blueprint,
        );
    }
    sync_cube();
    let address = written_address::<T>(out);
    store_tile(address, &geometry, base, row, column, batch, blueprint);
}

/// Starts the copies of the next panel, where there is one.
#[cube]
fn copy_if(wanted: bool, cursor: &mut Cursor, stage: u32, #[comptime] panel: Panel) {
    if wanted {
        start_copies(cursor, stage, panel);
    }
}

/// Waits for the units of one group.
#[cube]
fn sync_group(group: u32, #[comptime] tile: MmaTile) {
    if comptime!(tile.groups > 1) {
        sync_some(group + 1, tile.group_units());
    } else {
        sync_cube();
    }
}

/// Adds the sums of all groups to those of the first, through shared memory.
#[cube]
fn gather_sums(
    sums: &mut Array<Quad<f32>>,
    base: u32,
    group: u32,
    unit: u32,
    #[comptime] tile: MmaTile,
) {
    // [group - 1, sum, unit], four values each.
    let between = comptime!((tile.group_units() * 16) as u32);
    let whole = comptime!((tile.plane.sums() * tile.group_units() * 16) as u32);
    if group > 0 {
        let to = base + (group - 1) * whole + unit * 16;
        #[unroll]
        for i in 0..comptime!(tile.plane.sums()) {
            let words = Quad::<u32>::reinterpret(sums[i]);
            store_shared_quad(to + comptime!(i as u32) * between, words);
        }
    }
    sync_cube();
    if group == 0 {
        #[unroll]
        for other in 0..comptime!(tile.groups - 1) {
            let from = base + comptime!(other as u32) * whole + unit * 16;
            #[unroll]
            for i in 0..comptime!(tile.plane.sums()) {
                let words = load_shared_quad(from + comptime!(i as u32) * between);
                sums[i] += Quad::<f32>::reinterpret(words);
            }
        }
    }
}

/// Applies the epilogue and writes the tile to shared memory in the element type of the output.
#[cube]
#[expect(
    clippy::too_many_arguments,
    reason = "each is one coordinate of the tile"
)]
fn stage_sums<T: Float>(
    sums: &Array<Quad<f32>>,
    bias: ComptimeOption<&[T]>,
    merged: ComptimeOption<&[T]>,
    geometry: &Geometry,
    base: u32,
    plane_row: u32,
    plane_column: u32,
    row: u32,
    column: u32,
    batch: usize,
    #[comptime] blueprint: MmaBlueprint,
) {
    let plane: comptime_type!(PlaneTile) = comptime!(blueprint.tile.plane);
    let pitch = comptime!(blueprint.out_pitch() as u32);
    let bytes = comptime!(blueprint.element.bytes() as u32);
    let lane = UNIT_POS % 32;
    let first = plane_column + (lane % 4) * 2;
    let start = base + (plane_row + lane / 4) * pitch + first * bytes;
    #[unroll]
    for j in 0..comptime!(plane.column_fragments() * 2) {
        let at = (column + first + comptime!(j as u32 * 8)) as usize;
        let (low_bias, high_bias) = bias_pair::<T>(&bias, geometry, batch, at);
        #[unroll]
        for i in 0..comptime!(plane.row_fragments()) {
            let quad = sums[comptime!(plane.sum(i, j / 2, j % 2))];
            #[unroll]
            for half in 0..2usize {
                let low = quad.extract(comptime!(2 * half)) + low_bias;
                let high = quad.extract(comptime!(2 * half + 1)) + high_bias;
                let rows = comptime!((i * 16 + half * 8) as u32);
                let at_row = (row + plane_row + lane / 4 + rows) as usize;
                let finish = comptime!(blueprint.finish);
                let low = activate_approximately(low, finish.activation);
                let high = activate_approximately(high, finish.activation);
                let low = merge::<T>(low, &merged, geometry, batch, at_row, at, finish);
                let high = merge::<T>(high, &merged, geometry, batch, at_row, at + 1, finish);
                let address = start + rows * pitch + comptime!(j as u32 * 8) * bytes;
                if comptime!(blueprint.element == MmaElement::Tf32) {
                    store_shared_pair(address, u32::reinterpret(low), u32::reinterpret(high));
                } else {
                    store_shared(address, pack(low, high, blueprint.element));
                }
            }
        }
    }
}

/// Copies the tile from shared memory to `C`, leaving out what lies outside.
#[cube]
fn store_tile(
    address: u64,
    geometry: &Geometry,
    base: u32,
    row: u32,
    column: u32,
    batch: usize,
    #[comptime] blueprint: MmaBlueprint,
) {
    let tile = comptime!(blueprint.tile);
    let bytes = comptime!(blueprint.element.bytes());
    let width = comptime!((blueprint.out_bytes / bytes) as u32);
    let pieces = comptime!((tile.columns * bytes / blueprint.out_bytes) as u32);
    let total = comptime!(tile.rows as u32) * pieces;
    let mut index = UNIT_POS;
    while index < total {
        let inside = index / pieces;
        let piece = index % pieces;
        let at_row = (row + inside) as usize;
        let at_column = (column + piece * width) as usize;
        if at_row < geometry.rows && at_column < geometry.columns {
            let from = base
                + inside * comptime!(blueprint.out_pitch() as u32)
                + piece * comptime!(blueprint.out_bytes as u32);
            let offset = out_offset(geometry, batch, at_row, at_column, blueprint.split);
            let to = address + offset as u64 * comptime!(bytes as u64);
            copy_out(from, to, blueprint.out_bytes);
        }
        index += comptime!(tile.units() as u32);
    }
}
