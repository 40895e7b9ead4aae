//! The products on tensors of any rank.

use burn::backend::{Dispatch, DispatchTensor};
use burn::tensor::Tensor;
use cubecl_kernels::{Activation, OutputOrder};

use super::{Bias, BlrBackend, plain};

/// `y = f(x W + bias)`, with `f` the activation.
///
/// On CUDA, operands of 16 bits go through the kernels of the structured products, which are fastest
/// where the inputs of an output are contiguous, as in the transpose of `[out, in]`; operands of `f32`
/// go through Burn's product, which may round them to tf32.
///
/// # Shapes
///
/// - `input`: `[..., in]`, any leading axes, also empty ones
/// - `weight`: `[in, out]`, `bias`: `[out]`
/// - output: `[..., out]`
///
/// # Panics
///
/// If the last axis of `input` is not that of `weight`.
pub fn dense_linear<const D: usize>(
    input: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    activation: Activation,
) -> Tensor<D> {
    let [in_features, out_features] = weight.dims();
    over_tokens(input, in_features, out_features, |input| {
        Dispatch::dense_linear(input, weight.into_dispatch(), into_bias(bias), activation)
    })
}

/// `y = f((x vᵀ) uᵀ + bias)`, with `f` the activation.
///
/// # Shapes
///
/// - `input`: `[..., in]`, any leading axes, also empty ones
/// - `u`: `[out, r]`, `v`: `[r, in]`, `bias`: `[out]`
/// - output: `[..., out]`
///
/// # Panics
///
/// If the last axis of `input` is not the width of `v`.
pub fn low_rank_linear<const D: usize>(
    input: Tensor<D>,
    u: Tensor<2>,
    v: Tensor<2>,
    bias: Option<Tensor<1>>,
    activation: Activation,
) -> Tensor<D> {
    let [out_features, _] = u.dims();
    let [_, in_features] = v.dims();
    over_tokens(input, in_features, out_features, |input| {
        let (u, v) = (u.into_dispatch(), v.into_dispatch());
        Dispatch::low_rank_linear(input, u, v, into_bias(bias), activation)
    })
}

/// Monarch product: block i of the input through `right_i`, part j of the result to block j,
/// block j through `left_j`, plus bias ([Dao et al. 2022](https://arxiv.org/abs/2204.00595)), then
/// the activation.
///
/// # Shapes
///
/// - `input`: `[..., in]`, any leading axes, also empty ones
/// - `right`: `[b, r, in/b]`, `left`: `[b, out/b, r]` with r a multiple of b, `bias`: `[out]`
/// - output: `[..., out]`, its features placed by `order`
///
/// # Panics
///
/// If the last axis of `input` is not `b · in/b`.
pub fn monarch_linear<const D: usize>(
    input: Tensor<D>,
    right: Tensor<3>,
    left: Tensor<3>,
    bias: Option<Tensor<1>>,
    order: OutputOrder,
    activation: Activation,
) -> Tensor<D> {
    let [blocks, _, block_in] = right.dims();
    let [_, block_out, _] = left.dims();
    over_tokens(input, blocks * block_in, blocks * block_out, |input| {
        let (right, left) = (right.into_dispatch(), left.into_dispatch());
        Dispatch::monarch_linear(input, right, left, into_bias(bias), order, activation)
    })
}

/// BLAST product: `y_j = f(U_j Σ_i S_ji ∘ (V_i x_i) + bias_j)`, with `f` the activation
/// ([Lee et al. 2024](https://arxiv.org/abs/2410.21262), section 2).
///
/// # Shapes
///
/// - `input`: `[..., in]`, any leading axes, also empty ones
/// - `u`: `[b, out/b, r]`, `s`: `[b (out), b (in), r]`, `v`: `[b, r, in/b]`, `bias`: `[out]`
/// - output: `[..., out]`
///
/// # Panics
///
/// If the last axis of `input` is not `b · in/b`.
pub fn blast_linear<const D: usize>(
    input: Tensor<D>,
    u: Tensor<3>,
    s: Tensor<3>,
    v: Tensor<3>,
    bias: Option<Tensor<1>>,
    activation: Activation,
) -> Tensor<D> {
    let [blocks, block_out, _] = u.dims();
    let [_, _, block_in] = v.dims();
    over_tokens(input, blocks * block_in, blocks * block_out, |input| {
        let (u, s, v) = (u.into_dispatch(), s.into_dispatch(), v.into_dispatch());
        Dispatch::blast_linear(input, u, s, v, into_bias(bias), activation)
    })
}

/// Applies `activation` to every element, as an operation of its own.
///
/// # Shapes
///
/// - `tensor`, output: any
pub fn activate<const D: usize>(tensor: Tensor<D>, activation: Activation) -> Tensor<D> {
    Tensor::from_dispatch(plain::activate::<Dispatch>(
        tensor.into_dispatch(),
        activation,
    ))
}

/// `lhs · rhs` with every product in the operands' own precision, never rounded to tf32.
///
/// # Shapes
///
/// - `lhs`: `[b, m, k]`, `rhs`: `[b, k, n]`, output: `[b, m, n]`
pub fn exact_product(lhs: Tensor<3>, rhs: Tensor<3>) -> Tensor<3> {
    let [blocks, rows, inner] = lhs.dims();
    let [rhs_blocks, rhs_inner, columns] = rhs.dims();
    assert!(
        blocks == rhs_blocks && inner == rhs_inner,
        "exact_product: {:?} times {:?}",
        [blocks, rows, inner],
        [rhs_blocks, rhs_inner, columns]
    );
    Tensor::from_dispatch(Dispatch::exact_product(
        lhs.into_dispatch(),
        rhs.into_dispatch(),
    ))
}

/// Runs `product` on `input` as `[tokens, in]` and gives the result the leading axes of `input`.
fn over_tokens<const D: usize>(
    input: Tensor<D>,
    in_features: usize,
    out_features: usize,
    product: impl FnOnce(DispatchTensor) -> DispatchTensor,
) -> Tensor<D> {
    let mut dims = input.dims();
    assert!(
        D > 0 && dims[D - 1] == in_features,
        "the last axis of the input {dims:?} must be {in_features} features"
    );
    let tokens: usize = dims[..D - 1].iter().product();
    dims[D - 1] = out_features;
    if tokens == 0 {
        // Nothing to compute, and nothing that could carry a gradient.
        return Tensor::zeros(dims, (&input.device(), input.dtype()));
    }
    let input: Tensor<2> = input.reshape([tokens, in_features]);
    Tensor::<2>::from_dispatch(product(input.into_dispatch())).reshape(dims)
}

fn into_bias(bias: Option<Tensor<1>>) -> Bias<Dispatch> {
    match bias {
        Some(bias) => Bias::Added(bias.into_dispatch()),
        None => Bias::Absent,
    }
}
