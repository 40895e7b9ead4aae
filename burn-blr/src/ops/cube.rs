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
    Activation, BlastDims, KernelError, LowRankDims, MonarchDims, OutputOrder, Strategy, blast,
    dense, low_rank, matmul, monarch,
};

use super::{Bias, BlrBackend, plain};
use crate::strategy::{chosen, count_unserved};

impl<R: CubeRuntime> BlrBackend for CubeBackend<R> {
    fn dense_linear(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Bias<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        let plain = |input, weight, bias| {
            let output = plain::dense_linear::<Self>(input, weight, bias);
            plain::activate::<Self>(output, activation)
        };
        // Burn's products of f32 use tensor cores, in tf32, and ours do not.
        if input.dtype == DType::F32 {
            return plain(input, weight, bias);
        }
        let launch = || {
            let (tokens, out_features) = (input.meta.shape()[0], weight.meta.shape()[1]);
            let output = empty(&input, [tokens, out_features]);
            let operands = dense::DenseForward {
                input: binding(&input),
                weight: binding(&weight),
                bias: bias_binding(&bias),
                activation,
                output: binding(&output),
            };
            dense::forward(&input.client, operands, element(&input), &chosen())?;
            Ok(output)
        };
        match served(launch()) {
            Some(output) => output,
            None => plain(input, weight, bias),
        }
    }

    fn low_rank_linear(
        input: FloatTensor<Self>,
        u: FloatTensor<Self>,
        v: FloatTensor<Self>,
        bias: Bias<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        let launch = || {
            let dims = low_rank_dims(&u, &v)?;
            let tokens = input.meta.shape()[0];
            let output = empty(&input, [tokens, dims.out_features()]);
            let operands = low_rank::LowRankForward {
                input: binding(&input),
                u: binding(&u),
                v: binding(&v),
                bias: bias_binding(&bias),
                activation,
                inner: empty(&input, dims.scratch_shape(tokens)).binding(),
                output: binding(&output),
            };
            low_rank::forward(&input.client, operands, &dims, element(&input), &chosen())?;
            Ok(output)
        };
        match served(launch()) {
            Some(output) => output,
            None => {
                let output = plain::low_rank_linear::<Self>(input, u, v, bias);
                plain::activate::<Self>(output, activation)
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
            let gradients = (empty_like(&input), empty_like(&u), empty_like(&v));
            let operands = low_rank::LowRankBackward {
                grad_output: binding(&grad),
                input: binding(&input),
                u: binding(&u),
                v: binding(&v),
                inner: empty(&input, scratch).binding(),
                grad_inner: empty(&input, scratch).binding(),
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
    ) -> FloatTensor<Self> {
        let launch = || {
            let dims = monarch_dims(&right, &left, order)?;
            let tokens = input.meta.shape()[0];
            let output = empty(&input, [tokens, dims.out_features()]);
            let operands = monarch::MonarchForward {
                input: binding(&input),
                right: binding(&right),
                left: binding(&left),
                bias: bias_binding(&bias),
                activation,
                inner: empty(&input, dims.scratch_shape(tokens)).binding(),
                output: binding(&output),
            };
            monarch::forward(&input.client, operands, &dims, element(&input), &chosen())?;
            Ok(output)
        };
        match served(launch()) {
            Some(output) => output,
            None => {
                let output = plain::monarch_linear::<Self>(input, right, left, bias, order);
                plain::activate::<Self>(output, activation)
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
            let scratch = dims.scratch_shape(input.meta.shape()[0]);
            let gradients = (empty_like(&input), empty_like(&right), empty_like(&left));
            let operands = monarch::MonarchBackward {
                grad_output: binding(&grad),
                input: binding(&input),
                right: binding(&right),
                left: binding(&left),
                inner: empty(&input, scratch).binding(),
                grad_inner: empty(&input, scratch).binding(),
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
    ) -> FloatTensor<Self> {
        let launch = || {
            let dims = blast_dims(&u, &v)?;
            let tokens = input.meta.shape()[0];
            let output = empty(&input, [tokens, dims.out_features()]);
            let operands = blast::BlastForward {
                input: binding(&input),
                u: binding(&u),
                s: binding(&s),
                v: binding(&v),
                bias: bias_binding(&bias),
                activation,
                coupled: empty(&input, dims.scratch_shape(tokens)).binding(),
                output: binding(&output),
            };
            blast::forward(&input.client, operands, &dims, element(&input), &chosen())?;
            Ok(output)
        };
        match served(launch()) {
            Some(output) => output,
            None => {
                let output = plain::blast_linear::<Self>(input, u, s, v, bias);
                plain::activate::<Self>(output, activation)
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
                empty_like(&input),
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
    MonarchDims::new(
        right[0],
        right[1],
        right[0] * right[2],
        left[0] * left[1],
        order,
    )
}

fn blast_dims<R: CubeRuntime>(
    u: &CubeTensor<R>,
    v: &CubeTensor<R>,
) -> Result<BlastDims, KernelError> {
    let (u, v) = (u.meta.shape(), v.meta.shape());
    BlastDims::new(u[0], u[2], v[0] * v[2], u[0] * u[1])
}

fn binding<R: CubeRuntime>(tensor: &CubeTensor<R>) -> TensorBinding<R> {
    tensor.clone().binding()
}

fn bias_binding<R: CubeRuntime>(bias: &Bias<CubeBackend<R>>) -> Option<TensorBinding<R>> {
    match bias {
        Bias::Added(bias) => Some(binding(bias)),
        Bias::Absent => None,
    }
}

fn empty<R: CubeRuntime, const D: usize>(like: &CubeTensor<R>, shape: [usize; D]) -> CubeTensor<R> {
    let (client, device) = (like.client.clone(), like.device.clone());
    empty_device_contiguous_dtype(client, device, Shape::new(shape), like.dtype)
}

fn empty_like<R: CubeRuntime>(tensor: &CubeTensor<R>) -> CubeTensor<R> {
    let (client, device) = (tensor.client.clone(), tensor.device.clone());
    empty_device_contiguous_dtype(client, device, tensor.meta.shape().clone(), tensor.dtype)
}

fn element<R: CubeRuntime>(tensor: &CubeTensor<R>) -> cubecl::prelude::ElemType {
    dtype_to_elem_type(tensor.dtype)
}
