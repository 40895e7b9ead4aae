//! The bias of neighbouring columns.

use cubecl::prelude::*;

use super::geometry::Geometry;

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
