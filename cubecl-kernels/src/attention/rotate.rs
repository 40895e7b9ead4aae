//! Rows of heads turned by their angles.

use cubecl::prelude::*;

use super::geometry::{Rows, rows};
use super::problem::RowStrides;
use crate::context::Context;
use crate::device::{check_cube, cubes_for_elements};
use crate::error::{KernelError, Missing};
use crate::operand::{axis_size, buffer, check_input, widest_vector};
use crate::strategy::Strategy;

pub(super) const UNITS: u32 = 128;

/// What pairs of features turn by: feature `i` with feature `i + width / 2`
/// ([Su et al. 2021](https://arxiv.org/abs/2104.09864), with the halves of a head as pairs).
#[derive(Clone, Debug)]
pub struct Angles<R: Runtime> {
    /// Cosines, `[1 or batch, tokens, width / 2]` in `f32`, contiguous.
    pub cos: TensorBinding<R>,
    /// Sines, the same.
    pub sin: TensorBinding<R>,
}

impl<R: Runtime> Angles<R> {
    /// Checks them for rows of a batch, and gives the angles from one row of the batch to the next.
    ///
    /// # Errors
    ///
    /// [`KernelError::Shape`] or [`KernelError::Buffer`] if they are for others,
    /// [`KernelError::Unavailable`] if they are not contiguous.
    pub(super) fn check(
        &self,
        batch: usize,
        tokens: usize,
        width: usize,
    ) -> Result<usize, KernelError> {
        let rows = if axis_size(&self.cos, 0) == 1 {
            1
        } else {
            batch
        };
        let pairs = width / 2;
        for (name, angles) in [("cos", &self.cos), ("sin", &self.sin)] {
            let shape = [rows, tokens, pairs];
            check_input(name, angles, &shape, size_of::<f32>())?;
            if angles.strides[..] != [tokens * pairs, pairs, 1] {
                return Err(KernelError::Unavailable(Missing::TensorLayout));
            }
        }
        Ok(if rows > 1 { tokens * pairs } else { 0 })
    }

    /// Whether several of them can be read at once, beside as many features: four at most, since they
    /// are `f32`.
    pub(super) fn allow_vectors(&self, vector: usize) -> bool {
        let aligned = |angles: &TensorBinding<R>| {
            let offset = angles.handle.offset_start.unwrap_or(0);
            offset.is_multiple_of(16)
        };
        vector <= 4 && aligned(&self.cos) && aligned(&self.sin)
    }
}

/// The two halves of a vector of pairs, turned.
///
/// Differences and sums are fused with one of their products here: left to the assembler of CUDA, which
/// fuses one or the other, kernels would differ in the last bit.
#[cube]
pub(super) fn turn<T: Float, N: Size>(
    first: Vector<T, N>,
    second: Vector<T, N>,
    cos: Vector<f32, N>,
    sin: Vector<f32, N>,
) -> (Vector<T, N>, Vector<T, N>) {
    let first = Vector::<f32, N>::cast_from(first);
    let second = Vector::<f32, N>::cast_from(second);
    (
        Vector::cast_from(fma(first, cos, -(second * sin))),
        Vector::cast_from(fma(second, cos, first * sin)),
    )
}

/// Tensors of a rotation. Features are contiguous.
#[derive(Clone, Debug)]
pub struct RotateRows<R: Runtime> {
    /// `[batch, heads, tokens, width]`.
    pub rows: TensorBinding<R>,
    /// What the rows turn by.
    pub angles: Angles<R>,
    /// Written, of the same shape; may be the rows themselves.
    pub output: TensorBinding<R>,
}

/// Sizes of a rotation.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct RotateGeometry {
    heads: usize,
    tokens: usize,
    /// Vectors of half a row.
    pieces: usize,
    /// Those of all rows.
    all: usize,
    from: Rows,
    to: Rows,
    /// Angles from one row of the batch to the next.
    angles: usize,
}

/// Turns one vector of pairs per unit.
#[cube(launch_unchecked, address_type = "dynamic")]
fn rotate<T: Float, N: Size>(
    from: &[Vector<T, N>],
    cos: &[Vector<f32, N>],
    sin: &[Vector<f32, N>],
    to: &mut [Vector<T, N>],
    geometry: RotateGeometry,
    #[comptime] vector: usize,
    #[define(T)] _dtype: ElemType,
) {
    let index = ABSOLUTE_POS;
    if index >= geometry.all {
        terminate!();
    }
    let piece = index % geometry.pieces;
    let token = (index / geometry.pieces) % geometry.tokens;
    let rest = index / (geometry.pieces * geometry.tokens);
    let (head, batch) = (rest % geometry.heads, rest / geometry.heads);
    let read = geometry.from.row(batch, head, token) / vector + piece;
    let written = geometry.to.row(batch, head, token) / vector + piece;
    let at = batch * geometry.angles / vector + token * geometry.pieces + piece;
    // Both halves are read before any is written.
    let (first, second) = turn(from[read], from[read + geometry.pieces], cos[at], sin[at]);
    to[written] = first;
    to[written + geometry.pieces] = second;
}

/// Computes `output[.., i, ..] = rows[.., i, ..]` turned by its angles.
///
/// # Errors
///
/// [`KernelError::Shape`] or [`KernelError::Buffer`] if a tensor is not as [`RotateRows`] says,
/// [`KernelError::InvalidConfig`] if the output is broadcast, [`KernelError::Unavailable`] if features
/// are not contiguous or the device can not run it. Nothing is launched then.
pub fn rotate_rows<R: Runtime>(
    client: &ComputeClient<R>,
    operands: RotateRows<R>,
    dtype: ElemType,
) -> Result<(), KernelError> {
    let RotateRows {
        rows: new,
        angles,
        output,
    } = operands;
    let mut context = Context::new(client, dtype, &Strategy::Auto)?;
    let shape @ [batch, heads, tokens, width] = [0, 1, 2, 3].map(|axis| axis_size(&new, axis));
    context.input("rows", &new, &shape)?;
    context.output("output", &output, &shape)?;
    let of_batch = angles.check(batch, tokens, width)?;
    let elements: usize = shape.iter().product();
    if elements == 0 {
        return Ok(());
    }
    if !width.is_multiple_of(2) {
        return Err(KernelError::Unavailable(Missing::TensorLayout));
    }
    let (from, to) = (RowStrides::new(&new)?, RowStrides::new(&output)?);
    let bytes = context.element_bytes;
    let fits = |vector: usize| {
        width.is_multiple_of(2 * vector)
            && from.allows_vectors(vector, bytes)
            && to.allows_vectors(vector, bytes)
            && angles.allow_vectors(vector)
    };
    let vector = widest_vector(16 / bytes, fits);
    check_cube(client, UNITS as usize, 0)?;
    let all = elements / 2 / vector;
    let count = cubes_for_elements(client, all, UNITS as usize)?;
    let address = context.address_type(elements)?;
    let pieces = width / 2 / vector;
    let geometry =
        RotateGeometryLaunch::new(heads, tokens, pieces, all, rows(from), rows(to), of_batch);
    // SAFETY: shapes, strides and buffers have been checked, units past the last element end at once,
    // and vectors are used only where width, strides and addresses are multiples of them.
    unsafe {
        rotate::launch_unchecked::<R>(
            client,
            count,
            CubeDim::new_1d(UNITS),
            address,
            vector,
            buffer(new),
            buffer(angles.cos),
            buffer(angles.sin),
            buffer(output),
            geometry,
            vector,
            dtype,
        );
    }
    Ok(())
}
