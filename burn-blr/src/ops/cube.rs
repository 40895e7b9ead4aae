//! The products on CubeCL backends, by the kernels of [`cubecl_kernels`].

use burn::backend::cubecl::dtype_to_elem_type;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Shape};
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeRuntime};
use cubecl::prelude::TensorBinding;
use cubecl_kernels::{
    Activation, BlastDims, Epilogue, KernelError, LowRankDims, Merge, MonarchDims, OutputOrder,
    Strategy, blast, dense, low_rank, matmul, monarch,
};

use super::{Bias, BlrBackend, Merged, plain};
use crate::scratch::tokens_at_a_time;
use crate::strategy::{chosen, count_unserved};

impl<R: CubeRuntime> BlrBackend for CubeBackend<R> {
    fn dense_linear(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Bias<Self>,
        activation: Activation,
        merged: Merged<Self>,
    ) -> FloatTensor<Self> {
        let plain = |input, weight, bias, merged| {
            let output = plain::dense_linear::<Self>(input, weight, bias);
            plain::finish::<Self>(output, activation, merged)
        };
        // Burn's products of f32 use tensor cores, in tf32, and ours do not.
        if input.dtype == DType::F32 {
            return plain(input, weight, bias, merged);
        }
        let launch = || {
            let (tokens, out_features) = (input.meta.shape()[0], weight.meta.shape()[1]);
            let output = output(&input, (tokens, out_features), &merged);
            let operands = dense::DenseForward {
                input: binding(&input),
                weight: binding(&weight),
                epilogue: epilogue(&bias, activation, &merged),
                output: binding(&output),
            };
            dense::forward(&input.client, operands, element(&input), &chosen())?;
            Ok(output)
        };
        match served(launch()) {
            Some(output) => output,
            None => plain(input, weight, bias, merged),
        }
    }

    fn low_rank_linear(
        input: FloatTensor<Self>,
        u: FloatTensor<Self>,
        v: FloatTensor<Self>,
        bias: Bias<Self>,
        activation: Activation,
        merged: Merged<Self>,
    ) -> FloatTensor<Self> {
        // Joined, low-rank layers are Monarch ones.
        if gated_by_halves(&merged, 1) {
            let (no, alone) = (Activation::None, Merged::Alone);
            let output = Self::low_rank_linear(input, u, v, bias, no, alone);
            return plain::finish::<Self>(output, activation, merged);
        }
        let launch = || {
            let dims = low_rank_dims(&u, &v)?;
            let tokens = input.meta.shape()[0];
            let output = output(&input, (tokens, dims.out_features()), &merged);
            let operands = low_rank::LowRankForward {
                input: binding(&input),
                u: binding(&u),
                v: binding(&v),
                epilogue: epilogue(&bias, activation, &merged),
                inner: scratch(&input, dims.scratch_shape(tokens), 0),
                output: binding(&output),
            };
            low_rank::forward(&input.client, operands, &dims, element(&input), &chosen())?;
            Ok(output)
        };
        match served(launch()) {
            Some(output) => output,
            None => {
                let output = plain::low_rank_linear::<Self>(input, u, v, bias);
                plain::finish::<Self>(output, activation, merged)
            }
        }
    }

    fn low_rank_linear_backward(
        grad: FloatTensor<Self>,
        input: FloatTensor<Self>,
        u: FloatTensor<Self>,
        v: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let launch = || {
            let dims = low_rank_dims(&u, &v)?;
            let scratch = dims.scratch_shape(input.meta.shape()[0]);
            let grad_input = over_or_empty(&grad, &input, input.meta.shape().dims::<2>());
            let gradients = (grad_input, empty_like(&u), empty_like(&v));
            let operands = low_rank::LowRankBackward {
                grad_output: binding(&grad),
                input: binding(&input),
                u: binding(&u),
                v: binding(&v),
                inner: empty(&input, scratch).binding(),
                grad_input: binding(&gradients.0),
                grad_u: binding(&gradients.1),
                grad_v: binding(&gradients.2),
            };
            low_rank::backward(&input.client, operands, &dims, element(&input), &chosen())?;
            Ok(gradients)
        };
        match served(launch()) {
            Some(gradients) => gradients,
            None => plain::low_rank_linear_backward::<Self>(grad, input, u, v),
        }
    }

