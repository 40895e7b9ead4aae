//! One unit per coupling.

use cubecl::prelude::*;

use super::geometry::{CoupleGeometry, offset};

/// `out[j, i, k] = Σ_t grad[j, t, k] source[i, t, k]`, summed in `f32`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn naive_couple_gradient<T: Float>(
    grad: &[T],
    source: &[T],
    out: &mut [T],
    geometry: CoupleGeometry,
    #[define(T)] _dtype: ElemType,
) {
    let position = ABSOLUTE_POS;
    if position >= geometry.blocks * geometry.blocks * geometry.rank {
        terminate!();
    }
    let k = position % geometry.rank;
    let i = (position / geometry.rank) % geometry.blocks;
    let j = position / (geometry.rank * geometry.blocks);
    let mut sum = 0.0f32;
    for token in 0..geometry.tokens {
        let g = f32::cast_from(grad[offset(&geometry.left, j, token, k)]);
        let y = f32::cast_from(source[offset(&geometry.source, i, token, k)]);
        sum += g * y;
    }
    out[offset(&geometry.out, j, i, k)] = T::cast_from(sum);
}
