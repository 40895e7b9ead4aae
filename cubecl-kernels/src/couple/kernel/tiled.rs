//! All output blocks of a few tokens per unit.

use cubecl::prelude::*;

use super::geometry::{CoupleGeometry, offset};
use crate::couple::plan::CoupleBlueprint;

/// `out[j, t, k] = Σ_i coupling[j, i, k] source[i, t, k]`, summed in `f32`.
///
/// Neighbouring units take neighbouring ranks. A unit sums all output blocks before it stores any of
/// them, so `out` may be `source` itself. Tokens past the end are read at the last one and never
/// stored: a branch around each load would cost more.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn tiled_couple<T: Float, N: Size>(
    coupling: &[Vector<T, N>],
    source: &[Vector<T, N>],
    out: &mut [Vector<T, N>],
    geometry: CoupleGeometry,
    #[comptime] blueprint: CoupleBlueprint,
    #[define(T)] _dtype: ElemType,
) {
    let outputs = comptime!(blueprint.outputs);
    let tokens = comptime!(blueprint.tokens);
    let vector = comptime!(blueprint.vector);
    let ranks = geometry.rank / vector;
    let groups = geometry.tokens.div_ceil(tokens);
    let position = ABSOLUTE_POS;
    if position >= groups * ranks {
        terminate!();
    }
    let k = (position % ranks) * vector;
    let token = (position / ranks) * tokens;

    let mut sums = Array::<Vector<f32, N>>::new(comptime!(outputs * tokens));
    let mut values = Array::<Vector<f32, N>>::new(tokens);
    #[unroll]
    for o in 0..comptime!(outputs * tokens) {
        sums[o] = Vector::new(0.0f32);
    }
    for i in 0..geometry.blocks {
        #[unroll]
        for t in 0..tokens {
            let at = select(token + t < geometry.tokens, token + t, geometry.tokens - 1);
            values[t] = Vector::cast_from(source[offset(&geometry.source, i, at, k) / vector]);
        }
        #[unroll]
        for o in 0..outputs {
            let s = Vector::<f32, N>::cast_from(coupling[offset(&geometry.left, o, i, k) / vector]);
            #[unroll]
            for t in 0..tokens {
                sums[comptime!(o * tokens + t)] += s * values[t];
            }
        }
    }
    #[unroll]
    for o in 0..outputs {
        #[unroll]
        for t in 0..tokens {
            if token + t < geometry.tokens {
                let at = offset(&geometry.out, o, token + t, k) / vector;
                out[at] = Vector::cast_from(sums[comptime!(o * tokens + t)]);
            }
        }
    }
}