    fn monarch_linear(
        input: FloatTensor<Self>,
        right: FloatTensor<Self>,
        left: FloatTensor<Self>,
        bias: Bias<Self>,
        order: OutputOrder,
        activation: Activation,
        merged: Merged<Self>,
    ) -> FloatTensor<Self> {
        if gated_by_halves(&merged, left.meta.shape()[0] / right.meta.shape()[0]) {
            let (no, alone) = (Activation::None, Merged::Alone);
            let output = Self::monarch_linear(input, right, left, bias, order, no, alone);
            return plain::finish::<Self>(output, activation, merged);
        }
        let launch = || {
            let dims = monarch_dims(&right, &left, order)?;
            let tokens = input.meta.shape()[0];
            let output = output(&input, (tokens, dims.out_features()), &merged);
            let operands = monarch::MonarchForward {
                input: binding(&input),
                right: binding(&right),
                left: binding(&left),
                epilogue: epilogue(&bias, activation, &merged),
                output: binding(&output),
            };
            let scratch = |shape| scratch(&input, shape, 1);
            let (client, dtype) = (&input.client, element(&input));
            monarch::forward(client, operands, &dims, dtype, &chosen(), scratch)?;
            Ok(output)
        };
        match served(launch()) {
            Some(output) => output,
            None => {
                let output = plain::monarch_linear::<Self>(input, right, left, bias, order);
                plain::finish::<Self>(output, activation, merged)
            }
        }
    }

    fn monarch_linear_backward(
        grad: FloatTensor<Self>,
        input: FloatTensor<Self>,
        right: FloatTensor<Self>,
        left: FloatTensor<Self>,
        order: OutputOrder,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let launch = || {
            let dims = monarch_dims(&right, &left, order)?;
            let scratch = dims.backward_scratch_shape(input.meta.shape()[0]);
            let grad_input = over_or_empty(&grad, &input, input.meta.shape().dims::<2>());
            let gradients = (grad_input, empty_like(&right), empty_like(&left));
            let operands = monarch::MonarchBackward {
                grad_output: binding(&grad),
                input: binding(&input),
                right: binding(&right),
                left: binding(&left),
                inner: empty(&input, scratch).binding(),
                grad_input: binding(&gradients.0),
                grad_right: binding(&gradients.1),
                grad_left: binding(&gradients.2),
            };
            monarch::backward(&input.client, operands, &dims, element(&input), &chosen())?;
            Ok(gradients)
        };
        match served(launch()) {
            Some(gradients) => gradients,
            None => plain::monarch_linear_backward::<Self>(grad, input, right, left, order),
        }
    }

