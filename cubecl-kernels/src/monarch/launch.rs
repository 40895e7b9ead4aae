//! The two public functions: checks, plans, launches.

use cubecl::prelude::*;

use super::fused::{FusedOperands, PlannedFused};
use super::problem;
use crate::context::{Context, held_tokens, runs, tokens_of};
use crate::epilogue::Epilogue;
use crate::error::{KernelError, Requirement};
use crate::format::{MonarchDims, layers_at_once};
use crate::operand::{View, along, axis_size, part};
use crate::product::{PlannedGated, PlannedProduct, ProductOperands, ProductPair};
use crate::strategy::Strategy;
use crate::zero::fill_zero;

/// Tensors of a forward pass. All may have any strides.
#[derive(Clone, Debug)]
pub struct MonarchForward<R: Runtime> {
    /// `[tokens, in]`.
    pub input: TensorBinding<R>,
    /// `[b, r, in/b]`.
    pub right: TensorBinding<R>,
    /// `[b, out/b, r]`.
    pub left: TensorBinding<R>,
    /// What is done to each output.
    pub epilogue: Epilogue<R>,
    /// Written, `[tokens, out]`.
    pub output: TensorBinding<R>,
}

/// Tensors of a backward pass. All may have any strides.
#[derive(Clone, Debug)]
pub struct MonarchBackward<R: Runtime> {
    /// `[tokens, out]`.
    pub grad_output: TensorBinding<R>,
    /// `[tokens, in]`.
    pub input: TensorBinding<R>,
    /// `[b, r, in/b]`.
    pub right: TensorBinding<R>,
    /// `[b, out/b, r]`.
    pub left: TensorBinding<R>,
    /// Scratch, `[b, tokens, r]`: holds `Z`, then the gradient of `Y`. Contiguous for several layers.
    pub inner: TensorBinding<R>,
    /// Written after the last read of `grad_output`, whose memory it may be; `[tokens, in]`.
    pub grad_input: TensorBinding<R>,
    /// Written, `[b, r, in/b]`.
    pub grad_right: TensorBinding<R>,
    /// Written, `[b, out/b, r]`.
    pub grad_left: TensorBinding<R>,
}

/// Computes the Monarch product of the [module](super).
///
/// Of several [layers](MonarchDims::layers) all outputs, side by side or [gated](Epilogue::gated): with few
/// tokens at once, with many by one kernel for all or one layer after the other.
///
/// Sums in `f32`; `Z` is rounded to `dtype`. Launches one kernel where the plan is to fuse both
/// products, else two, and nothing for zero tokens. Two need memory for `Z`: `scratch` is called with
/// its shape `[b, tokens, r]`, once and only then. It may give room for fewer tokens: so many are
/// then done at a time, by two kernels each. Both permutations happen in stores.
///
/// # Errors
///
/// [`KernelError::Shape`] or [`KernelError::Buffer`] if a tensor is not as [`MonarchForward`]
/// says or the scratch not of that shape, [`KernelError::InvalidConfig`] if a written tensor is
/// broadcast, [`KernelError::Unavailable`] if the device can not run it. Nothing is launched then.
pub fn forward<R: Runtime>(
    client: &ComputeClient<R>,
    operands: MonarchForward<R>,
    dims: &MonarchDims,
    dtype: ElemType,
    strategy: &Strategy,
    scratch: impl FnOnce([usize; 3]) -> TensorBinding<R>,
) -> Result<(), KernelError> {
    let tokens = tokens_of(&operands.input);
    let mut context = Context::new(client, dtype, strategy)?;
    context.input("input", &operands.input, &[tokens, dims.in_features()])?;
    context.input("right", &operands.right, &dims.right_shape())?;
    context.input("left", &operands.left, &dims.left_shape())?;
    let (layers, gated) = (dims.count(), operands.epilogue.gated);
    let sizes = (layers, dims.out_features());
    let out_features = operands.epilogue.check(&mut context, tokens, sizes)?;
    context.output("output", &operands.output, &[tokens, out_features])?;
    if tokens == 0 {
        return Ok(());
    }

    let at_once = layers_at_once(layers, tokens) == layers;
    if !gated && let Some(fused) = operands.fused(&context, dims, tokens)? {
        fused.launch(&context, operands.into());
        return Ok(());
    }
    let parts = if at_once {
        vec![operands]
    } else {
        let part = |layer| operands.layer(&context, dims, layer);
        let parts: Result<Vec<_>, KernelError> = (0..layers).map(part).collect();
        parts?
    };
    let dims_of_part = dims.layers(if at_once { layers } else { 1 })?;
    if !at_once {
        let fused = |part: &MonarchForward<R>| part.fused(&context, &dims_of_part, tokens);
        let fused: Result<Vec<_>, KernelError> = parts.iter().map(fused).collect();
        if let Some(fused) = fused?.into_iter().collect::<Option<Vec<_>>>() {
            for (fused, part) in fused.into_iter().zip(parts) {
                fused.launch(&context, part.into());
            }
            return Ok(());
        }
    }

    let [blocks, _, rank] = dims.scratch_shape(tokens);
    let inner = scratch([blocks, tokens, rank]);
    let held = held_tokens(&inner, 1, tokens);
    context.output("inner", &inner, &[blocks, held, rank])?;
    let inner = along(&inner, 1, held);
    let mut pairs = parts.into_iter().map(|part| part.pair(&inner));
    if gated && at_once {
        return pairs.try_for_each(|pair| launch_gated(&context, &pair, dims, tokens));
    }
    let plan = |pair: ProductPair<R>| {
        pair.plan(&context, tokens, |pair, tokens| {
            let inner = View::blocks(&pair.scratch);
            let [right, left] = &pair.factors;
            let (dims, epilogue) = (&dims_of_part, &pair.epilogue);
            [
                problem::inner(dims, tokens, &pair.input, right, inner),
                problem::output(dims, tokens, inner, left, epilogue, &pair.output),
            ]
        })
    };
    let planned: Result<Vec<_>, KernelError> = pairs.map(plan).collect();
    for pair in planned?.into_iter().flatten() {
        pair.launch(&context);
    }
    Ok(())
}

