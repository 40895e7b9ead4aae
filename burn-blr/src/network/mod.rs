//! What a network does between its linear layers: attention and its cache, rotary positions, norms
//! and the residuals before them.
//!
//! From single operations these take more time than layers of few parameters do. [`NetworkBackend`]
//! extends Burn's backends: the CubeCL backends run the kernels of [`cubecl_kernels`] where those
//! serve device, dtype and shape, and every other case is a composition of Burn's operations
//! ([`plain`]), which autodiff follows.
//!
//! On an H100, Llama 7B as Monarch, bf16, 1024 tokens: 206 us of a norm from single operations were
//! 186 us of its mean, and 130 us went into the rotation of queries and keys of a block.
//!
//! Where queries stand is read from tensors, so a captured graph serves every token of a text.

mod backend;
#[cfg(feature = "cubecl")]
mod cube;
#[cfg(feature = "fusion")]
mod fusion;
pub mod plain;

use burn::backend::Dispatch;
use burn::tensor::{Bool, Int, Tensor};

pub use backend::{Added, Affine, NetworkBackend, NewRows, Turned, Visible};
pub use cubecl_kernels::norm::Norm;

/// Which keys a query sees.
#[derive(Debug, Clone)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one for a whole pass, and every variant but one holds tensors"
)]
pub enum VisibleKeys {
    /// All of them.
    All,
    /// Those up to its own position.
    Causal {
        /// Positions of the queries, `[tokens]`, each the one before plus one.
        queries: Tensor<1, Int>,
        /// Positions of the keys, `[keys]`: zero and up.
        keys: Tensor<1, Int>,
    },
    /// Those where this is false, `[1 or batch, 1, tokens, keys]`. A query that sees none gives
    /// a number, whichever.
    Except(Tensor<4, Bool>),
}

impl VisibleKeys {
    /// The same for a backend, checked for so many queries and keys.
    fn dispatched(&self, tokens: usize, keys: usize) -> Visible<Dispatch> {
        match self {
            VisibleKeys::All => Visible::All,
            VisibleKeys::Causal { queries, keys: at } => {
                assert!(
                    queries.dims() == [tokens] && at.dims() == [keys],
                    "attention: {:?} positions of {tokens} queries, {:?} of {keys} keys",
                    queries.dims(),
                    at.dims()
                );
                Visible::Causal {
                    queries: queries.clone().into_dispatch(),
                    keys: at.clone().into_dispatch(),
                }
            }
            VisibleKeys::Except(hidden) => Visible::Except(hidden.clone().into_dispatch()),
        }
    }
}

/// `numbers` as they must be to become floats that go together with `floats`: followed by autodiff in
/// the same way, or not at all.
///
/// Integers that have been on an autodiff device keep its mark in Burn 0.22, also in a model that
/// `valid` has taken off it, and what is cast from them is on that device.
///
/// # Shapes
///
/// - output: that of `numbers`
pub fn beside<const D: usize, const E: usize>(
    numbers: Tensor<D, Int>,
    floats: &Tensor<E>,
) -> Tensor<D, Int> {
    let mut numbers = numbers.into_dispatch();
    numbers.checkpointing = floats.clone().into_dispatch().checkpointing;
    Tensor::from_dispatch(numbers)
}

/// `softmax(scale · query keyᵀ) value` for each head, softmax and its scores in `f32`.
///
/// Several query heads may share a key and value head (grouped-query attention).
///
/// # Shapes
///
/// - `query`: `[batch, heads, tokens, width]`
/// - `key`, `value`: `[batch, key heads, keys, width]`
/// - output: `[batch, tokens, heads, width]`
///
/// # Panics
///
/// If the shapes are not as above, or the key heads do not divide the heads.
pub fn attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    visible: &VisibleKeys,
    scale: f64,
) -> Tensor<4> {
    check_heads(&query, &key, &value);
    let (tokens, keys) = (query.dims()[2], key.dims()[2]);
    let visible = visible.dispatched(tokens, keys);
    Tensor::from_dispatch(Dispatch::multi_head_attention(
        query.into_dispatch(),
        key.into_dispatch(),
        value.into_dispatch(),
        visible,
        scale,
    ))
}

fn check_heads(query: &Tensor<4>, key: &Tensor<4>, value: &Tensor<4>) {
    let [batch, heads, _, width] = query.dims();
    let [_, key_heads, keys, _] = key.dims();
    assert!(
        key.dims() == [batch, key_heads, keys, width]
            && value.dims() == key.dims()
            && key_heads > 0
            && heads.is_multiple_of(key_heads),
        "attention: queries {:?}, keys {:?}, values {:?}",
        query.dims(),
        key.dims(),
        value.dims()
    );
}

/// What pairs of features turn by: feature `i` of a head with feature `i + width / 2`.
#[derive(Debug, Clone)]
pub struct Angles {
    /// Cosines, `[1 or batch, tokens, width / 2]`, `f32`.
    pub cos: Tensor<3>,
    /// Sines, the same.
    pub sin: Tensor<3>,
}

