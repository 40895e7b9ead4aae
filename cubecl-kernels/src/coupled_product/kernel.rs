//! All blocks of `Y` for some tokens and ranks in shared memory, coupled there.

use cubecl::prelude::*;

use super::geometry::{BlockStrides, CoupledGeometry};
use super::plan::CoupledBlueprint;
use super::tile::{chunk, couple_tile, first_rank, load_couplings, store_coupled};
use crate::mma::accumulate::{STEPS, clear, fragments, load, multiply};
use crate::mma::panel::{Side, Source, cursor, lane, next_operand, start_copies};
use crate::ptx::{
    Quad, commit_copies, global_address, pack, shared_address, store_shared, sync_some,
    wait_copies, written_address,
};

/// Couples the products of all blocks for one tile of tokens and ranks per cube, in `f32`; `Y` is
/// rounded to the element type in between.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn coupled_product<T: Float>(
    lhs: &[T],
    rhs: &[T],
    coupling: &[T],
    out: &mut [T],
    geometry: CoupledGeometry,
    #[comptime] blueprint: CoupledBlueprint,
    #[define(T)] _dtype: ElemType,
) {
    let tile = comptime!(blueprint.tile);
    let row = CUBE_POS_Y * comptime!(tile.rows as u32);
    let column = CUBE_POS_X * comptime!(tile.columns as u32);
    let memory =
        Shared::<[u32]>::new_aligned_slice(comptime!(blueprint.shared_bytes() / 4), 1024usize);
    let inner = shared_address::<u32>(memory.as_slice());

    let mut couplings = Array::<Quad<u32>>::new(8usize);
    load_couplings(
        global_address::<T>(coupling),
        &geometry.coupling,
        geometry.rank,
        column + first_rank(blueprint.couple()),
        &mut couplings,
        blueprint.couple(),
    );
    multiply_blocks::<T>(lhs, rhs, &geometry, inner, row, column, blueprint);
    sync_cube();
    couple_tile::<T>(
        coupling,
        &geometry.coupling,
        geometry.rank,
        inner,
        column,
        &mut couplings,
        blueprint.couple(),
    );
    sync_cube();
    let address = written_address::<T>(out);
    store_coupled(
        address,
        &geometry.out,
        geometry.tokens,
        geometry.rank,
        inner,
        row,
        column,
        blueprint.couple(),
    );
}

/// Byte address of `block` of an operand, and how to walk it.
#[cube]
fn source(
    address: u64,
    strides: &BlockStrides,
    block: u32,
    lines: usize,
    depth: usize,
    #[comptime] blueprint: CoupledBlueprint,
) -> Source {
    let bytes = comptime!(blueprint.element.bytes() as u64);
    Source {
        address: address + u64::cast_from(block) * (strides.block as u64 * bytes),
        line_stride: strides.line as u64 * bytes,
        depth_stride: strides.depth as u64 * bytes,
        lines: lines as u32,
        depth: depth as u32,
    }
}

