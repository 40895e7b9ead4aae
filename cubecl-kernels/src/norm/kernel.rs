//! One token per cube.

use cubecl::prelude::*;

use super::launch::Norm;
use crate::over_units::{OverUnits, Reduction, over_units};

/// Sizes and strides, in vectors.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct NormGeometry {
    /// Rows of all batches.
    pub rows: usize,
    pub tokens: usize,
    /// Vectors of a row.
    pub pieces: usize,
    pub features: f32,
    pub input: RowAxes,
    pub residual: RowAxes,
    /// Stride of the batch.
    pub gate: usize,
    pub scale: usize,
    pub shift: usize,
    pub sum: RowAxes,
    pub output: RowAxes,
    pub epsilon: f32,
}

/// Vectors between neighbours of a tensor `[batch, tokens, features]`.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct RowAxes {
    pub batch: usize,
    pub token: usize,
}

/// What is known when the kernel is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NormBlueprint {
    pub norm: Norm,
    /// The units of a cube.
    pub over: OverUnits,
    /// Vectors of a unit.
    pub held: usize,
    /// Elements of a vector.
    pub vector: usize,
    /// Whether one is added to the scale, and scale and shift are those of a row of the batch.
    pub modulated: bool,
}

#[cube]
fn row_start(axes: &RowAxes, batch: usize, token: usize) -> usize {
    batch * axes.batch + token * axes.token
}

/// Adds the residual to one row per cube, stores that, and stores the row normalized.
///
/// `S` is the type of scale and shift.
#[cube(launch_unchecked, address_type = "dynamic")]
#[expect(
    clippy::too_many_arguments,
    reason = "each tensor is an argument of the launch"
)]
pub(crate) fn add_norm_rows<T: Float, S: Float, N: Size>(
    input: &[Vector<T, N>],
    residual: ComptimeOption<&[Vector<T, N>]>,
    gate: ComptimeOption<&[Vector<T, N>]>,
    scale: ComptimeOption<&[Vector<S, N>]>,
    shift: ComptimeOption<&[Vector<S, N>]>,
    sum: ComptimeOption<&mut [Vector<T, N>]>,
    output: &mut [Vector<T, N>],
    geometry: NormGeometry,
    #[comptime] blueprint: NormBlueprint,
    #[define(T)] _dtype: ElemType,
    #[define(S)] _affine: ElemType,
) {
    let over = comptime!(blueprint.over);
    let units = comptime!(over.units);
    let held = comptime!(blueprint.held);
    let unit = UNIT_POS as usize;
    let row = CUBE_POS;
    if row >= geometry.rows {
        terminate!();
    }
    let (batch, token) = (row / geometry.tokens, row % geometry.tokens);
    let mut values = Array::<Vector<f32, N>>::new(held);
    let from = row_start(&geometry.input, batch, token);

    #[comptime]
    match residual {
        ComptimeOption::Some(residual) => {
            let added = row_start(&geometry.residual, batch, token);
            #[unroll]
            for i in 0..held {
                values[i] = Vector::new(0.0f32);
                let piece = unit + comptime!(i * units);
                if piece < geometry.pieces {
                    let mut more = Vector::<f32, N>::cast_from(residual[added + piece]);
                    #[comptime]
                    if let ComptimeOption::Some(gate) = &gate {
                        more *= Vector::cast_from(gate[batch * geometry.gate + piece]);
                    }
                    values[i] = Vector::cast_from(input[from + piece]) + more;
                }
            }
        }
        ComptimeOption::None =>
        {
            #[unroll]
            for i in 0..held {
                values[i] = Vector::new(0.0f32);
                let piece = unit + comptime!(i * units);
                if piece < geometry.pieces {
                    values[i] = Vector::cast_from(input[from + piece]);
                }
            }
        }
    }
    #[comptime]
    if let ComptimeOption::Some(sum) = sum {
        let to = row_start(&geometry.sum, batch, token);
        #[unroll]
        for i in 0..held {
            let piece = unit + comptime!(i * units);
            if piece < geometry.pieces {
                let rounded = Vector::<T, N>::cast_from(values[i]);
                sum[to + piece] = rounded;
                values[i] = Vector::cast_from(rounded);
            }
        }
    }

    // On their way while the row is reduced.
    let mut scales = Array::<Vector<f32, N>>::new(held);
    let mut shifts = Array::<Vector<f32, N>>::new(held);
    #[unroll]
    for i in 0..held {
        let piece = min(unit + comptime!(i * units), geometry.pieces - 1);
        #[comptime]
        if let ComptimeOption::Some(scale) = &scale {
            scales[i] = Vector::cast_from(scale[batch * geometry.scale + piece]);
        }
        #[comptime]
        if let ComptimeOption::Some(shift) = &shift {
            shifts[i] = Vector::cast_from(shift[batch * geometry.shift + piece]);
        }
    }

    if comptime!(blueprint.norm == Norm::Layer) {
        let mut entries = Shared::<[f32]>::new_slice(comptime!(over.entries()));
        let mut own = 0.0f32.runtime();
        #[unroll]
        for i in 0..held {
            own += elements(values[i], blueprint.vector);
        }
        let mean = over_units(&mut entries, own, over, Reduction::Sum) / geometry.features;
        #[unroll]
        for i in 0..held {
            if unit + comptime!(i * units) < geometry.pieces {
                values[i] -= Vector::new(mean);
            }
        }
    }
    let mut entries = Shared::<[f32]>::new_slice(comptime!(over.entries()));
    let mut own = 0.0f32.runtime();
    #[unroll]
    for i in 0..held {
        own += elements(values[i] * values[i], blueprint.vector);
    }
    let square = over_units(&mut entries, own, over, Reduction::Sum) / geometry.features;
    let factor = 1.0f32 / (square + geometry.epsilon).sqrt();

    let to = row_start(&geometry.output, batch, token);
    #[unroll]
    for i in 0..held {
        let piece = unit + comptime!(i * units);
        if piece < geometry.pieces {
            let mut value = values[i] * Vector::new(factor);
            #[comptime]
            if let ComptimeOption::Some(_) = &scale {
                if comptime!(blueprint.modulated) {
                    value *= scales[i] + Vector::new(1.0f32);
                } else {
                    value *= scales[i];
                }
            }
            #[comptime]
            if let ComptimeOption::Some(_) = &shift {
                value += shifts[i];
            }
            output[to + piece] = Vector::cast_from(value);
        }
    }
}

/// The sum of the elements of a vector.
#[cube]
fn elements<N: Size>(vector: Vector<f32, N>, #[comptime] size: usize) -> f32 {
    let mut sum = 0.0f32.runtime();
    #[unroll]
    for i in 0..size {
        sum += vector.extract(i);
    }
    sum
}
