//! Tiles through shared memory, a small tile of outputs in the registers of each unit.

use cubecl::prelude::*;

use super::epilogue::finish_one;
use super::geometry::{Geometry, out_offset};
use super::stage::{fetch, place};
use crate::product::plan::{GROUP, TiledBlueprint};

/// Sums one tile of `C` per cube, in `f32`.
///
/// The loads of the next tiles are issued before the current ones are multiplied, so that their
/// latency passes behind the arithmetic.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn tiled_product<T: Float, L: Size, N: Size, O: Size>(
    lhs: &[Vector<T, L>],
    rhs: &[Vector<T, N>],
    bias: ComptimeOption<&[T]>,
    merged: ComptimeOption<&[T]>,
    out: &mut [Vector<T, O>],
    geometry: Geometry,
    #[comptime] blueprint: TiledBlueprint,
    #[define(T)] _dtype: ElemType,
) {
    let tile = comptime!(blueprint.tile);
    let row = CUBE_POS_X as usize * tile.rows;
    let column = CUBE_POS_Y as usize * tile.columns;
    let batch = CUBE_POS_Z as usize;
    let lhs_start = batch * geometry.lhs.batch;
    let rhs_start = batch * geometry.rhs.batch;

    let mut lhs_stage =
        Shared::<[f32]>::new_aligned_slice(comptime!(blueprint.lhs.stage_elements()), 16usize);
    let mut rhs_stage =
        Shared::<[f32]>::new_aligned_slice(comptime!(blueprint.rhs.stage_elements()), 16usize);
    let mut lhs_held = Array::<Vector<T, L>>::new(comptime!(blueprint.lhs.fetches()));
    let mut rhs_held = Array::<Vector<T, N>>::new(comptime!(blueprint.rhs.fetches()));
    let mut sums = Array::<f32>::new(comptime!(tile.unit_rows * tile.unit_columns));
    #[unroll]
    for i in 0..comptime!(tile.unit_rows * tile.unit_columns) {
        sums[i] = 0.0f32;
    }

    fetch(
        lhs,
        &mut lhs_held,
        lhs_start,
        row,
        geometry.rows,
        geometry.lhs.row,
        0usize.runtime(),
        geometry.depth,
        geometry.lhs.column,
        blueprint.lhs,
    );
    fetch(
        rhs,
        &mut rhs_held,
        rhs_start,
        column,
        geometry.columns,
        geometry.rhs.column,
        0usize.runtime(),
        geometry.depth,
        geometry.rhs.row,
        blueprint.rhs,
    );
    let steps = geometry.depth.div_ceil(tile.depth);
    for step in 0..steps {
        place(&lhs_held, &mut lhs_stage, blueprint.lhs);
        place(&rhs_held, &mut rhs_stage, blueprint.rhs);
        sync_cube();
        let next = (step + 1) * tile.depth;
        if step + 1 < steps {
            fetch(
                lhs,
                &mut lhs_held,
                lhs_start,
                row,
                geometry.rows,
                geometry.lhs.row,
                next,
                geometry.depth,
                geometry.lhs.column,
                blueprint.lhs,
            );
            fetch(
                rhs,
                &mut rhs_held,
                rhs_start,
                column,
                geometry.columns,
                geometry.rhs.column,
                next,
                geometry.depth,
                geometry.rhs.row,
                blueprint.rhs,
            );
        }
        multiply(&lhs_stage, &rhs_stage, &mut sums, blueprint);
        sync_cube();
    }
    write(
        &sums, bias, merged, out, geometry, batch, row, column, blueprint,
    );
}

/// Row of the tile that a unit's `i`-th row is, without the unit's own offset.
///
/// A unit's rows come in groups of [`GROUP`] spread over the tile, so that the units of a plane
/// read neighbouring groups from shared memory.
fn spread(i: usize, tile: usize, unit: usize) -> usize {
    (i / GROUP) * (tile * GROUP / unit) + i % GROUP
}

/// Adds the product of the two staged tiles to the unit's sums.
#[cube]
fn multiply(
    lhs: &Shared<[f32]>,
    rhs: &Shared<[f32]>,
    sums: &mut Array<f32>,
    #[comptime] blueprint: TiledBlueprint,
) {
    let tile = comptime!(blueprint.tile);
    let across = comptime!(tile.columns / tile.unit_columns);
    let unit_row = (UNIT_POS as usize / across) * GROUP;
    let unit_column = (UNIT_POS as usize % across) * GROUP;
    let mut a = Array::<f32>::new(comptime!(tile.unit_rows));
    let mut b = Array::<f32>::new(comptime!(tile.unit_columns));
    for k in 0..tile.depth {
        let lhs_start = k * comptime!(blueprint.lhs.pitch()) + unit_row;
        let rhs_start = k * comptime!(blueprint.rhs.pitch()) + unit_column;
        #[unroll]
        for i in 0..comptime!(tile.unit_rows) {
            a[i] = lhs[lhs_start + comptime!(spread(i, tile.rows, tile.unit_rows))];
        }
        #[unroll]
        for j in 0..comptime!(tile.unit_columns) {
            b[j] = rhs[rhs_start + comptime!(spread(j, tile.columns, tile.unit_columns))];
        }
        #[unroll]
        for i in 0..comptime!(tile.unit_rows) {
            #[unroll]
            for j in 0..comptime!(tile.unit_columns) {
                sums[comptime!(i * tile.unit_columns + j)] += a[i] * b[j];
            }
        }
    }
}

/// Adds the bias and stores the unit's sums, leaving out what lies outside `C`.
#[cube]
#[expect(
    clippy::too_many_arguments,
    reason = "each is one coordinate of the tile"
)]
fn write<T: Float, O: Size>(
    sums: &Array<f32>,
    bias: ComptimeOption<&[T]>,
    merged: ComptimeOption<&[T]>,
    out: &mut [Vector<T, O>],
    geometry: Geometry,
    batch: usize,
    row: usize,
    column: usize,
    #[comptime] blueprint: TiledBlueprint,
) {
    let tile = comptime!(blueprint.tile);
    let width = comptime!(blueprint.out_vector);
    let across = comptime!(tile.columns / tile.unit_columns);
    let unit_row = row + (UNIT_POS as usize / across) * GROUP;
    let unit_column = column + (UNIT_POS as usize % across) * GROUP;
    #[unroll]
    for i in 0..comptime!(tile.unit_rows) {
        let at_row = unit_row + comptime!(spread(i, tile.rows, tile.unit_rows));
        if at_row < geometry.rows {
            #[unroll]
            for v in 0..comptime!(tile.unit_columns / width) {
                let j = comptime!(v * width);
                let at_column = unit_column + comptime!(spread(j, tile.columns, tile.unit_columns));
                if at_column < geometry.columns {
                    let mut values = Vector::<T, O>::empty();
                    #[unroll]
                    for e in 0..width {
                        let value = finish_one::<T>(
                            sums[comptime!(i * tile.unit_columns + j + e)],
                            &bias,
                            &merged,
                            &geometry,
                            batch,
                            at_row,
                            at_column + e,
                            blueprint.finish,
                        );
                        values.insert(e, T::cast_from(value));
                    }
                    let offset = out_offset(&geometry, batch, at_row, at_column, blueprint.split);
                    out[offset / width] = values;
                }
            }
        }
    }
}
