//! The products and their gradients from plain operations of a backend.
//!
//! The reference that every other implementation is compared with, and what runs on backends
//! without kernels; an activation is an operation of its own ([`activate`]). Shapes are those of [`BlrBackend`](super::BlrBackend).

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI};

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{Shape, Slice};
use cubecl_kernels::{Activation, OutputOrder};

use super::{Bias, Merged};

/// Tokens up to which the mix of BLAST is a product entry by entry and a sum.
///
/// As one batched product over r it is r tiny matrices, whose overhead counts for few tokens; the
/// entries are b times as many as those of the result, whose traffic counts for many. The whole
/// product on two CPU cores, f32, in us, entry by entry against batched: gpt2s.mlp_c_fc (6 blocks)
/// 299 : 742 for one token, 1013 : 1292 for 16, 2000 : 2138 for 64; llama1b.qo_proj (16 blocks)
/// 528 : 897 for one, 1606 : 1957 for 16, 3578 : 2357 for 32.
const FEW_TOKENS: usize = 16;

/// See [`BlrBackend::dense_linear`](super::BlrBackend::dense_linear).
pub fn dense_linear<B: Backend>(
    input: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: Bias<B>,
) -> FloatTensor<B> {
    add_bias::<B>(B::float_matmul(input, weight), bias)
}

/// See [`BlrBackend::low_rank_linear`](super::BlrBackend::low_rank_linear).
pub fn low_rank_linear<B: Backend>(
    input: FloatTensor<B>,
    u: FloatTensor<B>,
    v: FloatTensor<B>,
    bias: Bias<B>,
) -> FloatTensor<B> {
    let y = B::float_matmul(input, B::float_transpose(v)); // [tokens, r]
    add_bias::<B>(B::float_matmul(y, B::float_transpose(u)), bias)
}

/// See [`BlrBackend::low_rank_linear_backward`](super::BlrBackend::low_rank_linear_backward).
pub fn low_rank_linear_backward<B: Backend>(
    grad: FloatTensor<B>,
    input: FloatTensor<B>,
    u: FloatTensor<B>,
    v: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let y = B::float_matmul(input.clone(), B::float_transpose(v.clone())); // [tokens, r]
    let grad_u = B::float_matmul(B::float_transpose(grad.clone()), y);
    let grad_y = B::float_matmul(grad, u); // [tokens, r]
    let grad_v = B::float_matmul(B::float_transpose(grad_y.clone()), input);
    (B::float_matmul(grad_y, v), grad_u, grad_v)
}

/// See [`BlrBackend::monarch_linear`](super::BlrBackend::monarch_linear).
pub fn monarch_linear<B: Backend>(
    input: FloatTensor<B>,
    right: FloatTensor<B>,
    left: FloatTensor<B>,
    bias: Bias<B>,
    order: OutputOrder,
) -> FloatTensor<B> {
    let blocks = right.shape()[0];
    let x = split_features::<B>(input, blocks);
    let y = B::float_matmul(x, B::float_transpose(right));
    let z = swap_parts::<B>(y, left.shape()[0]);
    let out = B::float_matmul(z, B::float_transpose(left)); // [b, tokens, out/b]
    add_bias::<B>(join_ordered::<B>(out, order), bias)
}

/// See [`BlrBackend::monarch_linear_backward`](super::BlrBackend::monarch_linear_backward).
pub fn monarch_linear_backward<B: Backend>(
    grad: FloatTensor<B>,
    input: FloatTensor<B>,
    right: FloatTensor<B>,
    left: FloatTensor<B>,
    order: OutputOrder,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let blocks = right.shape()[0];
    let x = split_features::<B>(input, blocks); // [b, tokens, in/b]
    let outputs = left.shape()[0];
    let grad = split_ordered::<B>(grad, outputs, order); // [b, tokens, out/b]
    let y = B::float_matmul(x.clone(), B::float_transpose(right.clone()));
    let z = swap_parts::<B>(y, outputs);
    let grad_left = B::float_matmul(B::float_transpose(grad.clone()), z);
    let grad_y = swap_parts::<B>(B::float_matmul(grad, left), blocks); // [b, tokens, r]
    let grad_right = B::float_matmul(B::float_transpose(grad_y.clone()), x);
    let grad_input = join_features::<B>(B::float_matmul(grad_y, right));
    (grad_input, grad_right, grad_left)
}

/// See [`BlrBackend::blast_linear`](super::BlrBackend::blast_linear).
pub fn blast_linear<B: Backend>(
    input: FloatTensor<B>,
    u: FloatTensor<B>,
    s: FloatTensor<B>,
    v: FloatTensor<B>,
    bias: Bias<B>,
) -> FloatTensor<B> {
    let (blocks, outputs) = (v.shape()[0], u.shape()[0]);
    let x = split_features::<B>(input, blocks);
    let y = B::float_matmul(x, B::float_transpose(v)); // [b (in), tokens, r]
    let z = couple::<B>(y, s); // [b (out), tokens, r]
    let z = split_layers::<B>(z, outputs / blocks);
    let out = B::float_matmul(z, B::float_transpose(u)); // [b (out), tokens, out/b]
    add_bias::<B>(join_features::<B>(out), bias)
}

