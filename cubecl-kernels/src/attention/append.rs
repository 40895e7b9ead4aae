//! Writes new rows into a cache, in place.

use cubecl::prelude::*;

use super::geometry::{Rows, rows};
use super::problem::RowStrides;
use crate::context::Context;
use crate::device::{check_cube, cubes_for_elements};
use crate::error::KernelError;
use crate::operand::{buffer, check_input};
use crate::strategy::Strategy;

const UNITS: u32 = 128;

/// Tensors of an append.
#[derive(Clone, Debug)]
pub struct AppendRows<R: Runtime> {
    /// `[batch, heads, tokens, width]`, contiguous features.
    pub rows: TensorBinding<R>,
    /// Where the first row goes, `[1]`, and its integer type.
    pub position: (TensorBinding<R>, ElemType),
    /// Written from that row on, `[batch, heads, capacity, width]`, contiguous features.
    pub cache: TensorBinding<R>,
}

/// Sizes of an append.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct AppendGeometry {
    heads: usize,
    tokens: usize,
    width: usize,
    elements: usize,
    capacity: usize,
    from: Rows,
    to: Rows,
}

/// Copies one vector of a row per unit; rows past the end of the cache are left out.
#[cube(launch_unchecked, address_type = "dynamic")]
fn append<T: Float, I: Int, N: Size>(
    from: &[Vector<T, N>],
    position: &[I],
    to: &mut [Vector<T, N>],
    geometry: AppendGeometry,
    #[comptime] vector: usize,
    #[define(T)] _dtype: ElemType,
    #[define(I)] _index: ElemType,
) {
    let element = ABSOLUTE_POS * vector;
    if element >= geometry.elements {
        terminate!();
    }
    let column = element % geometry.width;
    let token = (element / geometry.width) % geometry.tokens;
    let rest = element / (geometry.width * geometry.tokens);
    let (head, batch) = (rest % geometry.heads, rest / geometry.heads);
    let row = usize::cast_from(position[0]) + token;
    if row >= geometry.capacity {
        terminate!();
    }
    let read =
        batch * geometry.from.batch + head * geometry.from.head + token * geometry.from.token;
    let written = batch * geometry.to.batch + head * geometry.to.head + row * geometry.to.token;
    to[(written + column) / vector] = from[(read + column) / vector];
}

/// Computes `cache[.., position + i, ..] = rows[.., i, ..]` in place; the rest stays as it is, and
/// rows past the end of the cache are left out.
///
/// # Errors
///
/// [`KernelError::Shape`] or [`KernelError::Buffer`] if a tensor is not as [`AppendRows`] says,
/// [`KernelError::InvalidConfig`] if the cache is broadcast, [`KernelError::Unavailable`] if features
/// are not contiguous or the device can not run it. Nothing is launched then.
pub fn append_rows<R: Runtime>(
    client: &ComputeClient<R>,
    operands: AppendRows<R>,
    dtype: ElemType,
) -> Result<(), KernelError> {
    let AppendRows {
        rows: new,
        position: (position, index),
        cache,
    } = operands;
    let mut context = Context::new(client, dtype, &Strategy::Auto)?;
    let size =
        |binding: &TensorBinding<R>, axis: usize| binding.shape.get(axis).copied().unwrap_or(0);
    let [batch, heads, tokens, width] = [0, 1, 2, 3].map(|axis| size(&new, axis));
    let capacity = size(&cache, 2);
    context.input("rows", &new, &[batch, heads, tokens, width])?;
    context.output("cache", &cache, &[batch, heads, capacity, width])?;
    check_input("position", &position, &[1], index.size())?;
    let elements = batch * heads * tokens * width;
    if elements == 0 {
        return Ok(());
    }
    let (from, to) = (RowStrides::new(&new)?, RowStrides::new(&cache)?);
    let bytes = context.element_bytes;
    let fits = |vector: &usize| {
        width.is_multiple_of(*vector)
            && from.allows_vectors(*vector, bytes)
            && to.allows_vectors(*vector, bytes)
    };
    let vector = [8, 4, 2]
        .into_iter()
        .filter(|vector| vector * bytes <= 16)
        .find(fits)
        .unwrap_or(1);
    check_cube(client, UNITS as usize, 0)?;
    let count = cubes_for_elements(client, elements / vector, UNITS as usize)?;
    let address = context.address_type(elements)?;
    let geometry = AppendGeometryLaunch::new(
        heads,
        tokens,
        width,
        elements,
        capacity,
        rows(from),
        rows(to),
    );
    // SAFETY: shapes, strides and buffers have been checked, units past the last element and rows
    // past the cache end at once, and vectors are used only where width, strides and addresses are
    // multiples of them.
    unsafe {
        append::launch_unchecked::<R>(
            client,
            count,
            CubeDim::new_1d(UNITS),
            address,
            vector,
            buffer(new),
            buffer(position),
            buffer(cache),
            geometry,
            vector,
            dtype,
            index,
        );
    }
    Ok(())
}
