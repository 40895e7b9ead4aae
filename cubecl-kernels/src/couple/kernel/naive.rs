//! One unit per coupled element.

use cubecl::prelude::*;

use super::geometry::{CoupleGeometry, offset};

/// `out[j, t, k] = Σ_i coupling[j, i, k] source[i, t, k]`, summed in `f32`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn naive_couple<T: Float>(
    coupling: &[T],
    source: &[T],
    out: &mut [T],
    geometry: CoupleGeometry,
    #[define(T)] _dtype: ElemType,
) {
    let position = ABSOLUTE_POS;
    if position >= geometry.blocks * geometry.tokens * geometry.rank {
        terminate!();
    }
    let k = position % geometry.rank;
    let token = (position / geometry.rank) % geometry.tokens;
    let j = position / (geometry.rank * geometry.tokens);
    let mut sum = 0.0f32;
    for i in 0..geometry.blocks {
        let s = f32::cast_from(coupling[offset(&geometry.left, j, i, k)]);
        let y = f32::cast_from(source[offset(&geometry.source, i, token, k)]);
        sum += s * y;
    }
    out[offset(&geometry.out, j, token, k)] = T::cast_from(sum);
}