impl<R: Runtime> MonarchForward<R> {
    /// The tensors of one of several layers.
    fn layer(
        &self,
        context: &Context<'_, R>,
        dims: &MonarchDims,
        layer: usize,
    ) -> Result<Self, KernelError> {
        let features = dims.out_features() / dims.count();
        let features = (layer * features, features);
        let (epilogue, output) = self.epilogue.of_layer(context, features, &self.output)?;
        let ranks = (layer * dims.rank(), dims.rank());
        let blocks = (layer * dims.blocks(), dims.blocks());
        Ok(Self {
            input: self.input.clone(),
            right: part(context, &self.right, 1, ranks)?,
            left: part(context, &self.left, 0, blocks)?,
            epilogue,
            output,
        })
    }

    /// Both products as one kernel, where that is to be.
    fn fused(
        &self,
        context: &Context<'_, R>,
        dims: &MonarchDims,
        tokens: usize,
    ) -> Result<Option<PlannedFused>, KernelError> {
        let inner = View::contiguous(tokens, dims.rank());
        let first = problem::inner(dims, tokens, &self.input, &self.right, inner);
        let (left, epilogue) = (&self.left, &self.epilogue);
        let second = problem::output(dims, tokens, inner, left, epilogue, &self.output);
        PlannedFused::chosen(context, first, second)
    }

    /// Both products through `scratch`.
    fn pair(self, scratch: &TensorBinding<R>) -> ProductPair<R> {
        ProductPair {
            input: self.input,
            factors: [self.right, self.left],
            epilogue: self.epilogue,
            scratch: scratch.clone(),
            token_axis: 1,
            output: self.output,
        }
    }
}

impl<R: Runtime> From<MonarchForward<R>> for FusedOperands<R> {
    fn from(operands: MonarchForward<R>) -> Self {
        Self {
            input: operands.input,
            right: operands.right,
            left: operands.left,
            epilogue: operands.epilogue,
            out: operands.output,
        }
    }
}