/// Fills `inner` with the tile of every block of `Y`.
///
/// Each group of planes computes every `groups`-th block, as one uninterrupted stream of panels.
#[cube]
fn multiply_blocks<T: Float>(
    lhs: &[T],
    rhs: &[T],
    geometry: &CoupledGeometry,
    inner: u32,
    row: u32,
    column: u32,
    #[comptime] blueprint: CoupledBlueprint,
) {
    let tile = comptime!(blueprint.tile);
    let (lhs_panel, rhs_panel) = comptime!((blueprint.lhs, blueprint.rhs));
    let groups = comptime!(tile.groups as u32);
    let group = UNIT_POS / comptime!(tile.group_units() as u32);
    let unit = UNIT_POS % comptime!(tile.group_units() as u32);
    let plane = unit / 32;
    let across = comptime!((tile.columns / tile.plane.columns) as u32);
    let plane_row = (plane / across) * comptime!(tile.plane.rows as u32);
    let plane_column = (plane % across) * comptime!(tile.plane.columns as u32);
    let lhs_lane = lane(plane_row, lhs_panel, Side::Lhs);
    let rhs_lane = lane(plane_column, rhs_panel, Side::Rhs);

    let lhs_address = global_address::<T>(lhs);
    let rhs_address = global_address::<T>(rhs);
    let stage_bytes = comptime!(blueprint.stage_bytes() as u32);
    let rhs_offset = comptime!(lhs_panel.bytes() as u32);
    let base = inner
        + comptime!(blueprint.inner_bytes() as u32)
        + group * comptime!((blueprint.stage_bytes() * tile.stages) as u32);
    let end = base + comptime!(tile.stages as u32) * stage_bytes;

    let blocks = comptime!(blueprint.blocks as u32);
    let steps = (geometry.depth as u32).div_ceil(comptime!(lhs_panel.depth() as u32));
    let mine = (blocks - group).div_ceil(groups);
    let panels = mine * steps;
    let mut lhs_cursor = cursor(
        &source(
            lhs_address,
            &geometry.lhs,
            group,
            geometry.tokens,
            geometry.depth,
            blueprint,
        ),
        unit,
        row,
        0u32.runtime(),
        lhs_panel,
    );
    let mut rhs_cursor = cursor(
        &source(
            rhs_address,
            &geometry.rhs,
            group,
            geometry.rank,
            geometry.depth,
            blueprint,
        ),
        unit,
        column,
        0u32.runtime(),
        rhs_panel,
    );
    let bytes = comptime!(blueprint.element.bytes() as u64);
    let lhs_between = u64::cast_from(groups) * (geometry.lhs.block as u64 * bytes);
    let rhs_between = u64::cast_from(groups) * (geometry.rhs.block as u64 * bytes);
    let mut copied_step = 0u32;
    let mut copied = 0u32;
    let mut filled = base;
    #[unroll]
    for _ in 0..comptime!(tile.stages - 1) {
        if copied < panels {
            start_copies(&mut lhs_cursor, filled, lhs_panel);
            start_copies(&mut rhs_cursor, filled + rhs_offset, rhs_panel);
            copied_step += 1;
            if copied_step == steps {
                copied_step = 0;
                next_operand(&mut lhs_cursor, lhs_between, steps, lhs_panel);
                next_operand(&mut rhs_cursor, rhs_between, steps, rhs_panel);
            }
        }
        copied += 1;
        filled += stage_bytes;
        commit_copies();
    }
    let mut read = base;
    let mut held = fragments(tile.plane);
    let mut sums = Array::<Quad<f32>>::new(comptime!(tile.plane.sums()));
    wait_copies(comptime!(tile.stages - 2));
    sync_some(group + 1, tile.group_units());
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
    let mut block = group;
    while block < blocks {
        clear(&mut sums, tile.plane);
        for _ in 0..steps {
            #[unroll]
            for product in 0..STEPS {
                if comptime!(product + 1 == STEPS) {
                    // Every unit of the group holds the last fragments of this stage: it may be
                    // filled again, and the next one has arrived.
                    wait_copies(comptime!(tile.stages - 2));
                    sync_some(group + 1, tile.group_units());
                    read += stage_bytes;
                    if read == end {
                        read = base;
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
                    if copied < panels {
                        start_copies(&mut lhs_cursor, filled, lhs_panel);
                        start_copies(&mut rhs_cursor, filled + rhs_offset, rhs_panel);
                        copied_step += 1;
                        if copied_step == steps {
                            copied_step = 0;
                            next_operand(&mut lhs_cursor, lhs_between, steps, lhs_panel);
                            next_operand(&mut rhs_cursor, rhs_between, steps, rhs_panel);
                        }
                    }
                    commit_copies();
                    copied += 1;
                    filled += stage_bytes;
                    if filled == end {
                        filled = base;
                    }
                }
                multiply(&held, &mut sums, product, blueprint.element, tile.plane);
            }
        }
        let position = UNIT_POS % 32;
        #[unroll]
        for i in 0..comptime!(tile.plane.row_fragments()) {
            #[unroll]
            for j in 0..comptime!(tile.plane.column_fragments() * 2) {
                let quad = sums[comptime!(tile.plane.sum(i, j / 2, j % 2))];
                let octet = plane_column / 8 + comptime!(j as u32);
                #[unroll]
                for half in 0..2usize {
                    let at = plane_row + position / 4 + comptime!((i * 16 + half * 8) as u32);
                    let word = pack(
                        quad.extract(comptime!(2 * half)),
                        quad.extract(comptime!(2 * half + 1)),
                        blueprint.element,
                    );
                    let to =
                        inner + chunk(block, at, octet, blueprint.couple()) + (position % 4) * 4;
                    store_shared(to, word);
                }
            }
        }
        block += groups;
    }
    wait_copies(0usize);
}
