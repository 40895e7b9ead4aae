//! The extension trait.

#[cfg(feature = "autodiff")]
use burn::backend::Autodiff;
#[cfg(feature = "cpu")]
use burn::backend::Cpu;
#[cfg(feature = "cuda")]
use burn::backend::Cuda;
#[cfg(feature = "flex")]
use burn::backend::Flex;
#[cfg(feature = "tch")]
use burn::backend::LibTorch;
#[cfg(feature = "metal")]
use burn::backend::Metal;
#[cfg(feature = "ndarray")]
use burn::backend::NdArray;
#[cfg(feature = "rocm")]
use burn::backend::Rocm;
#[cfg(feature = "vulkan")]
use burn::backend::Vulkan;
#[cfg(feature = "webgpu")]
use burn::backend::WebGpu;
#[cfg(feature = "wgpu")]
use burn::backend::Wgpu;
#[cfg(feature = "autodiff")]
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::{BoolTensor, FloatTensor, IntTensor};
use burn::backend::{Backend, ExtensionType, TensorMetadata, backend_extension};
use burn::tensor::DType;

use super::plain;
use cubecl_kernels::norm::Norm;

/// Which keys a query sees; see [`VisibleKeys`](super::VisibleKeys).
#[derive(Debug, Clone, ExtensionType)]
pub enum Visible<B: Backend> {
    /// All of them.
    All,
    /// Those up to its own position.
    Causal {
        /// Positions of the queries, `[tokens]`.
        queries: IntTensor<B>,
        /// Positions of the keys, `[keys]`.
        keys: IntTensor<B>,
    },
    /// Those where this is false, `[1 or batch, 1, tokens, keys]`.
    Except(BoolTensor<B>),
}

/// What is added before a norm.
#[derive(Debug, Clone, ExtensionType)]
pub enum Added<B: Backend> {
    /// Nothing.
    Nothing,
    /// `[batch, tokens, features]`.
    Residual(FloatTensor<B>),
    /// The same, multiplied with `gate [batch, 1, features]`.
    Gated {
        /// `[batch, tokens, features]`.
        residual: FloatTensor<B>,
        /// `[batch, 1, features]`.
        gate: FloatTensor<B>,
    },
}

/// What becomes of a normalized row.
#[derive(Debug, Clone, ExtensionType)]
pub enum Affine<B: Backend> {
    /// It stays as it is.
    Nothing,
    /// Multiplied with `scale [features]`, `f32`.
    Scaled(FloatTensor<B>),
    /// And added to, both `[features]`, `f32`.
    Shifted {
        /// `[features]`.
        scale: FloatTensor<B>,
        /// `[features]`.
        shift: FloatTensor<B>,
    },
    /// `y (1 + scale) + shift`, both `[batch, 1, features]`, of the dtype of the input.
    Modulated {
        /// `[batch, 1, features]`.
        scale: FloatTensor<B>,
        /// `[batch, 1, features]`.
        shift: FloatTensor<B>,
    },
}

/// Rows of new tokens, and what queries and keys turn by.
#[derive(Debug, Clone, ExtensionType)]
pub struct Turned<B: Backend> {
    /// `[batch, query heads, tokens, width]`.
    pub query: FloatTensor<B>,
    /// `[batch, heads, tokens, width]`.
    pub key: FloatTensor<B>,
    /// The same.
    pub value: FloatTensor<B>,
    /// Cosines, `[1 or batch, tokens, width / 2]` in `f32`.
    pub cos: FloatTensor<B>,
    /// Sines, the same.
    pub sin: FloatTensor<B>,
}

/// Rows of new tokens, which turn or do not.
#[derive(Debug, Clone, ExtensionType)]
pub enum NewRows<B: Backend> {
    /// As they are.
    Still {
        /// `[batch, query heads, tokens, width]`.
        query: FloatTensor<B>,
        /// `[batch, heads, tokens, width]`.
        key: FloatTensor<B>,
        /// The same.
        value: FloatTensor<B>,
    },
    /// Query and key by angles.
    Turned(#[extension_type] Turned<B>),
}

impl<B: Backend> NewRows<B> {
    /// `[batch, query heads, tokens, width]`.
    pub fn query(&self) -> &FloatTensor<B> {
        match self {
            Self::Still { query, .. } => query,
            Self::Turned(new) => &new.query,
        }
    }