    fn blast_linear(
        input: FloatTensor<Self>,
        u: FloatTensor<Self>,
        s: FloatTensor<Self>,
        v: FloatTensor<Self>,
        bias: Bias<Self>,
        activation: Activation,
        merged: Merged<Self>,
    ) -> FloatTensor<Self> {
        if gated_by_halves(&merged, u.meta.shape()[0] / v.meta.shape()[0]) {
            let (no, alone) = (Activation::None, Merged::Alone);
            let output = Self::blast_linear(input, u, s, v, bias, no, alone);
            return plain::finish::<Self>(output, activation, merged);
        }
        let launch = || {
            let dims = blast_dims(&u, &v)?;
            let tokens = input.meta.shape()[0];
            let output = output(&input, (tokens, dims.out_features()), &merged);
            let operands = blast::BlastForward {
                input: binding(&input),
                u: binding(&u),
                s: binding(&s),
                v: binding(&v),
                epilogue: epilogue(&bias, activation, &merged),
                coupled: scratch(&input, dims.scratch_shape(tokens), 1),
                output: binding(&output),
            };
            blast::forward(&input.client, operands, &dims, element(&input), &chosen())?;
            Ok(output)
        };
        match served(launch()) {
            Some(output) => output,
            None => {
                let output = plain::blast_linear::<Self>(input, u, s, v, bias);
                plain::finish::<Self>(output, activation, merged)
            }
        }
    }

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
        let launch = || {
            let dims = blast_dims(&u, &v)?;
            let scratch = dims.scratch_shape(input.meta.shape()[0]);
            let gradients = (
                over_or_empty(&grad, &input, input.meta.shape().dims::<2>()),
                empty_like(&u),
                empty_like(&s),
                empty_like(&v),
            );
            let operands = blast::BlastBackward {
                grad_output: binding(&grad),
                input: binding(&input),
                u: binding(&u),
                s: binding(&s),
                v: binding(&v),
                inner: empty(&input, scratch).binding(),
                coupled: empty(&input, scratch).binding(),
                grad_input: binding(&gradients.0),
                grad_u: binding(&gradients.1),
                grad_s: binding(&gradients.2),
                grad_v: binding(&gradients.3),
            };
            blast::backward(&input.client, operands, &dims, element(&input), &chosen())?;
            Ok(gradients)
        };
        match served(launch()) {
            Some(gradients) => gradients,
            None => plain::blast_linear_backward::<Self>(grad, input, u, s, v),
        }
    }

    fn exact_product(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        let launch = || {
            let (left, right) = (lhs.meta.shape(), rhs.meta.shape());
            let output = empty(&lhs, [left[0], left[1], right[2]]);
            let operands = matmul::Matmul {
                lhs: binding(&lhs),
                rhs: binding(&rhs),
                output: binding(&output),
            };
            matmul::matmul(&lhs.client, operands, element(&lhs), &Strategy::Auto)?;
            Ok(output)
        };
        match served(launch()) {
            Some(output) => output,
            None => Self::float_matmul(lhs, rhs),
        }
    }
}