/// See [`BlrBackend::blast_linear_backward`](super::BlrBackend::blast_linear_backward).
pub fn blast_linear_backward<B: Backend>(
    grad: FloatTensor<B>,
    input: FloatTensor<B>,
    u: FloatTensor<B>,
    s: FloatTensor<B>,
    v: FloatTensor<B>,
) -> (
    FloatTensor<B>,
    FloatTensor<B>,
    FloatTensor<B>,
    FloatTensor<B>,
) {
    let blocks = u.shape()[0];
    let x = split_features::<B>(input, blocks); // [b (in), tokens, in/b]
    let grad = split_features::<B>(grad, blocks); // [b (out), tokens, out/b]
    let y = B::float_matmul(x.clone(), B::float_transpose(v.clone())); // [b (in), tokens, r]
    let y = reverse_axes::<B>(y); // [r, tokens, b (in)]
    let s = reverse_axes::<B>(s); // [r, b (in), b (out)]
    let z = reverse_axes::<B>(B::float_matmul(y.clone(), s.clone())); // [b (out), tokens, r]
    let grad_u = B::float_matmul(B::float_transpose(grad.clone()), z);
    let grad_z = reverse_axes::<B>(B::float_matmul(grad, u)); // [r, tokens, b (out)]
    let grad_s = B::float_matmul(B::float_transpose(y), grad_z.clone()); // [r, b (in), b (out)]
    let grad_y = B::float_matmul(grad_z, B::float_transpose(s)); // [r, tokens, b (in)]
    let grad_y = reverse_axes::<B>(grad_y); // [b (in), tokens, r]
    let grad_v = B::float_matmul(B::float_transpose(grad_y.clone()), x);
    let grad_input = join_features::<B>(B::float_matmul(grad_y, v));
    (grad_input, grad_u, reverse_axes::<B>(grad_s), grad_v)
}

/// `[tokens, features]` to `[b, tokens, features/b]`.
fn split_features<B: Backend>(tensor: FloatTensor<B>, blocks: usize) -> FloatTensor<B> {
    let shape = tensor.shape();
    let (tokens, features) = (shape[0], shape[1]);
    let tensor = B::float_reshape(tensor, Shape::new([tokens, blocks, features / blocks]));
    B::float_permute(tensor, &[1, 0, 2])
}

/// `[b, tokens, features/b]` to `[tokens, features]`.
fn join_features<B: Backend>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    join_ordered::<B>(tensor, OutputOrder::Contiguous)
}

/// `[b, tokens, features/b]` to `[tokens, features]`, the features of a block together or dealt
/// out one block after the other.
fn join_ordered<B: Backend>(tensor: FloatTensor<B>, order: OutputOrder) -> FloatTensor<B> {
    let shape = tensor.shape();
    let (blocks, tokens, width) = (shape[0], shape[1], shape[2]);
    let axes = match order {
        OutputOrder::Contiguous => [1, 0, 2],
        OutputOrder::Interleaved => [1, 2, 0],
    };
    B::float_reshape(
        B::float_permute(tensor, &axes),
        Shape::new([tokens, blocks * width]),
    )
}

/// The inverse of [`join_ordered`].
fn split_ordered<B: Backend>(
    tensor: FloatTensor<B>,
    blocks: usize,
    order: OutputOrder,
) -> FloatTensor<B> {
    match order {
        OutputOrder::Contiguous => split_features::<B>(tensor, blocks),
        OutputOrder::Interleaved => {
            let shape = tensor.shape();
            let (tokens, features) = (shape[0], shape[1]);
            let shape = Shape::new([tokens, features / blocks, blocks]);
            B::float_permute(B::float_reshape(tensor, shape), &[2, 0, 1])
        }
    }
}

/// Part j of block i becomes part i of block j, of `blocks`: from `[b, tokens, r]`, cut in as many parts
/// along r, to as many blocks of b parts.
fn swap_parts<B: Backend>(tensor: FloatTensor<B>, blocks: usize) -> FloatTensor<B> {
    let shape = tensor.shape();
    let (parts, tokens, part) = (shape[0], shape[1], shape[2] / blocks);
    let cut = Shape::new([parts, tokens, blocks, part]);
    let swapped = B::float_permute(B::float_reshape(tensor, cut), &[2, 1, 0, 3]);
    B::float_reshape(swapped, Shape::new([blocks, tokens, parts * part]))
}