    /// Whether a kernel may append and attend them at once: a token, or several of 16 bits that do not turn.
    pub(crate) fn may_be_one_launch(&self) -> bool {
        let query = self.query();
        let still = matches!(self, Self::Still { .. });
        query.shape()[2] == 1 || (still && query.dtype() != DType::F32)
    }
}

/// Burn backends with what a network does between its linear layers.
#[backend_extension(
    Cpu: cfg(feature = "cpu"),
    Cuda: cfg(feature = "cuda"),
    Rocm: cfg(feature = "rocm"),
    Metal: cfg(feature = "metal"),
    Vulkan: cfg(feature = "vulkan"),
    Wgpu: cfg(feature = "wgpu"),
    WebGpu: cfg(feature = "webgpu"),
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    LibTorch: cfg(feature = "tch"),
    Autodiff: cfg(feature = "autodiff")
)]
pub trait NetworkBackend: Backend {
    /// See [`attention`](super::attention).
    fn multi_head_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        #[extension_type] visible: Visible<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        plain::attention::<Self>(query, key, value, visible, scale)
    }

    /// See [`append_key_value`](super::append_key_value); gives keys and values.
    fn append_key_value(
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        position: IntTensor<Self>,
        slots: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        plain::append_key_value::<Self>(keys, values, key, value, position, slots)
    }

    /// See [`append_turned`](super::append_turned); gives keys, values and the query.
    fn append_turned(
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        #[extension_type] new: Turned<Self>,
        position: IntTensor<Self>,
        slots: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        plain::append_turned::<Self>(keys, values, new, position, slots)
    }

    /// See [`append_and_attend`](super::append_and_attend); gives keys, values and what is attended.
    fn append_and_attend(
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        #[extension_type] new: NewRows<Self>,
        position: IntTensor<Self>,
        slots: IntTensor<Self>,
        #[extension_type] visible: Visible<Self>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        append_then_attend::<Self>(keys, values, new, position, slots, visible, scale)
    }

    /// See [`narrow`](super::narrow).
    fn narrow(
        tensor: FloatTensor<Self>,
        axis: usize,
        start: usize,
        length: usize,
    ) -> FloatTensor<Self> {
        plain::narrow::<Self>(tensor, axis, start, length)
    }

    /// See [`rotate`](super::rotate).
    fn rotate(
        rows: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        plain::rotate::<Self>(rows, cos, sin)
    }

    /// See [`add_norm`](super::add_norm).
    fn add_norm(
        input: FloatTensor<Self>,
        #[extension_type] added: Added<Self>,
        #[extension_type] affine: Affine<Self>,
        norm: Norm,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        plain::add_norm::<Self>(input, added, affine, norm, epsilon)
    }
}

/// Appends, and attends after that.
pub(super) fn append_then_attend<B: NetworkBackend>(
    keys: FloatTensor<B>,
    values: FloatTensor<B>,
    new: NewRows<B>,
    position: IntTensor<B>,
    slots: IntTensor<B>,
    visible: Visible<B>,
    scale: f64,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let (keys, values, query) = match new {
        NewRows::Still { query, key, value } => {
            let (keys, values) = B::append_key_value(keys, values, key, value, position, slots);
            (keys, values, query)
        }
        NewRows::Turned(new) => B::append_turned(keys, values, new, position, slots),
    };
    let attended = B::multi_head_attention(query, keys.clone(), values.clone(), visible, scale);
    (keys, values, attended)
}

#[cfg(feature = "flex")]
impl NetworkBackend for Flex {}
#[cfg(feature = "ndarray")]
impl NetworkBackend for NdArray {}
#[cfg(feature = "tch")]
impl NetworkBackend for LibTorch {}
// The compositions, which autodiff follows: a backward pass needs the scores.
#[cfg(feature = "autodiff")]
impl<B: NetworkBackend, C: CheckpointStrategy> NetworkBackend for Autodiff<B, C> {}
