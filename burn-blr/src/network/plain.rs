//! What a network does between its layers from plain operations of a backend.
//!
//! The reference that the kernels are compared with, and what runs where they do not. Shapes are
//! those of the functions of [`network`](super).

use burn::backend::tensor::{BoolTensor, FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata, get_device_settings};
use burn::tensor::{FloatDType, Shape, Slice};
use cubecl_kernels::norm::Norm;

use super::{Added, Affine, Turned, Visible};
use crate::ops::plain::concatenate;

/// See [`narrow`](super::narrow).
pub fn narrow<B: Backend>(
    tensor: FloatTensor<B>,
    axis: usize,
    start: usize,
    length: usize,
) -> FloatTensor<B> {
    let shape = tensor.shape();
    let slices: Vec<Slice> = (0..shape.num_dims())
        .map(|other| match other == axis {
            true => Slice::from(start..start + length),
            false => Slice::from(0..shape[other]),
        })
        .collect();
    B::float_slice(tensor, &slices)
}

/// See [`attention`](super::attention).
pub fn attention<B: Backend>(
    query: FloatTensor<B>,
    key: FloatTensor<B>,
    value: FloatTensor<B>,
    visible: Visible<B>,
    scale: f64,
) -> FloatTensor<B> {
    let dtype: FloatDType = query.dtype().into();
    let [batch, heads, tokens, width] = query.shape().dims();
    let [_, key_heads, keys, _] = key.shape().dims();
    // Scaling the query is one pass over [tokens, width] instead of [tokens, keys], and keeps the
    // product in the range of f16.
    let query = B::float_mul_scalar(query, scale.into());
    // The queries that share a key head are rows of one product, so that keys and values are
    // not repeated: [batch, heads, tokens, width] -> [batch, key heads, shared · tokens, width]
    let rows = heads / key_heads * tokens;
    let query = B::float_reshape(query, Shape::new([batch, key_heads, rows, width]));
    // [batch, key heads, shared · tokens, keys] -> [batch, heads, tokens, keys]
    let scores = B::float_matmul(query, B::float_transpose(key));
    let scores = B::float_cast(scores, FloatDType::F32);
    let scores = B::float_reshape(scores, Shape::new([batch, heads, tokens, keys]));
    let scores = match hidden::<B>(visible) {
        // A query that sees nothing: with minus infinity its weights would be 0 / 0, and its value,
        // not a number, would spread to the tokens that give it the weight zero.
        Some(hidden) => {
            let hidden = B::bool_expand(hidden, Shape::new([batch, heads, tokens, keys]));
            B::float_mask_fill(scores, hidden, f32::MIN.into())
        }
        None => scores,
    };
    let weights = B::float_cast(B::softmax(scores, 3), dtype);
    let weights = B::float_reshape(weights, Shape::new([batch, key_heads, rows, keys]));
    let mixed = B::float_matmul(weights, value);
    let mixed = B::float_reshape(mixed, Shape::new([batch, heads, tokens, width]));
    B::float_swap_dims(mixed, 1, 2)
}

/// True where a query does not see a key, `[1 or batch, 1, tokens, keys]`; nothing where all see
/// all.
fn hidden<B: Backend>(visible: Visible<B>) -> Option<BoolTensor<B>> {
    match visible {
        Visible::All => None,
        Visible::Except(hidden) => Some(hidden),
        Visible::Causal { queries, keys } => {
            let bools = get_device_settings::<B>(&keys.device()).bool_dtype;
            let (tokens, seen) = (queries.shape()[0], keys.shape()[0]);
            let all = Shape::new([1, 1, tokens, seen]);
            let queries = B::int_reshape(queries, Shape::new([1, 1, tokens, 1]));
            let keys = B::int_reshape(keys, Shape::new([1, 1, 1, seen]));
            Some(B::int_greater(
                B::int_expand(keys, all.clone()),
                B::int_expand(queries, all),
                bools,
            ))
        }
    }
}

/// See [`append_key_value`](super::append_key_value).
pub fn append_key_value<B: Backend>(
    keys: FloatTensor<B>,
    values: FloatTensor<B>,
    key: FloatTensor<B>,
    value: FloatTensor<B>,
    position: IntTensor<B>,
    slots: IntTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    (
        append::<B>(keys, key, position.clone(), slots.clone()),
        append::<B>(values, value, position, slots),
    )
}