impl Angles {
    fn check(&self, [batch, _, tokens, width]: [usize; 4]) {
        let shapes = [self.cos.dims(), self.sin.dims()];
        let fits = |rows: usize| shapes == [[rows, tokens, width / 2]; 2];
        assert!(
            width.is_multiple_of(2) && (fits(1) || fits(batch)),
            "angles {shapes:?} for {batch} rows of {tokens} tokens and {width} features"
        );
    }
}

/// The `length` slices of `tensor` from `start` on along `axis`; on CubeCL backends a view of the same
/// memory, wherever it starts.
///
/// Burn's own `narrow` copies unless the part starts and ends at a multiple of the allocator's
/// alignment. DiT-XL/2 copied 130 parts of modulations and projections in a pass on CUDA.
///
/// # Panics
///
/// If the axis is shorter.
pub fn narrow<const D: usize>(
    tensor: Tensor<D>,
    axis: usize,
    start: usize,
    length: usize,
) -> Tensor<D> {
    let dims = tensor.dims();
    assert!(
        axis < D && start + length <= dims[axis],
        "{length} slices from {start} on of axis {axis} of {dims:?}"
    );
    Tensor::from_dispatch(Dispatch::narrow(
        tensor.into_dispatch(),
        axis,
        start,
        length,
    ))
}

/// `rows` turned by their angles ([Su et al. 2021](https://arxiv.org/abs/2104.09864)).
///
/// # Shapes
///
/// - `rows`, output: `[batch, heads, tokens, width]`
///
/// # Panics
///
/// If the angles are for others.
pub fn rotate(rows: Tensor<4>, angles: &Angles) -> Tensor<4> {
    angles.check(rows.dims());
    Tensor::from_dispatch(Dispatch::rotate(
        rows.into_dispatch(),
        angles.cos.clone().into_dispatch(),
        angles.sin.clone().into_dispatch(),
    ))
}

/// `keys` with `key`, and `values` with `value`, in place of their rows from `position` on; in place where
/// nobody else holds them and the backend can.
///
/// # Shapes
///
/// - `keys`, `values`, outputs: `[batch, heads, capacity, width]`
/// - `key`, `value`: `[batch, heads, tokens, width]`; rows that would be past the capacity are left out
/// - `position`: `[1]`, zero or more
/// - `slots`: `[capacity]`, the numbers zero and up
///
/// # Panics
///
/// If the shapes are not as above.
pub fn append_key_value(
    [keys, values]: [Tensor<4>; 2],
    [key, value]: [Tensor<4>; 2],
    position: Tensor<1, Int>,
    slots: Tensor<1, Int>,
) -> [Tensor<4>; 2] {
    check_append([&keys, &values], [&key, &value], &position, &slots);
    let (keys, values) = Dispatch::append_key_value(
        keys.into_dispatch(),
        values.into_dispatch(),
        key.into_dispatch(),
        value.into_dispatch(),
        position.into_dispatch(),
        slots.into_dispatch(),
    );
    [keys, values].map(Tensor::from_dispatch)
}

/// As [`append_key_value`] with the key turned by its angles; gives the cache, and the query turned by them
/// as well.
///
/// # Shapes
///
/// - `query`, last output: `[batch, query heads, tokens, width]`
/// - others: as there
///
/// # Panics
///
/// If the shapes are not as above.
pub fn append_turned(
    [keys, values]: [Tensor<4>; 2],
    [query, key, value]: [Tensor<4>; 3],
    angles: &Angles,
    position: Tensor<1, Int>,
    slots: Tensor<1, Int>,
) -> ([Tensor<4>; 2], Tensor<4>) {
    check_append([&keys, &values], [&key, &value], &position, &slots);
    let new = turned([query, key, value], angles);
    let (keys, values, query) = Dispatch::append_turned(
        keys.into_dispatch(),
        values.into_dispatch(),
        new,
        position.into_dispatch(),
        slots.into_dispatch(),
    );
    (
        [keys, values].map(Tensor::from_dispatch),
        Tensor::from_dispatch(query),
    )
}

/// [`append_turned`], or [`append_key_value`] without angles, and [`attention`] to the cache that comes of it;
/// for a single token, and for several that do not turn, one launch where the device can, since nobody has to
/// read what is appended.
///
/// # Shapes
///
/// - `visible`: positions of the new tokens are those from `position` on, those of keys all of the cache
/// - last output: `[batch, tokens, query heads, width]`
/// - others: as there
///
/// # Panics
///
/// If the shapes are not as above, or the heads do not divide the query heads.
pub fn append_and_attend(
    [keys, values]: [Tensor<4>; 2],
    [query, key, value]: [Tensor<4>; 3],
    angles: Option<&Angles>,
    position: Tensor<1, Int>,
    slots: Tensor<1, Int>,
    visible: &VisibleKeys,
    scale: f64,
) -> ([Tensor<4>; 2], Tensor<4>) {
    check_append([&keys, &values], [&key, &value], &position, &slots);
    check_heads(&query, &key, &value);
    let tokens = query.dims()[2];
    assert_eq!(key.dims()[2], tokens, "append: keys of {tokens} queries");
    let visible = visible.dispatched(tokens, keys.dims()[2]);
    let new = match angles {
        Some(angles) => NewRows::Turned(turned([query, key, value], angles)),
        None => NewRows::Still {
            query: query.into_dispatch(),
            key: key.into_dispatch(),
            value: value.into_dispatch(),
        },
    };
    let (keys, values, attended) = Dispatch::append_and_attend(
        keys.into_dispatch(),
        values.into_dispatch(),
        new,
        position.into_dispatch(),
        slots.into_dispatch(),
        visible,
        scale,
    );
    (
        [keys, values].map(Tensor::from_dispatch),
        Tensor::from_dispatch(attended),
    )
}

