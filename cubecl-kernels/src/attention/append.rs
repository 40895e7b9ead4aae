//! Keys and values into a cache, keys turned on the way, and queries turned beside them.

use cubecl::prelude::*;

use super::geometry::{Rows, rows};
use super::problem::RowStrides;
use super::rotate::{Angles, UNITS, turn};
use crate::context::Context;
use crate::device::{check_cube, cubes_for_elements};
use crate::error::{KernelError, Missing};
use crate::operand::{axis_size, buffer, check_input, widest_vector};
use crate::strategy::Strategy;

/// Queries that turn with the keys.
#[derive(Clone, Debug)]
pub struct TurnedQuery<R: Runtime> {
    /// `[batch, query heads, tokens, width]`.
    pub query: TensorBinding<R>,
    /// What queries and keys turn by.
    pub angles: Angles<R>,
    /// Written, of the shape of the queries; may be the queries themselves.
    pub output: TensorBinding<R>,
}

/// Tensors of an append. Features are contiguous.
#[derive(Clone, Debug)]
pub struct AppendKeyValue<R: Runtime> {
    /// `[batch, heads, tokens, width]`.
    pub key: TensorBinding<R>,
    /// The same.
    pub value: TensorBinding<R>,
    /// Queries, where these and the keys turn.
    pub turned: Option<TurnedQuery<R>>,
    /// Where the first row goes, `[1]`, and its integer type.
    pub position: (TensorBinding<R>, ElemType),
    /// Written from that row on, `[batch, heads, capacity, width]`.
    pub keys: TensorBinding<R>,
    /// The same.
    pub values: TensorBinding<R>,
}

/// Sizes of an append.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct AppendGeometry {
    heads: usize,
    query_heads: usize,
    tokens: usize,
    /// Vectors of half a row.
    pieces: usize,
    /// Those of all keys.
    of_keys: usize,
    /// Those of keys, values and queries.
    all: usize,
    capacity: usize,
    key: Rows,
    value: Rows,
    query: Rows,
    keys: Rows,
    values: Rows,
    output: Rows,
    /// Angles from one row of the batch to the next.
    angles: usize,
}

/// Moves a vector of each half of a row per unit: of the keys, then of the values, then of the queries.
/// Rows past the end of the cache are left out.
#[cube(launch_unchecked, address_type = "dynamic")]
fn append<T: Float, I: Int, N: Size>(
    key: &[Vector<T, N>],
    value: &[Vector<T, N>],
    query: ComptimeOption<&[Vector<T, N>]>,
    cos: ComptimeOption<&[Vector<f32, N>]>,
    sin: ComptimeOption<&[Vector<f32, N>]>,
    position: &[I],
    keys: &mut [Vector<T, N>],
    values: &mut [Vector<T, N>],
    output: &mut [Vector<T, N>],
    geometry: AppendGeometry,
    #[comptime] vector: usize,
    #[define(T)] _dtype: ElemType,
    #[define(I)] _index: ElemType,
) {
    let index = ABSOLUTE_POS;
    if index >= geometry.all {
        terminate!();
    }
    let pieces = geometry.pieces;
    let part = index / geometry.of_keys;
    let queries = part >= 2;
    let index = select(
        queries,
        index - 2 * geometry.of_keys,
        index % geometry.of_keys,
    );
    let heads = select(queries, geometry.query_heads, geometry.heads);
    let piece = index % pieces;
    let token = (index / pieces) % geometry.tokens;
    let rest = index / (pieces * geometry.tokens);
    let (head, batch) = (rest % heads, rest / heads);
    let row = usize::cast_from(position[0]) + token;
    let at = batch * geometry.angles / vector + token * pieces + piece;
    if queries {
        #[comptime]
        if let (ComptimeOption::Some(query), ComptimeOption::Some(cos), ComptimeOption::Some(sin)) =
            (query, cos, sin)
        {
            let read = geometry.query.row(batch, head, token) / vector + piece;
            let written = geometry.output.row(batch, head, token) / vector + piece;
            // Both halves are read before any is written.
            let (first, second) = turn(query[read], query[read + pieces], cos[at], sin[at]);
            output[written] = first;
            output[written + pieces] = second;
        }
    } else if row < geometry.capacity {
        if part == 0 {
            let read = geometry.key.row(batch, head, token) / vector + piece;
            let written = geometry.keys.row(batch, head, row) / vector + piece;
            #[comptime]
            match (cos, sin) {
                (ComptimeOption::Some(cos), ComptimeOption::Some(sin)) => {
                    let (first, second) = turn(key[read], key[read + pieces], cos[at], sin[at]);
                    keys[written] = first;
                    keys[written + pieces] = second;
                }
                _ => {
                    keys[written] = key[read];
                    keys[written + pieces] = key[read + pieces];
                }
            }
        } else {
            let read = geometry.value.row(batch, head, token) / vector + piece;
            let written = geometry.values.row(batch, head, row) / vector + piece;
            values[written] = value[read];
            values[written + pieces] = value[read + pieces];
        }
    }
}

