//! The products on tensors of any rank.

use burn::backend::{Dispatch, DispatchTensor};
use burn::tensor::Tensor;
use cubecl_kernels::{Activation, Merge, OutputOrder};

use super::{Bias, BlrBackend, Merged, plain};

/// What is done to the outputs of a product, in this order; one operation with it where gradients
/// are not tracked.
#[derive(Debug, Clone)]
pub struct Epilogue<const D: usize> {
    /// Added, `[out]`.
    pub bias: Option<Tensor<1>>,
    /// Applied to each output.
    pub activation: Activation,
    /// Multiplied with each output or added to it, `[..., out]`.
    pub merged: Option<(Merge, Tensor<D>)>,
    /// Of two layers of one input, whose outputs would lie side by side: those of the first, activated,
    /// times those of the second, `[..., out / 2]`. Nothing else can be merged then.
    pub gated: bool,
}

impl<const D: usize> Epilogue<D> {
    /// An activation, and what is merged after it.
    pub fn new(activation: Activation, merged: Option<(Merge, Tensor<D>)>) -> Self {
        Self {
            activation,
            merged,
            ..Self::default()
        }
    }

    /// The same after a bias, where there is one.
    pub fn with_bias(self, bias: Option<Tensor<1>>) -> Self {
        Self { bias, ..self }
    }
}

/// Nothing.
impl<const D: usize> Default for Epilogue<D> {
    fn default() -> Self {
        Self {
            bias: None,
            activation: Activation::None,
            merged: None,
            gated: false,
        }
    }
}

/// `y = f(x W)`, with `f` the epilogue.
///
/// On CUDA, operands of 16 bits go through the kernels of the structured products, which are fastest
/// where the inputs of an output are contiguous, as in the transpose of `[out, in]`; operands of `f32`
/// go through Burn's product, which may round them to tf32.
///
/// # Shapes
///
/// - `input`: `[..., in]`, any leading axes, also empty ones
/// - `weight`: `[in, out]`
/// - output: `[..., out]`
///
/// # Panics
///
/// If a tensor of the epilogue has another shape, or what it says does not fit together, or the last axis of `input` is not that of `weight`.
pub fn dense_linear<const D: usize>(
    input: Tensor<D>,
    weight: Tensor<2>,
    epilogue: Epilogue<D>,
) -> Tensor<D> {
    let [in_features, out_features] = weight.dims();
    over_tokens(
        input,
        in_features,
        out_features,
        epilogue,
        |input, bias, activation, merged| {
            Dispatch::dense_linear(input, weight.into_dispatch(), bias, activation, merged)
        },
    )
}

/// `y = f((x vᵀ) uᵀ)`, with `f` the epilogue.
///
/// # Shapes
///
/// - `input`: `[..., in]`, any leading axes, also empty ones
/// - `u`: `[out, r]`, `v`: `[r, in]`
/// - output: `[..., out]`
///
/// # Panics
///
/// If a tensor of the epilogue has another shape, or what it says does not fit together, or the last axis of `input` is not the width of `v`.
pub fn low_rank_linear<const D: usize>(
    input: Tensor<D>,
    u: Tensor<2>,
    v: Tensor<2>,
    epilogue: Epilogue<D>,
) -> Tensor<D> {
    let [out_features, _] = u.dims();
    let [_, in_features] = v.dims();
    over_tokens(
        input,
        in_features,
        out_features,
        epilogue,
        |input, bias, activation, merged| {
            let (u, v) = (u.into_dispatch(), v.into_dispatch());
            Dispatch::low_rank_linear(input, u, v, bias, activation, merged)
        },
    )
}

/// Monarch product: block i of the input through `right_i`, part j of the result to block j,
/// block j through `left_j` ([Dao et al. 2022](https://arxiv.org/abs/2204.00595)), then the epilogue.
///
/// # Shapes
///
/// - `input`: `[..., in]`, any leading axes, also empty ones
/// - `right`: `[b, r, in/b]`, `left`: `[b, out/b, r]` with r a multiple of b
/// - output: `[..., out]`, its features placed by `order`
///
/// Layers of one input are one: `right` behind each other along r, `left` along b, features contiguous.
///
/// # Panics
///
/// If a tensor of the epilogue has another shape, or what it says does not fit together, or the last axis of `input` is not `b · in/b`.
pub fn monarch_linear<const D: usize>(
    input: Tensor<D>,
    right: Tensor<3>,
    left: Tensor<3>,
    order: OutputOrder,
    epilogue: Epilogue<D>,
) -> Tensor<D> {
    let [blocks, _, block_in] = right.dims();
    let [outputs, block_out, _] = left.dims();
    over_tokens(
        input,
        blocks * block_in,
        outputs * block_out,
        epilogue,
        |input, bias, activation, merged| {
            let (right, left) = (right.into_dispatch(), left.into_dispatch());
            Dispatch::monarch_linear(input, right, left, bias, order, activation, merged)
        },
    )
}

