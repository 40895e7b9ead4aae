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
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, ExtensionType, backend_extension};
use cubecl_kernels::{Activation, OutputOrder};

use super::plain;

/// The bias of a linear layer, which it may lack.
#[derive(Debug, Clone, ExtensionType)]
pub enum Bias<B: Backend> {
    /// Added to every row of the output, `[out]`.
    Added(FloatTensor<B>),
    /// Nothing is added.
    Absent,
}

/// What outputs are multiplied with or added to, after the activation.
#[derive(Debug, Clone, ExtensionType)]
pub enum Merged<B: Backend> {
    /// `f(x) · z`, `z` `[tokens, out]`.
    Times(FloatTensor<B>),
    /// `f(x) + z`, `z` `[tokens, out]`.
    Plus(FloatTensor<B>),
    /// Of two layers of one input: `f(x) · z` with `x` the outputs of the first and `z` those of the
    /// second, `[tokens, out]` of `[tokens, 2 out]`.
    Gated,
    /// Nothing.
    Alone,
}

/// Burn backends with the three block-low-rank products.
///
/// Inputs are `[tokens, in]`, outputs `[tokens, out]`; factors have their stored layout (see the
/// [crate] docs). All operands of a call share one device and one dtype. Sums are in `f32` on the
/// CubeCL backends and in whatever the backend's own product uses elsewhere.
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
pub trait BlrBackend: Backend {
    /// `y = f(x W + bias)`, with `weight [in, out]` as Burn's layer holds it and `f` the activation and what is merged.
    fn dense_linear(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        #[extension_type] bias: Bias<Self>,
        activation: Activation,
        #[extension_type] merged: Merged<Self>,
    ) -> FloatTensor<Self> {
        let output = plain::dense_linear::<Self>(input, weight, bias);
        plain::finish::<Self>(output, activation, merged)
    }

    /// `y = f((x vᵀ) uᵀ + bias)`, with `u [out, r]`, `v [r, in]` and `f` the activation and what is merged.
    fn low_rank_linear(
        input: FloatTensor<Self>,
        u: FloatTensor<Self>,
        v: FloatTensor<Self>,
        #[extension_type] bias: Bias<Self>,
        activation: Activation,
        #[extension_type] merged: Merged<Self>,
    ) -> FloatTensor<Self> {
        let output = plain::low_rank_linear::<Self>(input, u, v, bias);
        plain::finish::<Self>(output, activation, merged)
    }

    /// Gradients of [`low_rank_linear`](Self::low_rank_linear) without an activation: of input,
    /// `u`, `v`.
    fn low_rank_linear_backward(
        grad: FloatTensor<Self>,
        input: FloatTensor<Self>,
        u: FloatTensor<Self>,
        v: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        plain::low_rank_linear_backward::<Self>(grad, input, u, v)
    }

    /// `y = f(L P R x + bias)` by rows, with `right [b, r, in/b]`, `left [b, out/b, r]` and `f` the
    /// activation and what is merged.
    fn monarch_linear(
        input: FloatTensor<Self>,
        right: FloatTensor<Self>,
        left: FloatTensor<Self>,
        #[extension_type] bias: Bias<Self>,
        order: OutputOrder,
        activation: Activation,
        #[extension_type] merged: Merged<Self>,
    ) -> FloatTensor<Self> {
        let output = plain::monarch_linear::<Self>(input, right, left, bias, order);
        plain::finish::<Self>(output, activation, merged)
    }

    /// Gradients of [`monarch_linear`](Self::monarch_linear) without an activation: of input,
    /// `right`, `left`.
    fn monarch_linear_backward(
        grad: FloatTensor<Self>,
        input: FloatTensor<Self>,
        right: FloatTensor<Self>,
        left: FloatTensor<Self>,
        order: OutputOrder,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        plain::monarch_linear_backward::<Self>(grad, input, right, left, order)
    }

    /// `y_j = f(U_j Σ_i S_ji ∘ (V_i x_i) + bias_j)` by rows, with `u [b, out/b, r]`,
    /// `s [b (out), b (in), r]`, `v [b, r, in/b]` and `f` the activation and what is merged.
    fn blast_linear(
        input: FloatTensor<Self>,
        u: FloatTensor<Self>,
        s: FloatTensor<Self>,
        v: FloatTensor<Self>,
        #[extension_type] bias: Bias<Self>,
        activation: Activation,
        #[extension_type] merged: Merged<Self>,
    ) -> FloatTensor<Self> {
        let output = plain::blast_linear::<Self>(input, u, s, v, bias);
        plain::finish::<Self>(output, activation, merged)
    }

    /// Gradients of [`blast_linear`](Self::blast_linear) without an activation: of input, `u`, `s`,
    /// `v`.
    fn blast_linear_backward(
        grad: FloatTensor<Self>,
        input: FloatTensor<Self>,
        u: FloatTensor<Self>,
        s: FloatTensor<Self>,
        v: FloatTensor<Self>,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    ) {
        plain::blast_linear_backward::<Self>(grad, input, u, s, v)
    }

    /// `lhs [b, m, k] · rhs [b, k, n]` with every product in the operands' own precision.
    ///
    /// Burn's matrix product may round `f32` operands to tf32 on a GPU; factorisations cannot
    /// afford that.
    fn exact_product(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(lhs, rhs)
    }
}

#[cfg(feature = "flex")]
impl BlrBackend for Flex {}
#[cfg(feature = "ndarray")]
impl BlrBackend for NdArray {}
#[cfg(feature = "tch")]
impl BlrBackend for LibTorch {}
