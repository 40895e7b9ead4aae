//! One unit per token and rank.

use cubecl::prelude::*;

use super::geometry::{CoupleGeometry, offset};

/// `out[j, t, k] = Σ_i coupling[j, i, k] source[i, t, k]`, summed in `f32`.
///
/// `out` may be `source` itself: a unit reads all that it replaces before it stores anything.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn naive_couple<T: Float>(
    coupling: &[T],
    source: &[T],
    out: &mut [T],
    geometry: CoupleGeometry,
    #[comptime] blocks: usize,
    #[define(T)] _dtype: ElemType,
) {
    let position = ABSOLUTE_POS;
    if position >= geometry.tokens * geometry.rank {
        terminate!();
    }
    let k = position % geometry.rank;
    let token = position / geometry.rank;
    let mut values = Array::<f32>::new(blocks);
    for i in 0..blocks {
        values[i] = f32::cast_from(source[offset(&geometry.source, i, token, k)]);
    }
    for j in 0..blocks {
        let mut sum = 0.0f32;
        for i in 0..blocks {
            sum += f32::cast_from(coupling[offset(&geometry.left, j, i, k)]) * values[i];
        }
        out[offset(&geometry.out, j, token, k)] = T::cast_from(sum);
    }
}
