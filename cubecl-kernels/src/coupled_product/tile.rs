//! Couplings of a tile in shared memory, by tensor cores.

use cubecl::prelude::*;

use super::geometry::BlockStrides;
use super::plan::CoupleTile;
use crate::ptx::{
    Quad, global_address, load_constant_quad, load_shared_quad, multiply_add, pack, permute,
    store_global, store_shared_quad,
};

/// Byte in shared memory of ranks `8 octet..` of `Y[block, row]`: chunks of 16 bytes are permuted
/// within a row, so that neither the eight rows of a fragment nor the blocks and rows that a coupling
/// reads at once share banks. Rows of 128 bytes are permuted as the 128-byte swizzle of tensor maps does
/// it, and their blocks begin one row later than they would, so that it takes blocks apart as well.
#[cube]
pub(crate) fn chunk(block: u32, row: u32, octet: u32, #[comptime] tile: CoupleTile) -> u32 {
    let line = block * comptime!(tile.block_rows() as u32) + row;
    let octets = comptime!(tile.permuted_octets() as u32 - 1);
    let permutation = if comptime!(tile.is_mapped()) {
        line & octets
    } else {
        (row ^ block) & octets
    };
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

/// Output and input block of one of the eight couplings that a lane holds of each rank: output blocks
/// `lane / 4` and 8 more, input blocks from `2 (lane % 4)` and from 8 more.
#[cube]
fn coupled_blocks(#[comptime] corner: usize, #[comptime] next: usize) -> (u32, u32) {
    let position = UNIT_POS % 32;
    let j = position / 4 + comptime!((corner as u32 % 2) * 8);
    let i = (position % 4) * 2 + comptime!((corner as u32 / 2) * 8 + next as u32);
    (j, i)
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
    #[unroll]
    for corner in 0..4usize {
        #[unroll]
        for next in 0..2usize {
            let (j, i) = coupled_blocks(corner, next);
            let at = comptime!(2 * corner + next);
            couplings[at] = Quad::<u32>::new(0u32);
            if j < blocks && i < blocks && rank < ranks as u32 {
                let offset = j as usize * strides.block + i as usize * strides.line + rank as usize;
                couplings[at] = load_constant_quad(address + offset as u64 * bytes);
            }
        }
    }
}

/// As [`load_couplings`], from shared memory: lines of 64 ranks, one for each input block of `piece`
/// output blocks, permuted as the 128-byte swizzle of tensor maps does. `staged` are the addresses of the
/// pieces that hold the lane's two output blocks.
#[cube]
pub(crate) fn load_staged_couplings(
    staged: &Array<u32>,
    octet: u32,
    couplings: &mut Array<Quad<u32>>,
    #[comptime] tile: CoupleTile,
    #[comptime] piece: usize,
) {
    let blocks = comptime!(tile.blocks as u32);
    #[unroll]
    for corner in 0..4usize {
        #[unroll]
        for next in 0..2usize {
            let (j, i) = coupled_blocks(corner, next);
            let at = comptime!(2 * corner + next);
            couplings[at] = Quad::<u32>::new(0u32);
            if j < blocks && i < blocks {
                let line = (j % comptime!(piece as u32)) * blocks + i;
                let base = staged[comptime!(corner % 2)];
                couplings[at] = load_shared_quad(base + line * 128 + (octet ^ (line & 7)) * 16);
            }
        }
    }
}

/// First rank of the tile that a plane couples first.
#[cube]
pub(crate) fn first_rank(#[comptime] tile: CoupleTile) -> u32 {
    ((UNIT_POS / 32) % comptime!(tile.octets() as u32)) * 8
}

/// Replaces `Y` in shared memory by its couplings, eight neighbouring ranks at a time for each plane.
///
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
    let address = global_address::<T>(coupling);
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
        let mut left = Array::<Quad<u32>>::new(8usize);
        left_operands(&*couplings, &mut left);
        let start = (item / octets) * run;
        let stop = select(start + run < tiles, start + run, tiles);
        couple_octet(inner, octet, start, stop, &left, 1usize, tile);
        item += comptime!((tile.units / 32) as u32);
    }
}

/// Couplings as left operands, for each of the eight ranks.
#[cube]
pub(crate) fn left_operands(couplings: &Array<Quad<u32>>, left: &mut Array<Quad<u32>>) {
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
}

/// Couples eight neighbouring ranks of the tokens from `8 start` to `8 stop`, `together` groups of eight
/// tokens at a time, a number that divides theirs.
///
/// For each rank, the couplings of eight tokens are one tensor-core product, of `S [j, i]`, which are its
/// `left` operands, and `Y [i, t]`, 16 bytes of whose rows are the right ones of all ranks of the octet.
#[cube]
pub(crate) fn couple_octet(
    inner: u32,
    octet: u32,
    start: u32,
    stop: u32,
    left: &Array<Quad<u32>>,
    #[comptime] together: usize,
    #[comptime] tile: CoupleTile,
) {
    let blocks = comptime!(tile.blocks as u32);
    let position = UNIT_POS % 32;
    let group = position / 4;
    let thread = position % 4;
    let mut eight = start;
    while eight < stop {
        let mut right = Array::<Quad<u32>>::new(comptime!(4 * together));
        #[unroll]
        for n in 0..together {
            let token = (eight + comptime!(n as u32)) * 8 + group;
            #[unroll]
            for part in 0..4usize {
                // Input blocks `2 thread`, `2 thread + 1`, and those 8 further.
                let i = thread * 2 + comptime!((part as u32 / 2) * 8 + part as u32 % 2);
                let at = comptime!(4 * n + part);
                right[at] = Quad::<u32>::new(0u32);
                if i < blocks {
                    right[at] = load_shared_quad(inner + chunk(i, token, octet, tile));
                }
            }
        }
        let mut coupled = Array::<Quad<f32>>::new(comptime!(8 * together));
        #[unroll]
        for n in 0..together {
            #[unroll]
            for r in 0..8usize {
                let (a, b) = (right[comptime!(4 * n)], right[comptime!(4 * n + 1)]);
                let (c, d) = (right[comptime!(4 * n + 2)], right[comptime!(4 * n + 3)]);
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
                coupled[comptime!(8 * n + r)] =
                    multiply_add(left[r], low, high, zero, tile.element);
            }
        }
        // Everything that the stores replace has been read by the whole plane.
        sync_plane();
        #[unroll]
        for n in 0..together {
            #[unroll]
            for corner in 0..4usize {
                let j = group + comptime!((corner as u32 / 2) * 8);
                let token =
                    (eight + comptime!(n as u32)) * 8 + thread * 2 + comptime!(corner as u32 % 2);
                let mut words = Quad::<u32>::empty();
                #[unroll]
                for pair in 0..4usize {
                    let low = coupled[comptime!(8 * n + 2 * pair)];
                    let high = coupled[comptime!(8 * n + 2 * pair + 1)];
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
        eight += comptime!(together as u32);
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
