//! Checks a norm, then starts it.

use cubecl::prelude::*;

use super::kernel::{NormBlueprint, NormGeometryLaunch, RowAxesLaunch, add_norm_rows};
use crate::context::Context;
use crate::device::{check_cube, cubes_for_elements, shuffles};
use crate::error::{KernelError, Missing};
use crate::operand::{axis_size, buffer, check_input, widest_vector};
use crate::over_units::OverUnits;
use crate::strategy::Strategy;

/// Most vectors that a unit holds.
const MAX_HELD: usize = 16;

/// How a row is normalized, over its features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Norm {
    /// `x / √(mean(x²) + ε)`.
    Rms,
    /// `(x - mean(x)) / √(variance(x) + ε)`.
    Layer,
}

/// What is added to the input first.
#[derive(Clone, Debug)]
pub struct Residual<R: Runtime> {
    /// `[batch, tokens, features]`.
    pub residual: TensorBinding<R>,
    /// Multiplies it, `[batch, features]`.
    pub gate: Option<TensorBinding<R>>,
    /// Written, `[batch, tokens, features]`: the sum.
    pub sum: TensorBinding<R>,
}

/// What becomes of the normalized row.
#[derive(Clone, Debug)]
pub enum Affine<R: Runtime> {
    /// `y · scale + shift`, where there are these; `[features]`, in `f32`.
    Features {
        /// Multiplied with.
        scale: Option<TensorBinding<R>>,
        /// Added.
        shift: Option<TensorBinding<R>>,
    },
    /// `y · (1 + scale) + shift`, both `[batch, features]` in the element type.
    Modulated {
        /// What it is multiplied with, less one.
        scale: TensorBinding<R>,
        /// Added.
        shift: TensorBinding<R>,
    },
}

/// Tensors of a norm. Features are contiguous in all of them.
#[derive(Clone, Debug)]
pub struct AddNorm<R: Runtime> {
    /// `[batch, tokens, features]`.
    pub input: TensorBinding<R>,
    /// Added before, where there is one.
    pub residual: Option<Residual<R>>,
    /// Scale and shift.
    pub affine: Affine<R>,
    /// Written, `[batch, tokens, features]`.
    pub output: TensorBinding<R>,
}

/// A tensor whose rows are read or written in vectors.
struct Rows {
    batch: usize,
    token: usize,
}

