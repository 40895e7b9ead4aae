//! Couplings of a tile in shared memory, by tensor cores.

use cubecl::prelude::*;

use super::geometry::BlockStrides;
use super::plan::CoupleTile;
use crate::ptx::{
    Quad, global_address, load_constant_quad, load_shared_quad, multiply_add, pack, permute,
    store_global, store_shared_quad,
};

/// Byte in shared memory of ranks `8 octet..` of `Y[block, row]`: chunks of 16 bytes are permuted
/// within a row, as the 128-byte swizzle of tensor maps does where rows have 128 bytes. Blocks begin
/// one row apart from where they would, so that neither the eight rows of a fragment nor the blocks and
/// rows that a coupling reads at once share banks.
#[cube]
pub(crate) fn chunk(block: u32, row: u32, octet: u32, #[comptime] tile: CoupleTile) -> u32 {
    let line = block * comptime!(tile.block_rows() as u32) + row;
    let permutation = line & comptime!(tile.permuted_octets() as u32 - 1);
    line * comptime!(tile.row_bytes() as u32) + (octet ^ permutation) * 16
}

/// Two neighbouring ranks of two neighbouring blocks (or tokens), regrouped by rank: the first rank
/// of both where `second` is false.
#[cube]
pub(crate) fn regroup(first: u32, other: u32, #[comptime] second: bool) -> u32 {
    permute(
        first,
        other,
        comptime!(if second { 0x7632u32 } else { 0x5410u32 }),
    )
}

/// The couplings of eight neighbouring ranks as they lie in memory, for the lane's output blocks
/// and input blocks; zero outside.
#[cube]
pub(crate) fn load_couplings(
    address: u64,
    strides: &BlockStrides,
    ranks: usize,
    rank: u32,
    couplings: &mut Array<Quad<u32>>,
    #[comptime] tile: CoupleTile,
) {
    let blocks = comptime!(tile.blocks as u32);
    let bytes = comptime!(tile.element.bytes() as u64);
    let position = UNIT_POS % 32;
    #[unroll]
    for corner in 0..4usize {
        // Output blocks `lane / 4` and 8 more, input blocks from `2 (lane % 4)` and from 8 more.
        let j = position / 4 + comptime!((corner as u32 % 2) * 8);
        #[unroll]
        for next in 0..2usize {
            let i = (position % 4) * 2 + comptime!((corner as u32 / 2) * 8 + next as u32);
            let at = comptime!(2 * corner + next);
            couplings[at] = Quad::<u32>::new(0u32);
            if j < blocks && i < blocks && rank < ranks as u32 {
                let offset = j as usize * strides.block + i as usize * strides.line + rank as usize;
                couplings[at] = load_constant_quad(address + offset as u64 * bytes);
            }
        }
    }
}

/// First rank of the tile that a plane couples first.
#[cube]
pub(crate) fn first_rank(#[comptime] tile: CoupleTile) -> u32 {
    ((UNIT_POS / 32) % comptime!(tile.octets() as u32)) * 8
}