/// See [`append_turned`](super::append_turned).
pub fn append_turned<B: Backend>(
    keys: FloatTensor<B>,
    values: FloatTensor<B>,
    new: Turned<B>,
    position: IntTensor<B>,
    slots: IntTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let Turned {
        query,
        key,
        value,
        cos,
        sin,
    } = new;
    let query = rotate::<B>(query, cos.clone(), sin.clone());
    let key = rotate::<B>(key, cos, sin);
    let (keys, values) = append_key_value::<B>(keys, values, key, value, position, slots);
    (keys, values, query)
}

/// `cache` with `rows` in place of its own from `position` on.
fn append<B: Backend>(
    cache: FloatTensor<B>,
    rows: FloatTensor<B>,
    position: IntTensor<B>,
    slots: IntTensor<B>,
) -> FloatTensor<B> {
    let bools = get_device_settings::<B>(&slots.device()).bool_dtype;
    let capacity = slots.shape()[0];
    let tokens = rows.shape()[2] as i64;
    let position = B::int_expand(position, Shape::new([capacity]));
    let row = B::int_sub(slots, position); // [capacity]: which new row a slot takes
    let taken = B::bool_and(
        B::int_greater_elem(row.clone(), (-1i64).into(), bools),
        B::int_lower_elem(row.clone(), tokens.into(), bools),
    );
    let row = B::int_clamp(row, 0i64.into(), (tokens - 1).into());
    let rows = B::float_select(rows, 2, row); // [batch, heads, capacity, width]
    let taken = B::bool_reshape(taken, Shape::new([1, 1, capacity, 1]));
    let taken = B::bool_expand(taken, cache.shape());
    B::float_mask_where(cache, taken, rows)
}

/// See [`rotate`](super::rotate).
pub fn rotate<B: Backend>(
    rows: FloatTensor<B>,
    cos: FloatTensor<B>,
    sin: FloatTensor<B>,
) -> FloatTensor<B> {
    let dtype: FloatDType = rows.dtype().into();
    let [_, _, tokens, width] = rows.shape().dims();
    let [batch, _, pairs] = cos.shape().dims();
    let angle = |angle: FloatTensor<B>| {
        let angle = B::float_reshape(angle, Shape::new([batch, 1, tokens, pairs]));
        B::float_cast(angle, dtype)
    };
    let half = |start: usize| {
        let whole = Slice::full();
        let part = Slice::from(start..start + width / 2);
        B::float_slice(rows.clone(), &[whole, whole, whole, part])
    };
    let (cos, sin) = (angle(cos), angle(sin));
    let (first, second) = (half(0), half(width / 2));
    let turned_first = B::float_sub(
        B::float_mul(first.clone(), cos.clone()),
        B::float_mul(second.clone(), sin.clone()),
    );
    let turned_second = B::float_add(B::float_mul(second, cos), B::float_mul(first, sin));
    concatenate::<B>(vec![turned_first, turned_second], 3)
}

/// See [`add_norm`](super::add_norm).
pub fn add_norm<B: Backend>(
    input: FloatTensor<B>,
    added: Added<B>,
    affine: Affine<B>,
    norm: Norm,
    epsilon: f64,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let dtype: FloatDType = input.dtype().into();
    let features = input.shape()[2];
    let sum = match added {
        Added::Nothing => input,
        Added::Residual(residual) => B::float_add(input, residual),
        Added::Gated { residual, gate } => B::float_add(input, B::float_mul(residual, gate)),
    };
    let mut y = B::float_cast(sum.clone(), FloatDType::F32);
    if norm == Norm::Layer {
        y = B::float_sub(y.clone(), B::float_mean_dim(y, 2));
    }
    let square = B::float_mean_dim(B::float_mul(y.clone(), y.clone()), 2);
    let deviation = B::float_sqrt(B::float_add_scalar(square, epsilon.into()));
    let y = B::float_div(y, deviation);
    let row = |vector: FloatTensor<B>| B::float_reshape(vector, Shape::new([1, 1, features]));
    let wide = |tensor: FloatTensor<B>| B::float_cast(tensor, FloatDType::F32);
    let y = match affine {
        Affine::Nothing => y,
        Affine::Scaled(scale) => B::float_mul(y, row(scale)),
        Affine::Shifted { scale, shift } => B::float_add(B::float_mul(y, row(scale)), row(shift)),
        Affine::Modulated { scale, shift } => {
            let scale = B::float_add_scalar(wide(scale), 1.0.into());
            B::float_add(B::float_mul(y, scale), wide(shift))
        }
    };
    (sum, B::float_cast(y, dtype))
}
