//! The two public functions: checks, plans, launches.

use cubecl::prelude::*;

use super::problem;
use crate::context::{Context, held_tokens, tokens_of};

use crate::epilogue::Epilogue;
use crate::error::KernelError;
use crate::format::LowRankDims;
use crate::operand::along;
use crate::product::{PlannedProduct, ProductOperands, ProductPair};
use crate::strategy::Strategy;
use crate::zero::fill_zero;

/// Tensors of a forward pass. All may have any strides.
#[derive(Clone, Debug)]
pub struct LowRankForward<R: Runtime> {
    /// `[tokens, in]`.
    pub input: TensorBinding<R>,
    /// `[out, r]`.
    pub u: TensorBinding<R>,
    /// `[r, in]`.
    pub v: TensorBinding<R>,
    /// What is done to each output.
    pub epilogue: Epilogue<R>,
    /// Scratch, `[tokens, r]`: holds `Y = x vᵀ` afterwards. May have fewer rows: so many tokens are then
    /// done at a time.
    pub inner: TensorBinding<R>,
    /// Written, `[tokens, out]`.
    pub output: TensorBinding<R>,
}

/// Tensors of a backward pass. All may have any strides.
#[derive(Clone, Debug)]
pub struct LowRankBackward<R: Runtime> {
    /// `[tokens, out]`.
    pub grad_output: TensorBinding<R>,
    /// `[tokens, in]`.
    pub input: TensorBinding<R>,
    /// `[out, r]`.
    pub u: TensorBinding<R>,
    /// `[r, in]`.
    pub v: TensorBinding<R>,
    /// Scratch, `[tokens, r]`: holds `Y = x vᵀ`, then its gradient.
    pub inner: TensorBinding<R>,
    /// Written after the last read of `grad_output`, whose memory it may be; `[tokens, in]`.
    pub grad_input: TensorBinding<R>,
    /// Written, `[out, r]`.
    pub grad_u: TensorBinding<R>,
    /// Written, `[r, in]`.
    pub grad_v: TensorBinding<R>,
}

/// Computes `output = (input vᵀ) uᵀ + bias`.
///
/// Sums in `f32`; `inner` is stored in `dtype`. Launches two products for each run of tokens that the scratch has room for.
///
/// # Errors
///
/// [`KernelError::Shape`] or [`KernelError::Buffer`] if a tensor is not as [`LowRankForward`]
/// says, [`KernelError::InvalidConfig`] if a written tensor is broadcast,
/// [`KernelError::Unavailable`] if the device can not run it. Nothing is launched then.
pub fn forward<R: Runtime>(
    client: &ComputeClient<R>,
    operands: LowRankForward<R>,
    dims: &LowRankDims,
    dtype: ElemType,
    strategy: &Strategy,
) -> Result<(), KernelError> {
    let tokens = tokens_of(&operands.input);
    let mut context = Context::new(client, dtype, strategy)?;
    let LowRankForward {
        input,
        u,
        v,
        epilogue,
        inner,
        output,
    } = operands;
    context.input("input", &input, &[tokens, dims.in_features()])?;
    context.input("u", &u, &dims.u_shape())?;
    context.input("v", &v, &dims.v_shape())?;
    let out_features = epilogue.check(&mut context, tokens, (1, dims.out_features()))?;
    let held = held_tokens(&inner, 0, tokens);
    context.output("inner", &inner, &dims.scratch_shape(held))?;
    context.output("output", &output, &[tokens, out_features])?;
    if tokens == 0 {
        return Ok(());
    }

    let pair = ProductPair {
        input,
        factors: [v, u],
        epilogue,
        scratch: along(&inner, 0, held),
        token_axis: 0,
        output,
    };
    let planned = pair.plan(&context, tokens, |pair, tokens| {
        let [v, u] = &pair.factors;
        let (inner, epilogue) = (&pair.scratch, &pair.epilogue);
        [
            problem::inner(dims, tokens, &pair.input, v, inner),
            problem::output(dims, tokens, inner, u, epilogue, &pair.output),
        ]
    })?;
    for pair in planned {
        pair.launch(&context);
    }
    Ok(())
}

/// Computes the gradients of [`forward`] from its input and factors:
/// `dU = Gᵀ Y`, `dY = G U`, `dV = dYᵀ X`, `dX = dY V`, with `Y = x vᵀ` computed again.
///
/// Sums in `f32`; `inner` is stored in `dtype`. The gradient of the bias is the
/// sum of `grad_output` over tokens and left to the caller. For zero tokens, the gradients of
/// the factors are set to zero.
///
/// # Errors
///
/// As [`forward`].
pub fn backward<R: Runtime>(
    client: &ComputeClient<R>,
    operands: LowRankBackward<R>,
    dims: &LowRankDims,
    dtype: ElemType,
    strategy: &Strategy,
) -> Result<(), KernelError> {
    let tokens = tokens_of(&operands.input);
    let mut context = Context::new(client, dtype, strategy)?;
    let LowRankBackward {
        grad_output,
        input,
        u,
        v,
        inner,
        ..
    } = operands;
    let LowRankBackward {
        grad_input,
        grad_u,
        grad_v,
        ..
    } = operands;
    context.input("grad_output", &grad_output, &[tokens, dims.out_features()])?;
    context.input("input", &input, &[tokens, dims.in_features()])?;
    context.input("u", &u, &dims.u_shape())?;
    context.input("v", &v, &dims.v_shape())?;
    context.output("inner", &inner, &dims.scratch_shape(tokens))?;
    context.output("grad_input", &grad_input, &[tokens, dims.in_features()])?;
    context.output("grad_u", &grad_u, &dims.u_shape())?;
    context.output("grad_v", &grad_v, &dims.v_shape())?;
    if tokens == 0 {
        return fill_zero(&context, [grad_u, grad_v]);
    }

    let plan = |problem| PlannedProduct::new(&context, problem);
    let to_inner = plan(problem::inner(dims, tokens, &input, &v, &inner))?;
    let to_grad_u = plan(problem::grad_u(dims, tokens, &grad_output, &inner, &grad_u))?;
    let to_grad_inner = plan(problem::grad_inner(dims, tokens, &grad_output, &u, &inner))?;
    let to_grad_v = plan(problem::grad_v(dims, tokens, &inner, &input, &grad_v))?;
    let to_grad_input = plan(problem::grad_input(dims, tokens, &inner, &v, &grad_input))?;

    let launch = |planned: PlannedProduct, lhs, rhs, out| {
        planned.launch(
            &context,
            ProductOperands {
                lhs,
                rhs,
                bias: None,
                merged: None,
                out,
            },
        );
    };
    launch(to_inner, input.clone(), v.clone(), inner.clone());
    launch(to_grad_u, grad_output.clone(), inner.clone(), grad_u);
    launch(to_grad_inner, grad_output, u, inner.clone());
    launch(to_grad_v, inner.clone(), input, grad_v);
    launch(to_grad_input, inner, v, grad_input);
    Ok(())
}
