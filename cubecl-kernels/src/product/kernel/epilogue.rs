//! What is done to sums before they are stored.

use cubecl::prelude::*;

use super::geometry::Geometry;
use crate::activation::activate;
use crate::epilogue::{Finish, Merge};

/// Bias of `column` and of the one after it; zero outside, and where there is none.
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
        let offset = batch * geometry.bias_batch + column * geometry.bias_column;
        if column < geometry.columns {
            low = f32::cast_from(bias[offset]);
        }
        if column + 1 < geometry.columns {
            high = f32::cast_from(bias[offset + geometry.bias_column]);
        }
    }
    (low, high)
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
    let mut sum = sum;
    #[comptime]
    if let ComptimeOption::Some(bias) = bias {
        sum += f32::cast_from(bias[batch * geometry.bias_batch + column * geometry.bias_column]);
    }
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
            let other = f32::cast_from(merged[offset]);
            if comptime!(finish.merge == Some(Merge::Times)) {
                output *= other;
            } else {
                output += other;
            }
        }
    }
    output
}