/// [`forward`] of two layers, the first of which gates the second, with few tokens.
fn launch_gated<R: Runtime>(
    context: &Context<'_, R>,
    pair: &ProductPair<R>,
    dims: &MonarchDims,
    tokens: usize,
) -> Result<(), KernelError> {
    let one = dims.layers(1)?;
    let room = axis_size(&pair.scratch, pair.token_axis);
    let plan = |run: (usize, usize)| {
        let pair = pair.run(context, run)?;
        let [right, left] = &pair.factors;
        let inner = View::blocks(&pair.scratch);
        let first = problem::inner(dims, run.1, &pair.input, right, inner);
        let first = PlannedProduct::new(context, first)?;
        let of_layer = |layer: usize| {
            let blocks = (layer * one.blocks(), one.blocks());
            let scratch = part(context, &pair.scratch, 0, blocks)?;
            let left = part(context, left, 0, blocks)?;
            let features = (layer * one.out_features(), one.out_features());
            let (epilogue, output) = pair.epilogue.of_layer(context, features, &pair.output)?;
            let inner = View::blocks(&scratch);
            let problem = problem::output(&one, run.1, inner, &left, &epilogue, &output);
            let operands = ProductOperands {
                lhs: scratch,
                rhs: left,
                bias: epilogue.bias,
                merged: epilogue.merged.map(|(_, merged)| merged),
                out: output,
            };
            Ok::<_, KernelError>((problem, operands))
        };
        let [(gate, of_gate), (other, of_other)] = [of_layer(0)?, of_layer(1)?];
        let second = PlannedGated::new(context, [gate, other])?;
        let [of_first, _] = pair.operands();
        Ok((first, of_first, second, [of_gate, of_other]))
    };
    let planned: Result<Vec<_>, KernelError> = runs(tokens, room).map(plan).collect();
    for (first, of_first, second, of_second) in planned? {
        first.launch(context, of_first);
        second.launch(context, of_second);
    }
    Ok(())
}

/// Computes the gradients of [`forward`] from its input and factors: `dleft_j = G_jᵀ Z_j`,
/// `dZ_j = G_j left_j` (stored as `dY`), `dright_i = dY_iᵀ X_i`, `dX_i = dY_i right_i`, with `Z`
/// computed again.
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
    operands: MonarchBackward<R>,
    dims: &MonarchDims,
    dtype: ElemType,
    strategy: &Strategy,
) -> Result<(), KernelError> {
    let tokens = tokens_of(&operands.input);
    let mut context = Context::new(client, dtype, strategy)?;
    let MonarchBackward {
        grad_output,
        input,
        right,
        left,
        inner,
        ..
    } = operands;
    let MonarchBackward {
        grad_input,
        grad_right,
        grad_left,
        ..
    } = operands;
    context.input("grad_output", &grad_output, &[tokens, dims.out_features()])?;
    context.input("input", &input, &[tokens, dims.in_features()])?;
    context.input("right", &right, &dims.right_shape())?;
    context.input("left", &left, &dims.left_shape())?;
    context.output("inner", &inner, &dims.backward_scratch_shape(tokens))?;
    context.output("grad_input", &grad_input, &[tokens, dims.in_features()])?;
    context.output("grad_right", &grad_right, &dims.right_shape())?;
    context.output("grad_left", &grad_left, &dims.left_shape())?;
    let apart = inner.strides[1];
    if dims.left_blocks() > dims.blocks() && apart != dims.rank() {
        return Err(KernelError::InvalidConfig {
            what: "stride of inner along tokens",
            actual: apart,
            required: Requirement::AtMost(dims.rank()),
        });
    }
    if tokens == 0 {
        return fill_zero(&context, [grad_right, grad_left]);
    }

    let plan = |problem| PlannedProduct::new(&context, problem);
    let to_inner = plan(problem::inner(
        dims,
        tokens,
        &input,
        &right,
        View::blocks(&inner),
    ))?;
    let to_grad_left = plan(problem::grad_left(
        dims,
        tokens,
        &grad_output,
        &inner,
        &grad_left,
    ))?;
    let to_grad_inner = plan(problem::grad_inner(
        dims,
        tokens,
        &grad_output,
        &left,
        &inner,
    ))?;
    let to_grad_right = plan(problem::grad_right(
        dims,
        tokens,
        &inner,
        &input,
        &grad_right,
    ))?;
    let to_grad_input = plan(problem::grad_input(
        dims,
        tokens,
        &inner,
        &right,
        &grad_input,
    ))?;

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
    launch(to_inner, input.clone(), right.clone(), inner.clone());
    launch(to_grad_left, grad_output.clone(), inner.clone(), grad_left);
    launch(to_grad_inner, grad_output, left, inner.clone());
    launch(to_grad_right, inner.clone(), input, grad_right);
    launch(to_grad_input, inner, right, grad_input);
    Ok(())
}
