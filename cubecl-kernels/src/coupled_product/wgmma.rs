//! All blocks of `Y` for some tokens and ranks in shared memory, coupled there, by the tensor cores of
//! compute capability 9.0.

use cubecl::prelude::barrier::Barrier;
use cubecl::prelude::*;

use super::geometry::CoupledGeometry;
use super::tile::{chunk, couple_octet, left_operands, load_staged_couplings};
use super::wgmma_plan::{COLUMNS, CoupledWgmmaBlueprint, GROUPS, MULTIPLYING};
use crate::product::wgmma_plan::DEPTH;
use crate::ptx::{
    Quad, descriptor, multiply_group, pack, shared_address, store_matrices_transposed, sync_some,
};
use crate::ring::{Ring, init_barriers};

/// Couples the products of all blocks for one tile of tokens and ranks after another, in `f32`; `Y` is
/// rounded to the element type in between.
///
/// Products are those of the transposed tile: ranks are rows of the tensor cores' tiles, of which there
/// are always 64, and tokens columns, of which there are fewer where shared memory ends.
///
/// Two groups of four planes multiply every other block each; for each, a unit of its own plane fills
/// stages, also those of the next tile while the groups couple the current one. What is coupled leaves
/// shared memory while the groups multiply the next tile.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn coupled_wgmma<T: Float, N: Size>(
    lhs: &TensorMap<T, Tiled>,
    rhs: &TensorMap<T, Tiled>,
    coupling: &TensorMap<T, Tiled>,
    out: &mut TensorMap<T, Tiled>,
    geometry: CoupledGeometry,
    #[comptime] blueprint: CoupledWgmmaBlueprint,
    #[define(T)] _dtype: ElemType,
) {
    let stages = comptime!(blueprint.stages);
    let couple = comptime!(blueprint.couple());
    let rows = comptime!(blueprint.rows);
    let (lhs_elements, rhs_elements) = comptime!((rows * DEPTH, COLUMNS * DEPTH));
    let inner = Shared::<[T]>::new_aligned_slice(comptime!(couple.shared_bytes() / 2), 1024usize);
    let mut lhs_memory =
        Shared::<[T]>::new_aligned_slice(comptime!(stages * lhs_elements), 1024usize);
    let mut rhs_memory =
        Shared::<[T]>::new_aligned_slice(comptime!(stages * rhs_elements), 1024usize);
    let full: Shared<[Barrier]> = Shared::new_slice(stages);
    let empty: Shared<[Barrier]> = Shared::new_slice(stages);
    // One arrival for each plane that multiplies, or two for each of the group that reads alone.
    init_barriers(&full, &empty, stages, 8u32);
    sync_async_proxy_shared();
    sync_cube();

    let plane = plane_broadcast(UNIT_POS / 32, 0u32);
    let position = UNIT_POS % 32;
    let blocks = comptime!(blueprint.blocks as u32);
    let steps = (geometry.depth as u32).div_ceil(comptime!(DEPTH as u32));
    // Ranks vary fastest: with many tokens the input is read from memory once.
    let column_tiles = (geometry.rank as u32).div_ceil(comptime!(COLUMNS as u32));
    let tiles = column_tiles * (geometry.tokens as u32).div_ceil(comptime!(rows as u32));
    let mut tile = CUBE_POS as u32;
    // Each group has stages of its own: with those of a block left over, it would else read what the
    // other group had not seen filled before.
    let per_group = comptime!(stages as u32 / GROUPS);
    let mut ring = Ring::start();
    // Couplings of the tile's ranks follow its panels, in pieces by turns.
    let (piece, pieces) = comptime!((blueprint.piece() as u32, blueprint.pieces() as u32));

    if plane >= comptime!(MULTIPLYING as u32 / 32) {
        if position == 0 {
            let group = plane - comptime!(MULTIPLYING as u32 / 32);
            let bytes = comptime!((2 * (lhs_elements + rhs_elements)) as u32);
            while tile < tiles {
                let row = (tile / column_tiles) * comptime!(rows as u32);
                let column = (tile % column_tiles) * comptime!(COLUMNS as u32);
                let mut block = group;
                while block < blocks {
                    for step in 0..steps {
                        let at = (group * per_group + ring.stage) as usize;
                        let filled = &full[at];
                        empty[at].wait_parity(ring.phase ^ 1);
                        filled.arrive_and_expect_tx(1u32, bytes);
                        let depth = step * comptime!(DEPTH as u32);
                        let first = at * lhs_elements;
                        filled.tma_load_3d(
                            lhs,
                            &mut lhs_memory[first..first + lhs_elements],
                            block as i32,
                            row as i32,
                            depth as i32,
                        );
                        let first = at * rhs_elements;
                        filled.tma_load_3d(
                            rhs,
                            &mut rhs_memory[first..first + rhs_elements],
                            block as i32,
                            column as i32,
                            depth as i32,
                        );
                        ring.advance(comptime!(per_group as usize));
                    }
                    block += GROUPS;
                }
                let mut at = group;
                while at < pieces {
                    let slot = (group * per_group + ring.stage) as usize;
                    let filled = &full[slot];
                    empty[slot].wait_parity(ring.phase ^ 1);
                    filled.arrive_and_expect_tx(1u32, comptime!(piece * blocks * 128));
                    let first = slot * rhs_elements;
                    let last = first + comptime!((piece * blocks) as usize * DEPTH);
                    filled.tma_load_3d(
                        coupling,
                        &mut rhs_memory[first..last],
                        (at * piece) as i32,
                        0i32,
                        column as i32,
                    );
                    ring.advance(comptime!(per_group as usize));
                    at += GROUPS;
                }
                tile += CUBE_COUNT as u32;
            }
        }
    } else {
        let group = plane / 4;
        let unit = UNIT_POS % 128;
        let element = comptime!(blueprint.element);
        let inner_address = shared_address::<T>(inner.as_slice());
        let lhs_address = shared_address::<T>(lhs_memory.as_slice());
        let rhs_address = shared_address::<T>(rhs_memory.as_slice());
        // Tiles that are complete.
        let mut done = 0u32;
        while tile < tiles {
            let row = (tile / column_tiles) * comptime!(rows as u32);
            let column = (tile % column_tiles) * comptime!(COLUMNS as u32);
            let mut held = Array::<Quad<u32>>::new(comptime!(rows / 16));
            let mut block = group;
            while block < blocks {
                let mut sums = Vector::<f32, N>::new(0.0f32);
                for _ in 0..steps {
                    let at = group * per_group + ring.stage;
                    full[at as usize].wait_parity(ring.phase);
                    let left = descriptor(rhs_address + at * comptime!(2 * rhs_elements as u32));
                    let right = descriptor(lhs_address + at * comptime!(2 * lhs_elements as u32));
                    sums = multiply_group::<N>(sums, left, right, rows, element);
                    if position < 2 {
                        empty[at as usize].arrive();
                    }
                    ring.advance(comptime!(per_group as usize));
                }
                // A block later than it could be: by then the last tile is sooner stored.
                if block != group {
                    store_block(&held, inner_address, block - GROUPS, group, blueprint);
                }
                #[unroll]
                for pair in 0..comptime!(rows / 16) {
                    let mut quad = Quad::<u32>::new(0u32);
                    #[unroll]
                    for i in 0..4usize {
                        let low = sums.extract(comptime!(8 * pair + 2 * i));
                        let high = sums.extract(comptime!(8 * pair + 2 * i + 1));
                        quad.insert(i, pack(low, high, element));
                    }
                    held[pair] = quad;
                }
                block += GROUPS;
            }
            if block != group {
                store_block(&held, inner_address, block - GROUPS, group, blueprint);
            }
            sync_some(GROUPS + 1, MULTIPLYING);
            // Both groups have seen all panels of the tile filled, so a piece is next in its stage.
            #[unroll]
            for at in 0..comptime!(blueprint.pieces() as u32) {
                let (slot, phase) = piece_slot(at, done, steps, blueprint);
                full[slot as usize].wait_parity(phase);
            }
            let mut staged = Array::<u32>::new(2usize);
            #[unroll]
            for half in 0..2usize {
                let at = (position / 4 + comptime!(8 * half as u32)) / piece;
                let at = select(at < pieces, at, pieces - 1);
                let (slot, _) = piece_slot(at, done, steps, blueprint);
                staged[half] = rhs_address + slot * comptime!(2 * rhs_elements as u32);
            }
            let mut couplings = Array::<Quad<u32>>::new(8usize);
            load_staged_couplings(&staged, plane, &mut couplings, couple, blueprint.piece());
            sync_plane();
            if position == 0 {
                #[unroll]
                for at in 0..comptime!(blueprint.pieces() as u32) {
                    let (slot, _) = piece_slot(at, done, steps, blueprint);
                    empty[slot as usize].arrive();
                }
            }
            ring.skip(share(pieces, group), comptime!(per_group as usize));
            done += 1;
            let mut left = Array::<Quad<u32>>::new(8usize);
            left_operands(&couplings, &mut left);
            couple_octet(
                inner_address,
                plane,
                0u32,
                comptime!(rows as u32 / 8),
                &left,
                2usize,
                couple,
            );
            sync_async_proxy_shared();
            sync_some(GROUPS + 1, MULTIPLYING);
            if unit == 0 {
                let mut block = group;
                while block < blocks {
                    let from = block as usize * comptime!(couple.block_rows() * COLUMNS);
                    tma_store_3d(
                        &inner[from..from + comptime!(rows * COLUMNS)],
                        out,
                        block as i32,
                        row as i32,
                        column as i32,
                    );
                    block += GROUPS;
                }
                tma_group_commit();
            }
            tile += CUBE_COUNT as u32;
        }
        // Shared memory has to stay until the last of it is read.
        tma_group_wait_read(0usize);
    }
}