/// What the kernels gave, or nothing where the device cannot run them and the plain operations
/// have to; the one place where that is decided.
#[allow(
    clippy::panic,
    reason = "operands were checked by the layers: this is an error of ours"
)]
pub(crate) fn served<T>(result: Result<T, KernelError>) -> Option<T> {
    match result {
        Ok(output) => Some(output),
        Err(KernelError::Unavailable(_)) => {
            count_unserved();
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn low_rank_dims<R: CubeRuntime>(
    u: &CubeTensor<R>,
    v: &CubeTensor<R>,
) -> Result<LowRankDims, KernelError> {
    LowRankDims::new(v.meta.shape()[0], v.meta.shape()[1], u.meta.shape()[0])
}

fn monarch_dims<R: CubeRuntime>(
    right: &CubeTensor<R>,
    left: &CubeTensor<R>,
    order: OutputOrder,
) -> Result<MonarchDims, KernelError> {
    let (right, left) = (right.meta.shape(), left.meta.shape());
    let (blocks, layers) = (right[0], left[0] / right[0]);
    let (in_features, out_features) = (blocks * right[2], blocks * left[1]);
    MonarchDims::new(blocks, left[2], in_features, out_features, order)?.layers(layers)
}

fn blast_dims<R: CubeRuntime>(
    u: &CubeTensor<R>,
    v: &CubeTensor<R>,
) -> Result<BlastDims, KernelError> {
    let (u, v) = (u.meta.shape(), v.meta.shape());
    let (blocks, layers) = (v[0], u[0] / v[0]);
    BlastDims::new(blocks, u[2], blocks * v[2], blocks * u[1])?.layers(layers)
}

fn binding<R: CubeRuntime>(tensor: &CubeTensor<R>) -> TensorBinding<R> {
    tensor.clone().binding()
}

fn epilogue<R: CubeRuntime>(
    bias: &Bias<CubeBackend<R>>,
    activation: Activation,
    merged: &Merged<CubeBackend<R>>,
) -> Epilogue<R> {
    Epilogue {
        bias: match bias {
            Bias::Added(bias) => Some(binding(bias)),
            Bias::Absent => None,
        },
        activation,
        merged: match merged {
            Merged::Times(other) => Some((Merge::Times, binding(other))),
            Merged::Plus(other) => Some((Merge::Plus, binding(other))),
            Merged::Alone | Merged::Gated => None,
        },
        gated: matches!(merged, Merged::Gated),
    }
}

/// Whether halves of the outputs gate each other that are not those of two layers: the kernels know no
/// such thing.
fn gated_by_halves<B: BlrBackend>(merged: &Merged<B>, layers: usize) -> bool {
    matches!(merged, Merged::Gated) && layers != 2
}

/// Where the outputs of a product go, or what is left of them: over what they are merged with, where
/// nobody else holds that.
fn output<R: CubeRuntime>(
    input: &CubeTensor<R>,
    (tokens, features): (usize, usize),
    merged: &Merged<CubeBackend<R>>,
) -> CubeTensor<R> {
    match merged {
        Merged::Times(other) | Merged::Plus(other) => {
            over_or_empty(other, input, [tokens, features])
        }
        Merged::Gated => empty(input, [tokens, features / 2]),
        Merged::Alone => empty(input, [tokens, features]),
    }
}

/// Memory between the products of a layer, of the `shape` that all tokens need, but for as many as the
/// limit allows; `axis` counts them.
fn scratch<R: CubeRuntime, const D: usize>(
    input: &CubeTensor<R>,
    mut shape: [usize; D],
    axis: usize,
) -> TensorBinding<R> {
    let (tokens, elements) = (shape[axis], shape.iter().product::<usize>());
    let bytes = elements / tokens.max(1) * input.dtype.size();
    shape[axis] = tokens_at_a_time(tokens, bytes);
    empty(input, shape).binding()
}

fn empty<R: CubeRuntime, const D: usize>(like: &CubeTensor<R>, shape: [usize; D]) -> CubeTensor<R> {
    empty_of(like, shape, like.dtype)
}

/// A contiguous tensor of `dtype` that nothing has been written to, on the device of `like`.
pub(crate) fn empty_of<R: CubeRuntime, const D: usize>(
    like: &CubeTensor<R>,
    shape: [usize; D],
    dtype: DType,
) -> CubeTensor<R> {
    let (client, device) = (like.client.clone(), like.device.clone());
    empty_device_contiguous_dtype(client, device, Shape::new(shape), dtype)
}

fn empty_like<R: CubeRuntime>(tensor: &CubeTensor<R>) -> CubeTensor<R> {
    let (client, device) = (tensor.client.clone(), tensor.device.clone());
    empty_device_contiguous_dtype(client, device, tensor.meta.shape().clone(), tensor.dtype)
}

/// A tensor to be written: the memory of `read`, where nobody else holds it and it has the shape and
/// the type, or new memory.
///
/// For kernels that write an element after the last read of what was there.
fn over_or_empty<R: CubeRuntime, const D: usize>(
    read: &CubeTensor<R>,
    like: &CubeTensor<R>,
    shape: [usize; D],
) -> CubeTensor<R> {
    let fits = read.meta.shape()[..] == shape && read.dtype == like.dtype;
    if fits && read.is_contiguous() && read.can_mut() {
        read.clone()
    } else {
        empty(like, shape)
    }
}

fn element<R: CubeRuntime>(tensor: &CubeTensor<R>) -> cubecl::prelude::ElemType {
    dtype_to_elem_type(tensor.dtype)
}