/// Replaces `Y` in shared memory by its couplings.
///
/// For each rank, the couplings of eight tokens are one tensor-core product, of `S [j, i]` and
/// `Y [i, t]`. A plane does so for eight neighbouring ranks: 16 bytes of each operand's rows.
/// `couplings` holds those of the plane's [`first_rank`], loaded long before.
#[cube]
pub(crate) fn couple_tile<T: Float>(
    coupling: &[T],
    strides: &BlockStrides,
    ranks: usize,
    inner: u32,
    column: u32,
    couplings: &mut Array<Quad<u32>>,
    #[comptime] tile: CoupleTile,
) {
    let blocks = comptime!(tile.blocks as u32);
    let address = global_address::<T>(coupling);
    let position = UNIT_POS % 32;
    let group = position / 4;
    let thread = position % 4;
    let octets = comptime!(tile.octets() as u32);
    let run = comptime!(tile.run() as u32);
    let tiles = comptime!((tile.rows / 8) as u32);
    let items = octets * comptime!((tile.rows / 8).div_ceil(tile.run()) as u32);
    let first = UNIT_POS / 32;
    let mut item = first;
    while item < items {
        let octet = item % octets;
        if item != first {
            load_couplings(address, strides, ranks, column + octet * 8, couplings, tile);
        }
        // The couplings as left operands, for each of the eight ranks.
        let mut left = Array::<Quad<u32>>::new(8usize);
        #[unroll]
        for r in 0..8usize {
            let mut quad = Quad::<u32>::empty();
            #[unroll]
            for corner in 0..4usize {
                let pair = couplings[comptime!(2 * corner)];
                let other = couplings[comptime!(2 * corner + 1)];
                let word = regroup(
                    pair.extract(comptime!(r / 2)),
                    other.extract(comptime!(r / 2)),
                    comptime!(r % 2 == 1),
                );
                quad.insert(corner, word);
            }
            left[r] = quad;
        }
        let start = (item / octets) * run;
        let stop = select(start + run < tiles, start + run, tiles);
        for eight in start..stop {
            let token = eight * 8 + group;
            let mut right = Array::<Quad<u32>>::new(4usize);
            #[unroll]
            for part in 0..4usize {
                // Input blocks `2 thread`, `2 thread + 1`, and those 8 further.
                let i = thread * 2 + comptime!((part as u32 / 2) * 8 + part as u32 % 2);
                right[part] = Quad::<u32>::new(0u32);
                if i < blocks {
                    right[part] = load_shared_quad(inner + chunk(i, token, octet, tile));
                }
            }
            let mut coupled = Array::<Quad<f32>>::new(8usize);
            #[unroll]
            for r in 0..8usize {
                let (a, b) = (right[0usize], right[1usize]);
                let (c, d) = (right[2usize], right[3usize]);
                let second = comptime!(r % 2 == 1);
                let low = regroup(
                    a.extract(comptime!(r / 2)),
                    b.extract(comptime!(r / 2)),
                    second,
                );
                let high = regroup(
                    c.extract(comptime!(r / 2)),
                    d.extract(comptime!(r / 2)),
                    second,
                );
                let zero = Quad::<f32>::new(0.0f32);
                coupled[r] = multiply_add(left[r], low, high, zero, tile.element);
            }
            // Everything that the stores replace has been read by the whole plane.
            sync_plane();
            #[unroll]
            for corner in 0..4usize {
                let j = group + comptime!((corner as u32 / 2) * 8);
                let token = eight * 8 + thread * 2 + comptime!(corner as u32 % 2);
                let mut words = Quad::<u32>::empty();
                #[unroll]
                for pair in 0..4usize {
                    let low = coupled[comptime!(2 * pair)];
                    let high = coupled[comptime!(2 * pair + 1)];
                    words.insert(
                        pair,
                        pack(low.extract(corner), high.extract(corner), tile.element),
                    );
                }
                if j < blocks {
                    store_shared_quad(inner + chunk(j, token, octet, tile), words);
                }
            }
        }
        item += comptime!((tile.units / 32) as u32);
    }
}

/// Block, row and octet of the `item`-th chunk of 16 bytes of a tile.
#[cube]
pub(crate) fn cell(item: u32, #[comptime] tile: CoupleTile) -> (u32, u32, u32) {
    let octets = comptime!(tile.octets() as u32);
    let rows = comptime!(tile.rows as u32);
    let octet = item % octets;
    let inside = (item / octets) % rows;
    let block = item / (octets * rows);
    (block, inside, octet)
}

/// Copies the couplings from shared memory to the output, leaving out what lies outside.
#[cube]
pub(crate) fn store_coupled(
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
        if token < tokens && rank < ranks {
            let words = load_shared_quad(inner + chunk(block, inside, octet, tile));
            let offset = block as usize * strides.block + token * strides.line + rank;
            store_global(address + offset as u64 * bytes, words, 16usize);
        }
        item += comptime!(tile.units as u32);
    }
}