/// `Z_j = Σ_i S_ji ∘ Y_i` for `y [b (in), tokens, r]`.
fn couple<B: Backend>(y: FloatTensor<B>, s: FloatTensor<B>) -> FloatTensor<B> {
    let (inner, couplings) = (y.shape(), s.shape());
    let (tokens, rank) = (inner[1], inner[2]);
    let (rows, columns) = (couplings[0], couplings[1]);
    if tokens > FEW_TOKENS {
        let z = B::float_matmul(reverse_axes::<B>(y), reverse_axes::<B>(s)); // [r, tokens, b (out)]
        return reverse_axes::<B>(z);
    }
    let y = B::float_reshape(y, Shape::new([1, columns, tokens, rank]));
    let s = B::float_reshape(s, Shape::new([rows, columns, 1, rank]));
    let summed = B::float_sum_dim(B::float_mul(s, y), 1); // [b (out), 1, tokens, r]
    B::float_reshape(summed, Shape::new([rows, tokens, rank]))
}

/// `[b, tokens, r]` with the ranks of `layers` layers to the blocks of one after those of another.
fn split_layers<B: Backend>(tensor: FloatTensor<B>, layers: usize) -> FloatTensor<B> {
    if layers == 1 {
        return tensor;
    }
    let shape = tensor.shape();
    let (blocks, tokens, rank) = (shape[0], shape[1], shape[2] / layers);
    let cut = Shape::new([blocks, tokens, layers, rank]);
    let split = B::float_permute(B::float_reshape(tensor, cut), &[2, 0, 1, 3]);
    B::float_reshape(split, Shape::new([layers * blocks, tokens, rank]))
}

/// `[a, b, c]` to `[c, b, a]`, which makes the mix of BLAST one batched product over r.
fn reverse_axes<B: Backend>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    B::float_permute(tensor, &[2, 1, 0])
}

fn add_bias<B: Backend>(output: FloatTensor<B>, bias: Bias<B>) -> FloatTensor<B> {
    match bias {
        Bias::Absent => output,
        Bias::Added(bias) => {
            let features = bias.shape()[0];
            B::float_add(output, B::float_reshape(bias, Shape::new([1, features])))
        }
    }
}

/// The tensors one after the other along an axis.
///
/// Burn 0.22.0-pre.3 lets go of the tensors that it concatenates before it registers the result for
/// autodiff. The backward pass of another thread may remove what led to them then, and the gradients
/// lack it. So they are held here.
pub fn concatenate<B: Backend>(tensors: Vec<FloatTensor<B>>, axis: usize) -> FloatTensor<B> {
    let held = tensors.clone();
    let joined = B::float_cat(tensors, axis);
    drop(held);
    joined
}

/// Applies `activation`, and merges what there is to be merged.
pub fn finish<B: Backend>(
    output: FloatTensor<B>,
    activation: Activation,
    merged: Merged<B>,
) -> FloatTensor<B> {
    match merged {
        Merged::Alone => activate::<B>(output, activation),
        Merged::Times(other) => B::float_mul(activate::<B>(output, activation), other),
        Merged::Plus(other) => B::float_add(activate::<B>(output, activation), other),
        Merged::Gated => {
            let shape = output.shape();
            let (tokens, features) = (shape[0], shape[1] / 2);
            let half = |first: usize| {
                let rows = Slice::from(0..tokens);
                let columns = Slice::from(first..first + features);
                B::float_slice(output.clone(), &[rows, columns])
            };
            B::float_mul(activate::<B>(half(0), activation), half(features))
        }
    }
}

/// Applies `activation` to every element.
pub fn activate<B: Backend>(output: FloatTensor<B>, activation: Activation) -> FloatTensor<B> {
    match activation {
        Activation::None => output,
        Activation::Gelu => gelu::<B>(output),
        Activation::GeluTanh => gelu_tanh::<B>(output),
        Activation::Silu => B::float_mul(output.clone(), B::sigmoid(output)),
    }
}

/// `x/2 (1 + erf(x / √2))`, step by step: Burn's own has the derivative of the form with tanh, up to
/// 6e-4 off, on the backends that do not have another.
fn gelu<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let inner = B::float_erf(B::float_mul_scalar(x.clone(), FRAC_1_SQRT_2.into()));
    let half = B::float_mul_scalar(x, 0.5.into());
    B::float_mul(half, B::float_add_scalar(inner, 1.0.into()))
}

/// `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`, the cube as two products: a power with a real exponent
/// is slower, and not defined for a negative base on every backend.
fn gelu_tanh<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    // √(2/π); the standard library has 2/π. And x + 0.044715 x³ = x (1 + 0.044715 x²), which stays
    // in range longer in f16.
    let scale = FRAC_2_PI.sqrt();
    let squared = B::float_mul(x.clone(), x.clone());
    let squared = B::float_mul_scalar(squared, 0.044715.into());
    let inner = B::float_mul(x.clone(), B::float_add_scalar(squared, 1.0.into()));
    let inner = B::float_tanh(B::float_mul_scalar(inner, scale.into()));
    let output = B::float_mul(x, B::float_add_scalar(inner, 1.0.into()));
    B::float_mul_scalar(output, 0.5.into())
}
