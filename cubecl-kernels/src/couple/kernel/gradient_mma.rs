//! All block pairs of eight ranks per cube, by tensor cores.

use cubecl::prelude::*;

use super::geometry::{CoupleGeometry, Strides};
use crate::couple::plan::{CoupleGradientTile, GRADIENT_PLANES};
use crate::coupled_product::tile::regroup;
use crate::ptx::{
    Quad, global_address, load_constant_quad, load_shared, multiply_add, pack, shared_address,
    store_global, store_shared_quad, written_address,
};

/// Tokens that a plane sums at a time.
const TOKENS: u32 = 16;

/// Bytes of the sums of one rank and eight input blocks, four for each lane.
const SUM_BYTES: usize = 32 * 16;

/// `out[j, i, k] = Σ_t grad[j, t, k] source[i, t, k]`, summed in `f32`.
///
/// For each rank, 16 tokens are one or two tensor-core products, of `grad [j, t]` and
/// `source [t, i]`. The planes of a cube share the tokens and meet in shared memory.
///
/// Every element is read once, 16 bytes at a time. Without tensor cores a unit sums squares of four
/// by four pairs: for 16 blocks every element is read four times, two bytes at a time, which for
/// llama7b.gate_up_proj (1024 tokens, rank 1488) counts 390 MB and 6.1 million loads of a plane,
/// against 98 MB and 0.19 million here, for the same 0.8 GFLOP.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn mma_couple_gradient<T: Float>(
    grad: &[T],
    source: &[T],
    out: &mut [T],
    geometry: CoupleGeometry,
    #[comptime] tile: CoupleGradientTile,
    #[define(T)] _dtype: ElemType,
) {
    let halves = comptime!(tile.halves());
    let rank = CUBE_POS_X as usize * 8;
    let plane = UNIT_POS / 32;
    let tokens = geometry.tokens as u32;
    let grad = global_address::<T>(grad);
    let source = global_address::<T>(source);
    let mut left = Array::<Quad<u32>>::new(comptime!(4 * halves));
    let mut right = Array::<Quad<u32>>::new(comptime!(4 * halves));
    let mut sums = Array::<Quad<f32>>::new(comptime!(8 * halves));
    #[unroll]
    for sum in 0..comptime!(8 * halves) {
        sums[sum] = Quad::<f32>::new(0.0f32);
    }
    let mut token = plane * TOKENS;
    while token < tokens {
        load_chunks(grad, &geometry.left, rank, token, tokens, &mut left, tile);
        load_chunks(
            source,
            &geometry.source,
            rank,
            token,
            tokens,
            &mut right,
            tile,
        );
        #[unroll]
        for r in 0..8usize {
            // Rows are output blocks, columns of the left operand tokens.
            let mut a = Quad::<u32>::new(0u32);
            #[unroll]
            for half in 0..halves {
                a.insert(half, word(&left, half, 0usize, r));
                a.insert(comptime!(half + 2), word(&left, half, 1usize, r));
            }
            #[unroll]
            for half in 0..halves {
                let low = word(&right, half, 0usize, r);
                let high = word(&right, half, 1usize, r);
                let at = comptime!(r * halves + half);
                sums[at] = multiply_add(a, low, high, sums[at], tile.element);
            }
        }
        token += comptime!(TOKENS * GRADIENT_PLANES as u32);
    }

    let memory = Shared::<[u32]>::new_aligned_slice(comptime!(tile.shared_bytes() / 4), 16usize);
    let base = shared_address::<u32>(memory.as_slice());
    let first = base + plane * comptime!((8 * halves * SUM_BYTES) as u32) + (UNIT_POS % 32) * 16;
    #[unroll]
    for sum in 0..comptime!(8 * halves) {
        let to = first + comptime!((sum * SUM_BYTES) as u32);
        store_shared_quad(to, Quad::<u32>::reinterpret(sums[sum]));
    }
    sync_cube();
    store_pair::<T>(base, out, &geometry, rank, tile);
}

/// Loads eight neighbouring ranks, 16 bytes, of the blocks and tokens whose products are the lane's:
/// `[half, depth, next]`, block `8 half + lane / 4`, token `8 depth + 2 (lane % 4) + next`. Zero
/// outside.
#[cube]
fn load_chunks(
    address: u64,
    strides: &Strides,
    rank: usize,
    token: u32,
    tokens: u32,
    chunks: &mut Array<Quad<u32>>,
    #[comptime] tile: CoupleGradientTile,
) {
    let bytes = comptime!(tile.element.bytes() as u64);
    let position = UNIT_POS % 32;
    #[unroll]
    for half in 0..comptime!(tile.halves()) {
        let block = position / 4 + comptime!(half as u32 * 8);
        #[unroll]
        for part in 0..4usize {
            let inside = (position % 4) * 2 + comptime!((part as u32 / 2) * 8 + part as u32 % 2);
            let at = token + inside;
            let chunk = comptime!(half * 4 + part);
            chunks[chunk] = Quad::<u32>::new(0u32);
            if block < comptime!(tile.blocks as u32) && at < tokens {
                let offset = block as usize * strides.block + at as usize * strides.row + rank;
                chunks[chunk] = load_constant_quad(address + offset as u64 * bytes);
            }
        }
    }
}

/// Two neighbouring tokens of rank `rank` of eight: one register of an operand.
#[cube]
fn word(
    chunks: &Array<Quad<u32>>,
    #[comptime] half: usize,
    #[comptime] depth: usize,
    #[comptime] rank: usize,
) -> u32 {
    let first = chunks[comptime!(half * 4 + depth * 2)];
    let other = chunks[comptime!(half * 4 + depth * 2 + 1)];
    regroup(
        first.extract(comptime!(rank / 2)),
        other.extract(comptime!(rank / 2)),
        comptime!(rank % 2 == 1),
    )
}

/// Adds the sums of all planes for the unit's pair of blocks and stores its eight ranks.
#[cube]
fn store_pair<T: Float>(
    base: u32,
    out: &mut [T],
    geometry: &CoupleGeometry,
    rank: usize,
    #[comptime] tile: CoupleGradientTile,
) {
    let halves = comptime!(tile.halves());
    let bytes = comptime!(tile.element.bytes() as u64);
    let blocks = comptime!(tile.blocks as u32);
    let address = written_address::<T>(out);
    let j = UNIT_POS / 16;
    let i = UNIT_POS % 16;
    if j < blocks && i < blocks {
        // Where the tensor cores leave row `j` and column `i`.
        let lane = (j % 8) * 4 + (i % 8) / 2;
        let register = (j / 8) * 2 + i % 2;
        let start = base + (i / 8) * comptime!(SUM_BYTES as u32) + lane * 16 + register * 4;
        let mut totals = Array::<f32>::new(8usize);
        #[unroll]
        for r in 0..8usize {
            let mut total = 0.0f32;
            #[unroll]
            for plane in 0..GRADIENT_PLANES {
                let at = comptime!(((plane * 8 + r) * halves * SUM_BYTES) as u32);
                total += f32::reinterpret(load_shared(start + at));
            }
            totals[r] = total;
        }
        let mut words = Quad::<u32>::empty();
        #[unroll]
        for pair in 0..4usize {
            let (low, high) = (totals[comptime!(2 * pair)], totals[comptime!(2 * pair + 1)]);
            words.insert(pair, pack(low, high, tile.element));
        }
        let offset = j as usize * geometry.out.block + i as usize * geometry.out.row + rank;
        store_global(address + offset as u64 * bytes, words, 16usize);
    }
}