/// Rows for a backend, with angles that are checked to be theirs.
fn turned([query, key, value]: [Tensor<4>; 3], angles: &Angles) -> Turned<Dispatch> {
    angles.check(query.dims());
    angles.check(key.dims());
    let Angles { cos, sin } = angles.clone();
    Turned {
        query: query.into_dispatch(),
        key: key.into_dispatch(),
        value: value.into_dispatch(),
        cos: cos.into_dispatch(),
        sin: sin.into_dispatch(),
    }
}

fn check_append(
    cache: [&Tensor<4>; 2],
    new: [&Tensor<4>; 2],
    position: &Tensor<1, Int>,
    slots: &Tensor<1, Int>,
) {
    let (cache, new) = (cache.map(Tensor::dims), new.map(Tensor::dims));
    let [batch, heads, tokens, width] = new[0];
    let capacity = cache[0][2];
    assert!(
        cache == [[batch, heads, capacity, width]; 2]
            && new[1] == new[0]
            && position.dims() == [1]
            && slots.dims() == [capacity]
            && tokens > 0,
        "append: cache {cache:?}, rows {new:?}, position {:?}, slots {:?}",
        position.dims(),
        slots.dims()
    );
}

/// What is added before a norm.
#[derive(Debug, Clone)]
pub struct Residual {
    /// `[batch, tokens, features]`.
    pub residual: Tensor<3>,
    /// Multiplies it, `[batch, 1, features]`.
    pub gate: Option<Tensor<3>>,
}

/// What becomes of a normalized row.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "handed over once for each norm")]
pub enum ScaleShift {
    /// It stays as it is.
    None,
    /// `y · scale + shift`, both `[features]` in `f32`.
    Features {
        /// Multiplied with.
        scale: Tensor<1>,
        /// Added, where there is one.
        shift: Option<Tensor<1>>,
    },
    /// `y · (1 + scale) + shift`, both `[batch, 1, features]` in the dtype of the input.
    Modulated {
        /// What it is multiplied with, less one.
        scale: Tensor<3>,
        /// Added.
        shift: Tensor<3>,
    },
}

/// `sum = input + gate · residual`, and `norm(sum)` with its scale and shift, over the features of
/// each token and in `f32` whatever the dtype.
///
/// # Shapes
///
/// - `input`, both results: `[batch, tokens, features]`
///
/// # Panics
///
/// If a shape is not as said.
pub fn add_norm(
    input: Tensor<3>,
    residual: Option<Residual>,
    scale_shift: ScaleShift,
    norm: Norm,
    epsilon: f64,
) -> (Tensor<3>, Tensor<3>) {
    let [batch, _, features] = input.dims();
    let of_batch = |tensor: &Tensor<3>, name: &str| {
        let found = tensor.dims();
        assert_eq!(found, [batch, 1, features], "add_norm: {name}");
    };
    let of_features = |tensor: &Tensor<1>, name: &str| {
        assert_eq!(tensor.dims(), [features], "add_norm: {name}");
    };
    let added = match residual {
        None => Added::Nothing,
        Some(Residual { residual, gate }) => {
            assert_eq!(residual.dims(), input.dims(), "add_norm: residual");
            let residual = residual.into_dispatch();
            match gate {
                None => Added::Residual(residual),
                Some(gate) => {
                    of_batch(&gate, "gate");
                    let gate = gate.into_dispatch();
                    Added::Gated { residual, gate }
                }
            }
        }
    };
    let affine = match scale_shift {
        ScaleShift::None => Affine::Nothing,
        ScaleShift::Features { scale, shift } => {
            of_features(&scale, "scale");
            let scale = scale.into_dispatch();
            match shift {
                None => Affine::Scaled(scale),
                Some(shift) => {
                    of_features(&shift, "shift");
                    let shift = shift.into_dispatch();
                    Affine::Shifted { scale, shift }
                }
            }
        }
        ScaleShift::Modulated { scale, shift } => {
            of_batch(&scale, "scale");
            of_batch(&shift, "shift");
            Affine::Modulated {
                scale: scale.into_dispatch(),
                shift: shift.into_dispatch(),
            }
        }
    };
    let input = input.into_dispatch();
    let (sum, output) = Dispatch::add_norm(input, added, affine, norm, epsilon);
    (Tensor::from_dispatch(sum), Tensor::from_dispatch(output))
}
