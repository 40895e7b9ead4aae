//! From the sums that a group of four planes holds to device memory: epilogue, then stores through a
//! tensor map or by the units.

use cubecl::prelude::*;

use super::epilogue::{bias_pair, merge, merge_one};
use super::geometry::{Geometry, out_offset, split_column};
use crate::activation::activate_approximately;
use crate::product::wgmma_plan::{CHUNK, CHUNK_PITCH, GROUP_ROWS, WgmmaBlueprint};
use crate::ptx::{
    Quad, copy_out, global_address, load_word, pack, shared_address, store_matrices, store_shared,
    sync_some, unpack,
};

/// Octets of columns whose merged elements are loaded together.
const MERGED_OCTETS: usize = 4;

/// First element of a group's rows of a tile.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct Place {
    pub batch: usize,
    pub row: usize,
    pub column: usize,
}

/// The outputs of a unit, two neighbouring columns in a word: for every eight columns, those of its
/// first row and those of the row eight below.
///
/// All are made before any is stored, since what they are merged with may be the memory of `C`, and
/// chunks of columns may overlap.
#[cube]
pub(crate) fn finish<T: Float, N: Size>(
    sums: Vector<f32, N>,
    bias: &ComptimeOption<&[T]>,
    merged: ComptimeOption<&[T]>,
    geometry: &Geometry,
    place: Place,
    #[comptime] blueprint: WgmmaBlueprint,
) -> Array<u32> {
    let lane = UNIT_POS % 32;
    let row = place.row + (((UNIT_POS % 128) / 32) * 16 + lane / 4) as usize;
    let first = place.column + ((lane % 4) * 2) as usize;
    let octets = comptime!(blueprint.columns / 8);
    let mut words = Array::<u32>::new(comptime!(2 * octets));
    #[unroll]
    for run in 0..comptime!(octets.div_ceil(MERGED_OCTETS)) {
        let start = comptime!(run * MERGED_OCTETS);
        let count = comptime!(MERGED_OCTETS.min(octets - run * MERGED_OCTETS));
        // All loads are under way before the first is needed.
        let mut others = Array::<u32>::new(comptime!(2 * MERGED_OCTETS));
        #[unroll]
        for n in 0..comptime!(2 * count) {
            let column = first + comptime!(8 * (start + n / 2));
            let at = row + comptime!(8 * (n % 2));
            others[n] = load_merged::<T>(merged, geometry, place.batch, at, column, blueprint);
        }
        #[unroll]
        for n in 0..comptime!(2 * count) {
            let column = first + comptime!(8 * (start + n / 2));
            let at = row + comptime!(8 * (n % 2));
            let index = comptime!(4 * (start + n / 2) + 2 * (n % 2));
            let (low_bias, high_bias) = bias_pair::<T>(bias, geometry, place.batch, column);
            let finish = comptime!(blueprint.finish);
            let low = activate_approximately(sums.extract(index) + low_bias, finish.activation);
            let high = sums.extract(comptime!(index + 1)) + high_bias;
            let high = activate_approximately(high, finish.activation);
            words[comptime!(2 * start + n)] = if comptime!(blueprint.merged_pairs) {
                let (first, second) = unpack(others[n], blueprint.element);
                pack(
                    merge_one(low, first, finish.merge),
                    merge_one(high, second, finish.merge),
                    blueprint.element,
                )
            } else {
                pack(
                    merge::<T>(low, &merged, geometry, place.batch, at, column, finish),
                    merge::<T>(high, &merged, geometry, place.batch, at, column + 1, finish),
                    blueprint.element,
                )
            };
        }
    }
    words
}

/// A pair of elements of what is merged, or any pair outside of `C`; nothing where there is none, or
/// where pairs can not be loaded.
#[cube]
fn load_merged<T: Float>(
    merged: ComptimeOption<&[T]>,
    geometry: &Geometry,
    batch: usize,
    row: usize,
    column: usize,
    #[comptime] blueprint: WgmmaBlueprint,
) -> u32 {
    let mut word = 0u32.runtime();
    if comptime!(blueprint.merged_pairs) {
        #[comptime]
        if let ComptimeOption::Some(merged) = merged {
            let strides = &geometry.merged;
            let inside = row < geometry.rows && column < geometry.columns;
            let offset = batch * strides.batch + row * strides.row + column;
            let address = global_address::<T>(merged);
            // No branch: it would keep the loads from overlapping.
            word = load_word(select(inside, address + offset as u64 * 2, address));
        }
    }
    word
}