/// Computes `sum = input + gate · residual` and `output = norm(sum) · scale + shift`.
///
/// # Errors
///
/// [`KernelError::Shape`] or [`KernelError::Buffer`] if a tensor is not as [`AddNorm`] says,
/// [`KernelError::InvalidConfig`] if one that is written is broadcast, [`KernelError::Unavailable`] if
/// features are not contiguous or too many, or the device can not run it. Nothing is launched then.
pub fn add_norm<R: Runtime>(
    client: &ComputeClient<R>,
    operands: AddNorm<R>,
    norm: Norm,
    epsilon: f64,
    dtype: ElemType,
) -> Result<(), KernelError> {
    let AddNorm {
        input,
        residual,
        affine,
        output,
    } = operands;
    let mut context = Context::new(client, dtype, &Strategy::Auto)?;
    let [batch, tokens, features] = [0, 1, 2].map(|axis| axis_size(&input, axis));
    let full = [batch, tokens, features];
    context.input("input", &input, &full)?;
    context.output("output", &output, &full)?;
    let (residual, gate, sum) = match residual {
        None => (None, None, None),
        Some(Residual {
            residual,
            gate,
            sum,
        }) => {
            context.input("residual", &residual, &full)?;
            context.output("sum", &sum, &full)?;
            if let Some(gate) = &gate {
                context.input("gate", gate, &[batch, features])?;
            }
            (Some(residual), gate, Some(sum))
        }
    };
    let (scale, shift, modulated) = match affine {
        Affine::Features { scale, shift } => {
            for (name, binding) in [("scale", &scale), ("shift", &shift)] {
                if let Some(binding) = binding {
                    check_input(name, binding, &[features], size_of::<f32>())?;
                }
            }
            (scale, shift, false)
        }
        Affine::Modulated { scale, shift } => {
            context.input("scale", &scale, &[batch, features])?;
            context.input("shift", &shift, &[batch, features])?;
            (Some(scale), Some(shift), true)
        }
    };
    let rows = batch * tokens;
    if rows * features == 0 {
        return Ok(());
    }

    let all = [
        Some(&input),
        Some(&output),
        residual.as_ref(),
        gate.as_ref(),
        sum.as_ref(),
        scale.as_ref(),
        shift.as_ref(),
    ];
    let vector = vector(all.into_iter().flatten(), features)?;
    let pieces = features / vector;
    let units = pieces.next_multiple_of(32).clamp(32, 256);
    let over = OverUnits {
        units,
        shuffles: shuffles(client),
    };
    let blueprint = NormBlueprint {
        norm,
        over,
        held: pieces.div_ceil(units),
        vector,
        modulated,
    };
    if blueprint.held > MAX_HELD {
        return Err(KernelError::Unavailable(Missing::TensorLayout));
    }
    // Those of the mean, and of the square.
    check_cube(client, units, 2 * over.entries() * size_of::<f32>())?;
    let count = cubes_for_elements(client, rows, 1)?;
    let address = context.address_type(rows)?;
    let rows_of = |binding: Option<&TensorBinding<R>>| {
        let strides = binding.map_or([0; 2], |binding| [binding.strides[0], binding.strides[1]]);
        Rows {
            batch: strides[0] / vector,
            token: strides[1] / vector,
        }
    };
    // Of `[batch, features]`; one row for all where it is `[features]`.
    let batch_of = |binding: Option<&TensorBinding<R>>| match binding {
        Some(binding) if binding.shape.len() == 2 => binding.strides[0] / vector,
        _ => 0,
    };
    let axes = |rows: Rows| RowAxesLaunch::new(rows.batch, rows.token);
    let geometry = NormGeometryLaunch::new(
        rows,
        tokens,
        pieces,
        features as f32,
        axes(rows_of(Some(&input))),
        axes(rows_of(residual.as_ref())),
        batch_of(gate.as_ref()),
        batch_of(scale.as_ref()),
        batch_of(shift.as_ref()),
        axes(rows_of(sum.as_ref())),
        axes(rows_of(Some(&output))),
        epsilon as f32,
    );
    let affine = match modulated {
        true => dtype,
        false => f32::elem_type_native(),
    };
    // SAFETY: shapes, strides and buffers have been checked, cubes past the last row and units past
    // the end of a row do nothing, and vectors are used only where features, strides and addresses
    // are multiples of them.
    unsafe {
        add_norm_rows::launch_unchecked::<R>(
            client,
            count,
            CubeDim::new_1d(units as u32),
            address,
            vector,
            buffer(input),
            residual.map(buffer).into(),
            gate.map(buffer).into(),
            scale.map(buffer).into(),
            shift.map(buffer).into(),
            sum.map(buffer).into(),
            buffer(output),
            geometry,
            blueprint,
            dtype,
            affine,
        );
    }
    Ok(())
}

/// The most elements, up to four, that the rows of all tensors can be cut into.
///
/// Four elements of `f32` are the widest access, and scale and shift may be that.
fn vector<'a, R: Runtime>(
    tensors: impl Iterator<Item = &'a TensorBinding<R>> + Clone,
    features: usize,
) -> Result<usize, KernelError> {
    let contiguous = |binding: &TensorBinding<R>| binding.strides.last() == Some(&1);
    if features > 1 && !tensors.clone().all(contiguous) {
        return Err(KernelError::Unavailable(Missing::TensorLayout));
    }
    let fits = |vector: usize| {
        features.is_multiple_of(vector)
            && tensors.clone().all(|binding| {
                let offset = binding.handle.offset_start.unwrap_or(0);
                let outer = &binding.strides[..binding.strides.len() - 1];
                // 16 bytes serve every element type.
                offset.is_multiple_of(16)
                    && outer.iter().all(|stride| stride.is_multiple_of(vector))
            })
    };
    Ok(widest_vector(4, fits))
}
