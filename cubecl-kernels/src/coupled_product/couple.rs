//! The coupling alone, where `Y` is in memory already.

use cubecl::prelude::*;

use super::geometry::{BlockStrides, CoupledGeometry};
use super::plan::CoupleTile;
use super::tile::{cell, chunk, couple_tile, first_rank, load_couplings, store_coupled};
use crate::ptx::{
    Quad, commit_copies, copy_async, global_address, shared_address, wait_copies, written_address,
};

/// `out[j, t, k] = Σ_i S[j, i, k] Y[i, t, k]`, summed in `f32`; `out` may be `Y` itself, since each
/// cube reads all that it replaces before it stores anything.
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
    let row = CUBE_POS_Y * comptime!(tile.rows as u32);
    let column = CUBE_POS_X * comptime!(tile.columns as u32);
    let memory = Shared::<[u32]>::new_aligned_slice(comptime!(tile.shared_bytes() / 4), 1024usize);
    let inner = shared_address::<u32>(memory.as_slice());
    let address = global_address::<T>(source);
    copy_tile(
        address,
        &geometry.lhs,
        geometry.tokens,
        geometry.rank,
        inner,
        row,
        column,
        tile,
    );
    commit_copies();
    let mut couplings = Array::<Quad<u32>>::new(8usize);
    load_couplings(
        global_address::<T>(coupling),
        &geometry.coupling,
        geometry.rank,
        column + first_rank(tile),
        &mut couplings,
        tile,
    );
    wait_copies(0usize);
    sync_cube();
    couple_tile::<T>(
        coupling,
        &geometry.coupling,
        geometry.rank,
        inner,
        column,
        &mut couplings,
        tile,
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
        tile,
    );
}

/// Starts copying a tile of all blocks to shared memory; zeros outside the tensor.
#[cube]
#[expect(
    clippy::too_many_arguments,
    reason = "each is one coordinate of the tile"
)]
fn copy_tile(
    address: u64,
    strides: &BlockStrides,
    tokens: usize,
    ranks: usize,
    inner: u32,
    row: u32,
    column: u32,
    #[comptime] tile: CoupleTile,
) {
    let bytes = comptime!(tile.element.bytes() as u64);
    let mut item = UNIT_POS;
    while item < comptime!(tile.cells() as u32) {
        let (block, inside, octet) = cell(item, tile);
        let token = (row + inside) as usize;
        let rank = (column + octet * 8) as usize;
        let valid = token < tokens && rank < ranks;
        let offset = block as usize * strides.block + token * strides.line + rank;
        let from = select(valid, address + offset as u64 * bytes, address);
        let to = inner + chunk(block, inside, octet, tile);
        copy_async(to, 0u32, from, u32::cast_from(valid), 16usize);
        item += comptime!(tile.units as u32);
    }
}