/// Writes what a group holds of a block to the tile of `Y`, as soon as what it stored of the last tile has
/// been read.
#[cube]
fn store_block(
    held: &Array<Quad<u32>>,
    inner: u32,
    block: u32,
    group: u32,
    #[comptime] blueprint: CoupledWgmmaBlueprint,
) {
    if block == group {
        let unit = UNIT_POS % 128;
        if unit == 0 {
            tma_group_wait_read(0usize);
        }
        sync_some(group + 1, 128usize);
    }
    let couple = comptime!(blueprint.couple());
    // Lanes name the lines of four matrices: 8 tokens of 8 ranks, the next 8 ranks, and both for the
    // next 8 tokens.
    let position = UNIT_POS % 32;
    let token = (position / 16) * 8 + position % 8;
    let octet = ((UNIT_POS / 32) % 4) * 2 + (position / 8) % 2;
    #[unroll]
    for pair in 0..comptime!(blueprint.rows / 16) {
        let line = comptime!(16 * pair as u32) + token;
        store_matrices_transposed(inner + chunk(block, line, octet, couple), held[pair]);
    }
}

/// How many of `count` blocks or pieces a group has, every other one.
#[cube]
fn share(#[comptime] count: u32, group: u32) -> u32 {
    (comptime!(count + GROUPS - 1) - group) / GROUPS
}

/// Stage that a piece of the couplings is in, of both groups', and the phase in which it is filled, after
/// so many complete tiles.
#[cube]
fn piece_slot(
    at: u32,
    done: u32,
    steps: u32,
    #[comptime] blueprint: CoupledWgmmaBlueprint,
) -> (u32, u32) {
    let per_group = comptime!(blueprint.stages as u32 / GROUPS);
    let group = at % GROUPS;
    let panels = share(comptime!(blueprint.blocks as u32), group) * steps;
    let pieces = share(comptime!(blueprint.pieces() as u32), group);
    let fill = done * (panels + pieces) + panels + at / GROUPS;
    (group * per_group + fill % per_group, (fill / per_group) % 2)
}