/// Stores the 64 rows of one group through the tensor map of `C`, which leaves out what lies outside.
///
/// Two chunks of columns take turns in shared memory. Boxes of the map are rows of `box_columns`
/// elements, permuted by the swizzle of their width, so no two units write to one bank at once.
#[cube]
pub(crate) fn store_mapped<T: Float>(
    words: &Array<u32>,
    map: TensorMap<T, Tiled>,
    geometry: &Geometry,
    staged: &Shared<[T]>,
    group: u32,
    place: Place,
    #[comptime] blueprint: WgmmaBlueprint,
) {
    let mut map = map;
    let boxed = comptime!(blueprint.store.box_columns());
    let row_bytes = comptime!((boxed * 2) as u32);
    let unit = UNIT_POS % 128;
    let lane = UNIT_POS % 32;
    let line = (unit / 32) * 16 + lane % 16;
    // The swizzle moves the 16 bytes `c` of a line to `c ^ turn`.
    let turn = ((line * row_bytes) / 128) % comptime!(row_bytes / 16);
    let chunk_elements = comptime!(GROUP_ROWS * CHUNK);
    let start = shared_address::<T>(staged.as_slice())
        + group * comptime!((2 * chunk_elements * 2) as u32)
        + line * row_bytes;
    #[unroll]
    for chunk in 0..comptime!(blueprint.chunks()) {
        let first = comptime!(blueprint.chunk_start(chunk));
        let buffer = comptime!(chunk % 2);
        if unit == 0 {
            tma_group_wait_read(comptime!(usize::from(chunk > 0)));
        }
        sync_some(group + 1, 128usize);
        #[unroll]
        for pair in 0..comptime!(CHUNK / 16) {
            let index = comptime!((first / 8 + 2 * pair) * 2);
            let mut quad = Quad::<u32>::new(0u32);
            #[unroll]
            for i in 0..4usize {
                quad.insert(i, words[comptime!(index + i)]);
            }
            // Lanes 16 and up name the lines of the second eight columns.
            let octet = comptime!(2 * pair as u32) + lane / 16;
            let inside = octet % comptime!(row_bytes / 16);
            let outside = octet / comptime!(row_bytes / 16);
            let to = start
                + comptime!((buffer * chunk_elements * 2) as u32)
                + outside * comptime!((GROUP_ROWS * boxed * 2) as u32)
                + (inside ^ turn) * 16;
            store_matrices(to, quad);
        }
        sync_async_proxy_shared();
        sync_some(group + 1, 128usize);
        if unit == 0 {
            #[unroll]
            for part in 0..comptime!(CHUNK / boxed) {
                let from = group as usize * comptime!(2 * chunk_elements)
                    + comptime!(buffer * chunk_elements + part * GROUP_ROWS * boxed);
                let column = place.column + comptime!(first + part * boxed);
                let (outer, inner) = split_column(geometry, column, blueprint.split);
                tma_store_4d(
                    &staged[from..from + comptime!(GROUP_ROWS * boxed)],
                    &mut map,
                    place.batch as i32,
                    place.row as i32,
                    outer as i32,
                    inner as i32,
                );
            }
            tma_group_commit();
        }
    }
}

/// Stores the 64 rows of one group, leaving out what lies outside `C`.
#[cube]
pub(crate) fn store_copied<T: Float>(
    words: &Array<u32>,
    out: u64,
    geometry: &Geometry,
    staged: &Shared<[T]>,
    group: u32,
    place: Place,
    #[comptime] blueprint: WgmmaBlueprint,
) {
    let pitch = comptime!(CHUNK_PITCH as u32);
    let bytes = comptime!(blueprint.store.copy_bytes());
    let lane = UNIT_POS % 32;
    let unit = UNIT_POS % 128;
    let staged = shared_address::<T>(staged.as_slice())
        + group * comptime!((GROUP_ROWS * CHUNK_PITCH) as u32);
    let start = staged + ((unit / 32) * 16 + lane / 4) * pitch + (lane % 4) * 4;
    let width = comptime!(bytes as u32 / 2);
    let pieces = comptime!((CHUNK * 2 / bytes) as u32);
    #[unroll]
    for chunk in 0..comptime!(blueprint.chunks()) {
        let first = comptime!(blueprint.chunk_start(chunk));
        // The group has read what the last chunk staged.
        sync_some(group + 1, 128usize);
        #[unroll]
        for j in 0..comptime!(CHUNK / 8) {
            let index = comptime!((first / 8 + j) * 2);
            let to = start + comptime!(j as u32 * 16);
            store_shared(to, words[index]);
            store_shared(to + 8 * pitch, words[comptime!(index + 1)]);
        }
        sync_some(group + 1, 128usize);
        let mut index = unit;
        while index < comptime!(GROUP_ROWS as u32) * pieces {
            let inside = index / pieces;
            let piece = index % pieces;
            let row = place.row + inside as usize;
            let column = place.column + first + (piece * width) as usize;
            if row < geometry.rows && column < geometry.columns {
                let from = staged + inside * pitch + piece * comptime!(bytes as u32);
                let offset = out_offset(geometry, place.batch, row, column, blueprint.split);
                copy_out(from, out + offset as u64 * 2, bytes);
            }
            index += 128;
        }
    }
}