/// BLAST product: `y_j = f(U_j Σ_i S_ji ∘ (V_i x_i))`, with `f` the epilogue
/// ([Lee et al. 2024](https://arxiv.org/abs/2410.21262), section 2).
///
/// # Shapes
///
/// - `input`: `[..., in]`, any leading axes, also empty ones
/// - `u`: `[b, out/b, r]`, `s`: `[b (out), b (in), r]`, `v`: `[b, r, in/b]`
/// - output: `[..., out]`
///
/// Layers of one input are one: `v` and `s` behind each other along r, `u` along b. No gradients then.
///
/// # Panics
///
/// If a tensor of the epilogue has another shape, or what it says does not fit together, or the last axis of `input` is not `b · in/b`.
pub fn blast_linear<const D: usize>(
    input: Tensor<D>,
    u: Tensor<3>,
    s: Tensor<3>,
    v: Tensor<3>,
    epilogue: Epilogue<D>,
) -> Tensor<D> {
    let [outputs, block_out, _] = u.dims();
    let [blocks, _, block_in] = v.dims();
    over_tokens(
        input,
        blocks * block_in,
        outputs * block_out,
        epilogue,
        |input, bias, activation, merged| {
            let (u, s, v) = (u.into_dispatch(), s.into_dispatch(), v.into_dispatch());
            Dispatch::blast_linear(input, u, s, v, bias, activation, merged)
        },
    )
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

/// The tensors one after the other along an axis; for gradients that are computed in several threads,
/// where those of Burn's own function may be wrong (see [`plain::concatenate`]).
///
/// # Shapes
///
/// - `tensors`: equal but for the size of `axis`, of which the output has the sum
pub fn concatenate<const D: usize>(tensors: Vec<Tensor<D>>, axis: usize) -> Tensor<D> {
    let tensors = tensors.into_iter().map(Tensor::into_dispatch).collect();
    Tensor::from_dispatch(plain::concatenate::<Dispatch>(tensors, axis))
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
    epilogue: Epilogue<D>,
    product: impl FnOnce(DispatchTensor, Bias<Dispatch>, Activation, Merged<Dispatch>) -> DispatchTensor,
) -> Tensor<D> {
    let mut dims = input.dims();
    assert!(
        D > 0 && dims[D - 1] == in_features,
        "the last axis of the input {dims:?} must be {in_features} features"
    );
    let tokens: usize = dims[..D - 1].iter().product();
    let Epilogue {
        bias,
        activation,
        merged,
        gated,
    } = epilogue;
    assert!(
        !gated || (out_features.is_multiple_of(2) && merged.is_none()),
        "a gate needs two layers, not {out_features} outputs, and nothing else to be merged with"
    );
    dims[D - 1] = if gated {
        out_features / 2
    } else {
        out_features
    };
    if let Some((_, other)) = &merged {
        assert!(
            other.dims() == dims,
            "an output {dims:?} can not be merged with {:?}",
            other.dims()
        );
    }
    if tokens == 0 {
        // Nothing to compute, and nothing that could carry a gradient.
        return Tensor::zeros(dims, (&input.device(), input.dtype()));
    }
    let bias = bias.map_or(Bias::Absent, |bias| Bias::Added(bias.into_dispatch()));
    let flat = |other: Tensor<D>| other.reshape([tokens, out_features]).into_dispatch();
    let merged = match merged {
        None if gated => Merged::Gated,
        None => Merged::Alone,
        Some((Merge::Times, other)) => Merged::Times(flat(other)),
        Some((Merge::Plus, other)) => Merged::Plus(flat(other)),
    };
    let input: Tensor<2> = input.reshape([tokens, in_features]);
    let output = product(input.into_dispatch(), bias, activation, merged);
    Tensor::<2>::from_dispatch(output).reshape(dims)
}
