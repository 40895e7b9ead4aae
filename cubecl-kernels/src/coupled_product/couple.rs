//! The coupling alone, where `Y` is in memory already.

use cubecl::prelude::*;

use super::geometry::CoupledGeometry;
use super::plan::{BUFFERS, CoupleTile};
use super::tile::{cell, chunk, couple_octet, left_operands, load_couplings, store_coupled};
use crate::ptx::{
    Quad, commit_copies, copy_async, global_address, shared_address, wait_copies, written_address,
};

/// `out[j, t, k] = Σ_i S[j, i, k] Y[i, t, k]`, summed in `f32`; `out` may be `Y` itself, since each
/// cube reads all that it replaces before it stores anything.
///
/// A cube stays for its ranks, whose couplings it loads once, and goes through tiles of tokens, the next
/// of which are under way while one is coupled.
///
/// Of the geometry's operands, `lhs` is `Y`, with tokens as lines; there is no `rhs`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn couple<T: Float>(
    coupling: &[T],
    source: &[T],
    out: &mut [T],
    geometry: CoupledGeometry,
    #[comptime] tile: CoupleTile,
    #[define(T)] _dtype: ElemType,
) {
    // Each couples an octet of ranks.
    let plane = UNIT_POS / 32;
    let rows = comptime!(tile.rows as u32);
    let tokens = geometry.tokens as u32;
    let column = CUBE_POS_X * comptime!(tile.columns as u32);
    let bytes = comptime!(tile.shared_bytes() as u32);
    let memory =
        Shared::<[u32]>::new_aligned_slice(comptime!(tile.standing_bytes() / 4), 1024usize);
    let inner = shared_address::<u32>(memory.as_slice());
    let end = inner + comptime!(tile.standing_bytes() as u32);
    let address = global_address::<T>(source);
    let out_address = written_address::<T>(out);
    let step = CUBE_COUNT_Y * rows;
    let mut row = CUBE_POS_Y * rows;
    let mut ahead = row;
    let mut filled = inner;
    #[unroll]
    for _ in 0..comptime!(BUFFERS - 1) {
        copy_tile(address, &geometry, filled, ahead, column, tile);
        ahead += step;
        filled += bytes;
    }
    let mut couplings = Array::<Quad<u32>>::new(8usize);
    load_couplings(
        global_address::<T>(coupling),
        &geometry.coupling,
        geometry.rank,
        column + plane * 8,
        &mut couplings,
        tile,
    );
    let mut left = Array::<Quad<u32>>::new(8usize);
    left_operands(&couplings, &mut left);
    let mut read = inner;
    while row < tokens {
        wait_copies(comptime!(BUFFERS - 2));
        // All have stored what the buffer that is filled next holds.
        sync_cube();
        copy_tile(address, &geometry, filled, ahead, column, tile);
        ahead += step;
        filled += bytes;
        if filled == end {
            filled = inner;
        }
        couple_octet(
            read,
            plane,
            0u32,
            comptime!(tile.rows as u32 / 8),
            &left,
            1usize,
            tile,
        );
        sync_cube();
        store_coupled(
            out_address,
            &geometry.out,
            geometry.tokens,
            geometry.rank,
            read,
            row,
            column,
            tile,
        );
        read += bytes;
        if read == end {
            read = inner;
        }
        row += step;
    }
}

/// Starts copying a tile of all blocks to shared memory, as a group of copies; zeros outside the tensor.
/// Behind the last token the group is empty.
#[cube]
fn copy_tile(
    address: u64,
    geometry: &CoupledGeometry,
    inner: u32,
    row: u32,
    column: u32,
    #[comptime] tile: CoupleTile,
) {
    let bytes = comptime!(tile.element.bytes() as u64);
    if row < geometry.tokens as u32 {
        let mut item = UNIT_POS;
        while item < comptime!(tile.cells() as u32) {
            let (block, inside, octet) = cell(item, tile);
            let token = (row + inside) as usize;
            let rank = (column + octet * 8) as usize;
            let valid = token < geometry.tokens && rank < geometry.rank;
            let line = block as usize * geometry.lhs.block + token * geometry.lhs.line;
            let offset = (line + rank) as u64 * bytes;
            let from = select(valid, address + offset, address);
            let to = inner + chunk(block, inside, octet, tile);
            copy_async(to, 0u32, from, u32::cast_from(valid), 16usize);
            item += comptime!(tile.units as u32);
        }
    }
    commit_copies();
}
