//! Attention without scores in memory, and the cache that it reads in place.
//!
//! Burn picks its own fused attention by timing candidates where its `autotune` is on, and writes the
//! scores to memory otherwise. Here [`NetworkBackend`] extends Burn's backends: the CubeCL
//! backends run [`cubecl_kernels::attention`] where it serves device, dtype and head, and every other
//! case is a composition of Burn's operations ([`plain`]), which autodiff follows.
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

pub use backend::{NetworkBackend, Visible};

/// Which keys a query sees.
#[derive(Debug, Clone)]
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
    let [batch, heads, tokens, width] = query.dims();
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
    let visible = match visible {
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
    };
    Tensor::from_dispatch(Dispatch::multi_head_attention(
        query.into_dispatch(),
        key.into_dispatch(),
        value.into_dispatch(),
        visible,
        scale,
    ))
}

/// `cache` with `rows` in place of its rows from `position` on; in place where nobody else holds it
/// and the backend can.
///
/// # Shapes
///
/// - `cache`, output: `[batch, heads, capacity, width]`
/// - `rows`: `[batch, heads, tokens, width]`; those that would be past the capacity are left out
/// - `position`: `[1]`, zero or more
/// - `slots`: `[capacity]`, the numbers zero and up
///
/// # Panics
///
/// If the shapes are not as above.
pub fn append_rows(
    cache: Tensor<4>,
    rows: Tensor<4>,
    position: Tensor<1, Int>,
    slots: Tensor<1, Int>,
) -> Tensor<4> {
    let [batch, heads, tokens, width] = rows.dims();
    let [_, _, capacity, _] = cache.dims();
    assert!(
        cache.dims() == [batch, heads, capacity, width]
            && position.dims() == [1]
            && slots.dims() == [capacity]
            && tokens > 0,
        "append_rows: cache {:?}, rows {:?}, position {:?}, slots {:?}",
        cache.dims(),
        rows.dims(),
        position.dims(),
        slots.dims()
    );
    Tensor::from_dispatch(Dispatch::append_rows(
        cache.into_dispatch(),
        rows.into_dispatch(),
        position.into_dispatch(),
        slots.into_dispatch(),
    ))
}
