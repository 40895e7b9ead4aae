//! Rows of heads to another place: rotated by their angles, into a cache, or both.

use cubecl::prelude::*;

use super::geometry::{Rows, rows};
use super::problem::RowStrides;
use crate::context::Context;
use crate::device::{check_cube, cubes_for_elements};
use crate::error::{KernelError, Missing};
use crate::operand::{axis_size, buffer, check_input, widest_vector};
use crate::strategy::Strategy;

const UNITS: u32 = 128;

/// What pairs of features turn by: feature `i` with feature `i + width / 2`
/// ([Su et al. 2021](https://arxiv.org/abs/2104.09864), with the halves of a head as pairs).
#[derive(Clone, Debug)]
pub struct Angles<R: Runtime> {
    /// Cosines, `[1 or batch, tokens, width / 2]` in `f32`, contiguous.
    pub cos: TensorBinding<R>,
    /// Sines, the same.
    pub sin: TensorBinding<R>,
}

/// Tensors of an append. Features are contiguous.
#[derive(Clone, Debug)]
pub struct AppendRows<R: Runtime> {
    /// `[batch, heads, tokens, width]`.
    pub rows: TensorBinding<R>,
    /// What the rows turn by, if at all.
    pub angles: Option<Angles<R>>,
    /// Where the first row goes, `[1]`, and its integer type; nothing for the start.
    pub position: Option<(TensorBinding<R>, ElemType)>,
    /// Written from that row on, `[batch, heads, capacity, width]`.
    pub cache: TensorBinding<R>,
}

/// Sizes of an append.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct AppendGeometry {
    heads: usize,
    tokens: usize,
    /// Vectors of a row, or of half a row where it turns.
    pieces: usize,
    /// All vectors.
    all: usize,
    capacity: usize,
    from: Rows,
    to: Rows,
    /// Angles from one row of the batch to the next.
    angles: usize,
}

/// Moves one vector of a row per unit, or one of each half; rows past the end of the cache are left
/// out.
#[cube(launch_unchecked, address_type = "dynamic")]
fn append<T: Float, I: Int, N: Size>(
    from: &[Vector<T, N>],
    cos: ComptimeOption<&[Vector<f32, N>]>,
    sin: ComptimeOption<&[Vector<f32, N>]>,
    position: ComptimeOption<&[I]>,
    to: &mut [Vector<T, N>],
    geometry: AppendGeometry,
    #[comptime] vector: usize,
    #[define(T)] _dtype: ElemType,
    #[define(I)] _index: ElemType,
) {
    let index = ABSOLUTE_POS;
    if index >= geometry.all {
        terminate!();
    }
    let piece = index % geometry.pieces;
    let token = (index / geometry.pieces) % geometry.tokens;
    let rest = index / (geometry.pieces * geometry.tokens);
    let (head, batch) = (rest % geometry.heads, rest / geometry.heads);
    let mut row = token;
    #[comptime]
    if let ComptimeOption::Some(position) = position {
        row += usize::cast_from(position[0]);
    }
    if row >= geometry.capacity {
        terminate!();
    }
    let read =
        batch * geometry.from.batch + head * geometry.from.head + token * geometry.from.token;
    let read = read / vector + piece;
    let written = batch * geometry.to.batch + head * geometry.to.head + row * geometry.to.token;
    let written = written / vector + piece;
    #[comptime]
    match (cos, sin) {
        (ComptimeOption::Some(cos), ComptimeOption::Some(sin)) => {
            let at = batch * geometry.angles / vector + token * geometry.pieces + piece;
            let first = Vector::<f32, N>::cast_from(from[read]);
            let second = Vector::<f32, N>::cast_from(from[read + geometry.pieces]);
            to[written] = Vector::cast_from(first * cos[at] - second * sin[at]);
            to[written + geometry.pieces] = Vector::cast_from(second * cos[at] + first * sin[at]);
        }
        _ => {
            to[written] = from[read];
        }
    }
}

/// Computes `cache[.., position + i, ..] = rows[.., i, ..]` in place, each row turned by its angles
/// where there are some; the rest stays as it is, and rows past the end of the cache are left out.
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
        angles,
        position,
        cache,
    } = operands;
    let mut context = Context::new(client, dtype, &Strategy::Auto)?;
    let [batch, heads, tokens, width] = [0, 1, 2, 3].map(|axis| axis_size(&new, axis));
    let capacity = axis_size(&cache, 2);
    context.input("rows", &new, &[batch, heads, tokens, width])?;
    context.output("cache", &cache, &[batch, heads, capacity, width])?;
    if let Some((position, index)) = &position {
        check_input("position", position, &[1], index.size())?;
    }
    // Half of a row turns with the other.
    let parts = if angles.is_some() { 2 } else { 1 };
    let mut of_batch = 0;
    if let Some(Angles { cos, sin }) = &angles {
        let rows = if axis_size(cos, 0) == 1 { 1 } else { batch };
        for (name, angles) in [("cos", cos), ("sin", sin)] {
            let shape = [rows, tokens, width / 2];
            check_input(name, angles, &shape, size_of::<f32>())?;
            if angles.strides[..] != [tokens * (width / 2), width / 2, 1] {
                return Err(KernelError::Unavailable(Missing::TensorLayout));
            }
        }
        if rows > 1 {
            of_batch = tokens * (width / 2);
        }
    }
    if batch * heads * tokens * width == 0 {
        return Ok(());
    }
    let (from, to) = (RowStrides::new(&new)?, RowStrides::new(&cache)?);
    let bytes = context.element_bytes;
    let aligned = |angles: &Angles<R>| {
        [&angles.cos, &angles.sin]
            .iter()
            .all(|angles| angles.handle.offset_start.unwrap_or(0).is_multiple_of(16))
    };
    let fits = |vector: usize| {
        width.is_multiple_of(parts * vector)
            && from.allows_vectors(vector, bytes)
            && to.allows_vectors(vector, bytes)
            // The angles are f32: four of them are the widest access.
            && angles.as_ref().is_none_or(|angles| vector <= 4 && aligned(angles))
    };
    let vector = widest_vector(16 / bytes, fits);
    if !width.is_multiple_of(parts) {
        return Err(KernelError::Unavailable(Missing::TensorLayout));
    }
    check_cube(client, UNITS as usize, 0)?;
    let pieces = width / parts / vector;
    let all = batch * heads * tokens * pieces;
    let count = cubes_for_elements(client, all, UNITS as usize)?;
    let address = context.address_type(batch * heads * tokens * width)?;
    let geometry = AppendGeometryLaunch::new(
        heads,
        tokens,
        pieces,
        all,
        capacity,
        rows(from),
        rows(to),
        of_batch,
    );
    let index = position
        .as_ref()
        .map_or(u32::elem_type_native(), |(_, index)| *index);
    let (cos, sin) = match angles {
        Some(Angles { cos, sin }) => (Some(buffer(cos)), Some(buffer(sin))),
        None => (None, None),
    };
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
            cos.into(),
            sin.into(),
            position.map(|(position, _)| buffer(position)).into(),
            buffer(cache),
            geometry,
            vector,
            dtype,
            index,
        );
    }
    Ok(())
}