/// Computes `keys[.., position + i, ..] = key[.., i, ..]`, and the same for values, in place, with keys and queries
/// turned by their angles where there are some; the rest of the cache stays as it is, and rows past
/// its end are left out.
///
/// # Errors
///
/// [`KernelError::Shape`] or [`KernelError::Buffer`] if a tensor is not as [`AppendKeyValue`] says,
/// [`KernelError::InvalidConfig`] if a written one is broadcast, [`KernelError::Unavailable`] if features
/// are not contiguous or of odd number, or the device can not run it. Nothing is launched then.
pub fn append_key_value<R: Runtime>(
    client: &ComputeClient<R>,
    operands: AppendKeyValue<R>,
    dtype: ElemType,
) -> Result<(), KernelError> {
    let AppendKeyValue {
        key,
        value,
        turned,
        position: (position, index),
        keys,
        values,
    } = operands;
    let mut context = Context::new(client, dtype, &Strategy::Auto)?;
    let shape @ [batch, heads, tokens, width] = [0, 1, 2, 3].map(|axis| axis_size(&key, axis));
    let capacity = axis_size(&keys, 2);
    let cache = [batch, heads, capacity, width];
    context.input("key", &key, &shape)?;
    context.input("value", &value, &shape)?;
    check_input("position", &position, &[1], index.size())?;
    context.output("keys", &keys, &cache)?;
    context.output("values", &values, &cache)?;
    let (mut query_heads, mut of_batch) = (0, 0);
    if let Some(turned) = &turned {
        query_heads = axis_size(&turned.query, 1);
        let shape = [batch, query_heads, tokens, width];
        context.input("query", &turned.query, &shape)?;
        context.output("output", &turned.output, &shape)?;
        of_batch = turned.angles.check(batch, tokens, width)?;
    }
    if batch * heads * tokens * width == 0 {
        return Ok(());
    }
    if !width.is_multiple_of(2) {
        return Err(KernelError::Unavailable(Missing::TensorLayout));
    }
    let strides = |binding: &TensorBinding<R>| RowStrides::new(binding);
    let [of_key, of_value] = [strides(&key)?, strides(&value)?];
    let [of_keys, of_values] = [strides(&keys)?, strides(&values)?];
    // Without queries nothing reads their strides.
    let [of_query, of_output] = match &turned {
        Some(turned) => [strides(&turned.query)?, strides(&turned.output)?],
        None => [of_key, of_keys],
    };
    let bytes = context.element_bytes;
    let all_strides = [of_key, of_value, of_query, of_keys, of_values, of_output];
    let fits = |vector: usize| {
        width.is_multiple_of(2 * vector)
            && all_strides
                .iter()
                .all(|strides| strides.allows_vectors(vector, bytes))
            && turned
                .as_ref()
                .is_none_or(|turned| turned.angles.allow_vectors(vector))
    };
    let vector = widest_vector(16 / bytes, fits);
    check_cube(client, UNITS as usize, 0)?;
    // Keys, values, both caches and the position; query, its output and two angles; and the sizes.
    let required = if turned.is_some() { 10 } else { 7 };
    let limit = client.properties().hardware.max_bindings as usize;
    if required > limit {
        return Err(KernelError::Unavailable(Missing::Bindings {
            required,
            limit,
        }));
    }
    let pieces = width / 2 / vector;
    let key_pieces = batch * heads * tokens * pieces;
    let all = 2 * key_pieces + batch * query_heads * tokens * pieces;
    let count = cubes_for_elements(client, all, UNITS as usize)?;
    let address = context.address_type(all * 2 * vector)?;
    let [
        key_rows,
        value_rows,
        query_rows,
        keys_rows,
        values_rows,
        output_rows,
    ] = all_strides.map(rows);
    let geometry = AppendGeometryLaunch::new(
        heads,
        query_heads.max(1),
        tokens,
        pieces,
        key_pieces,
        all,
        capacity,
        key_rows,
        value_rows,
        query_rows,
        keys_rows,
        values_rows,
        output_rows,
        of_batch,
    );
    let key = buffer(key);
    let (query, cos, sin, output) = match turned {
        Some(TurnedQuery {
            query,
            angles,
            output,
        }) => (
            Some(buffer(query)),
            Some(buffer(angles.cos)),
            Some(buffer(angles.sin)),
            buffer(output),
        ),
        // Nothing is written there.
        None => (None, None, None, BufferArg::alias(0, key.len())),
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
            key,
            buffer(value),
            query.into(),
            cos.into(),
            sin.into(),
            buffer(position),
            buffer(keys),
            buffer(values),
            output,
            geometry,
            vector,
            dtype,
            index,
        );
    }
    Ok(())
}
