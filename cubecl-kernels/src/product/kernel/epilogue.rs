//! What is done to sums before they are stored.

use cubecl::prelude::*;

use super::geometry::Geometry;
use crate::activation::activate;
use crate::epilogue::{Finish, Merge};

/// Bias of `column` and of the one after it; anything outside, zero where there is none.
#[cube]
pub(crate) fn bias_pair<T: Float>(
    bias: &ComptimeOption<&[T]>,
    geometry: &Geometry,
    batch: usize,
    column: usize,
) -> (f32, f32) {
    let mut low = 0.0f32.runtime();
    let mut high = 0.0f32.runtime();
    #[comptime]
    if let ComptimeOption::Some(bias) = bias {
        // No branches: they would keep the loads of many columns from overlapping.
        let start = batch * geometry.bias_batch;
        let last = geometry.columns - 1;
        low = f32::cast_from(bias[start + min(column, last) * geometry.bias_column]);
        high = f32::cast_from(bias[start + min(column + 1, last) * geometry.bias_column]);
    }
    (low, high)
}

/// A sum with the bias of its column, which lies inside, where there is one.
#[cube]
pub(crate) fn add_bias<T: Float>(
    sum: f32,
    bias: &ComptimeOption<&[T]>,
    geometry: &Geometry,
    batch: usize,
    column: usize,
) -> f32 {
    let mut sum = sum;
    #[comptime]
    if let ComptimeOption::Some(bias) = bias {
        sum += f32::cast_from(bias[batch * geometry.bias_batch + column * geometry.bias_column]);
    }
    sum
}

/// The output of one sum: bias, activation and merge.
#[cube]
pub(crate) fn finish_one<T: Float>(
    sum: f32,
    bias: &ComptimeOption<&[T]>,
    merged: &ComptimeOption<&[T]>,
    geometry: &Geometry,
    batch: usize,
    row: usize,
    column: usize,
    #[comptime] finish: Finish,
) -> f32 {
    let sum = add_bias::<T>(sum, bias, geometry, batch, column);
    merge::<T>(
        activate(sum, finish.activation),
        merged,
        geometry,
        batch,
        row,
        column,
        finish,
    )
}

/// The output after what follows the activation; unchanged outside `C`.
#[cube]
#[allow(
    clippy::collapsible_if,
    reason = "the outer condition is the compiler's, the inner one the device's"
)]
pub(crate) fn merge<T: Float>(
    output: f32,
    merged: &ComptimeOption<&[T]>,
    geometry: &Geometry,
    batch: usize,
    row: usize,
    column: usize,
    #[comptime] finish: Finish,
) -> f32 {
    let mut output = output;
    #[comptime]
    if let ComptimeOption::Some(merged) = merged {
        if row < geometry.rows && column < geometry.columns {
            let strides = &geometry.merged;
            let offset = batch * strides.batch + row * strides.row + column * strides.column;
            output = merge_one(output, f32::cast_from(merged[offset]), finish.merge);
        }
    }
    output
}

/// `output` times or plus `other`.
#[cube]
pub(crate) fn merge_one(output: f32, other: f32, #[comptime] merge: Option<Merge>) -> f32 {
    match comptime!(merge) {
        Some(Merge::Times) => output * other,
        Some(Merge::Plus) => output + other,
        None => output,
    }
}
