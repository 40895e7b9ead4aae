//! One unit per output element.

use cubecl::prelude::*;

use super::epilogue::finish_one;
use super::geometry::{Geometry, out_offset};
use crate::epilogue::Finish;

/// Sums one element of `C` per unit, in `f32`, in the order of `k`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn naive_product<T: Float>(
    lhs: &[T],
    rhs: &[T],
    bias: ComptimeOption<&[T]>,
    merged: ComptimeOption<&[T]>,
    out: &mut [T],
    geometry: Geometry,
    #[comptime] split: bool,
    #[comptime] finish: Finish,
    #[define(T)] _dtype: ElemType,
) {
    let position = ABSOLUTE_POS;
    if position >= geometry.batches * geometry.rows * geometry.columns {
        terminate!();
    }
    let column = position % geometry.columns;
    let row = (position / geometry.columns) % geometry.rows;
    let batch = position / (geometry.columns * geometry.rows);

    let lhs_start = batch * geometry.lhs.batch + row * geometry.lhs.row;
    let rhs_start = batch * geometry.rhs.batch + column * geometry.rhs.column;
    let mut sum = 0.0f32;
    for k in 0..geometry.depth {
        let a = f32::cast_from(lhs[lhs_start + k * geometry.lhs.column]);
        let b = f32::cast_from(rhs[rhs_start + k * geometry.rhs.row]);
        sum += a * b;
    }
    let output = finish_one::<T>(sum, &bias, &merged, &geometry, batch, row, column, finish);
    out[out_offset(&geometry, batch, row, column, split)] = T::cast_from(output);
}
