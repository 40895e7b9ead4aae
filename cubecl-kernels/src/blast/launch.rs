//! The two public functions: checks, plans, launches.

use cubecl::prelude::*;
use cubecl::zspace::{shape, strides};

use super::problem;
use crate::context::{Context, held_tokens, runs, tokens_of};
use crate::couple::{PlannedCouple, PlannedCoupleGradient};
use crate::coupled_product::{CoupledOperands, PlannedCoupledProduct};
use crate::epilogue::Epilogue;
use crate::error::{KernelError, Requirement};
use crate::format::{BlastDims, layers_at_once};
use crate::operand::{along, part};
use crate::product::{PlannedGated, PlannedProduct, ProductOperands};
use crate::strategy::Strategy;
use crate::zero::fill_zero;

/// Tensors of a forward pass. All may have any strides.
#[derive(Clone, Debug)]
pub struct BlastForward<R: Runtime> {
    /// `[tokens, in]`.
    pub input: TensorBinding<R>,
    /// `[b, out/b, r]`.
    pub u: TensorBinding<R>,
    /// `[b (out), b (in), r]`.
    pub s: TensorBinding<R>,
    /// `[b, r, in/b]`.
    pub v: TensorBinding<R>,
    /// What is done to each output.
    pub epilogue: Epilogue<R>,
    /// Scratch, `[b, tokens, r]`: holds `Z` afterwards. May have room for fewer tokens: so many are then
    /// done at a time.
    pub coupled: TensorBinding<R>,
    /// Written, `[tokens, out]`.
    pub output: TensorBinding<R>,
}

/// Tensors of a backward pass. All may have any strides.
#[derive(Clone, Debug)]
pub struct BlastBackward<R: Runtime> {
    /// `[tokens, out]`.
    pub grad_output: TensorBinding<R>,
    /// `[tokens, in]`.
    pub input: TensorBinding<R>,
    /// `[b, out/b, r]`.
    pub u: TensorBinding<R>,
    /// `[b (out), b (in), r]`.
    pub s: TensorBinding<R>,
    /// `[b, r, in/b]`.
    pub v: TensorBinding<R>,
    /// Scratch, `[b, tokens, r]`: holds `Y` afterwards.
    pub inner: TensorBinding<R>,
    /// Scratch, `[b, tokens, r]`: holds `Z`, then its gradient, then the gradient of `Y`.
    pub coupled: TensorBinding<R>,
    /// Written after the last read of `grad_output`, whose memory it may be; `[tokens, in]`.
    pub grad_input: TensorBinding<R>,
    /// Written, `[b, out/b, r]`.
    pub grad_u: TensorBinding<R>,
    /// Written, `[b (out), b (in), r]`.
    pub grad_s: TensorBinding<R>,
    /// Written, `[b, r, in/b]`.
    pub grad_v: TensorBinding<R>,
}

/// Computes the BLAST product of the [module](super).
///
/// Sums in `f32`; `Z` is stored in `dtype`, as is `Y` on the way unless tokens are few. Launches the
/// product with its coupling, or one after the other, and the product after it; nothing for zero
/// tokens. Several [layers](BlastDims::layers), whose outputs lie side by side or are
/// [gated](Epilogue::gated), share the launches where tokens are few, and are done one after the other
/// where they are many.
///
/// # Errors
///
/// [`KernelError::Shape`] or [`KernelError::Buffer`] if a tensor is not as [`BlastForward`] says,
/// [`KernelError::InvalidConfig`] if a written tensor is broadcast, [`KernelError::Unavailable`]
/// if the device can not run it. Nothing is launched then.
pub fn forward<R: Runtime>(
    client: &ComputeClient<R>,
    operands: BlastForward<R>,
    dims: &BlastDims,
    dtype: ElemType,
    strategy: &Strategy,
) -> Result<(), KernelError> {
    let tokens = tokens_of(&operands.input);
    let mut context = Context::new(client, dtype, strategy)?;
    let BlastForward {
        input,
        u,
        s,
        v,
        epilogue,
        coupled,
        output,
    } = operands;
    context.input("input", &input, &[tokens, dims.in_features()])?;
    context.input("u", &u, &dims.u_shape())?;
    context.input("s", &s, &dims.s_shape())?;
    context.input("v", &v, &dims.v_shape())?;
    let out_features = epilogue.check(&mut context, tokens, (dims.count(), dims.out_features()))?;
    let held = held_tokens(&coupled, 1, tokens);
    let [blocks, _, ranks] = dims.scratch_shape(tokens);
    context.output("coupled", &coupled, &[blocks, held, ranks])?;
    context.output("output", &output, &[tokens, out_features])?;
    if tokens == 0 {
        return Ok(());
    }

    // Layers that are done at once.
    let together = layers_at_once(dims.count(), tokens);
    let dims_of_part = dims.layers(together)?;
    let plan = |(run, layer): ((usize, usize), usize)| {
        let dims = &dims_of_part;
        let coupled = along(&coupled, 1, run.1);
        let input = part(&context, &input, 0, run)?;
        let output = part(&context, &output, 0, run)?;
        let epilogue = epilogue.rows(&context, run)?;
        let ranks = (layer * dims.rank(), dims.ranks());
        let (v, s) = (part(&context, &v, 1, ranks)?, part(&context, &s, 2, ranks)?);
        // `Y`, where it is stored at all, lies where its couplings will.
        let product = problem::inner(dims, run.1, &input, &v, &coupled);
        let mut couple = problem::coupled(dims, run.1, &s, &coupled, &coupled);
        // With few tokens, layers can be stored one after the other: blocks like those of one.
        let mut layers = None;
        if together > 1
            && let Some(apart) = layers_apart(dims, &coupled, run.1)
        {
            let stored = problem::coupled_apart(dims, run.1, &s, &coupled, &apart);
            if PlannedCoupledProduct::streams(&context, &product, &stored) {
                couple = stored;
                layers = Some(apart);
            }
        }
        let first = PlannedCoupledProduct::new(&context, product, couple)?;
        let of_first = CoupledOperands {
            lhs: input,
            rhs: v,
            coupling: s,
            out: coupled.clone(),
        };
        let second = |coupled, u, epilogue: Epilogue<R>, output| {
            let problem = problem::output(dims, run.1, &coupled, &u, &epilogue, &output);
            let operands = ProductOperands {
                lhs: coupled,
                rhs: u,
                bias: epilogue.bias,
                merged: epilogue.merged.map(|(_, merged)| merged),
                out: output,
            };
            (problem, operands)
        };
        let of_layer = |inside: usize| {
            let blocks = (inside * dims.blocks(), dims.blocks());
            let coupled = match &layers {
                Some(layers) => part(&context, layers, 0, blocks)?,
                None => part(&context, &coupled, 2, (inside * dims.rank(), dims.rank()))?,
            };
            let blocks = ((layer + inside) * dims.blocks(), dims.blocks());
            let u = part(&context, &u, 0, blocks)?;
            let features = dims.out_features() / dims.count();
            let features = ((layer + inside) * features, features);
            let (epilogue, output) = epilogue.of_layer(&context, features, &output)?;
            Ok::<_, KernelError>(second(coupled, u, epilogue, output))
        };
        let seconds = if epilogue.gated && together > 1 {
            let [(gate, of_gate), (other, of_other)] = [of_layer(0)?, of_layer(1)?];
            let planned = PlannedGated::new(&context, [gate, other])?;
            Seconds::Gated(Box::new((planned, [of_gate, of_other])))
        } else {
            let products = match layers.clone() {
                Some(layers) => vec![second(layers, u.clone(), epilogue, output)],
                None => (0..together).map(of_layer).collect::<Result<_, _>>()?,
            };
            let plan =
                |(problem, operands)| Ok((PlannedProduct::new(&context, problem)?, operands));
            let planned: Result<_, KernelError> = products.into_iter().map(plan).collect();
            Seconds::Each(planned?)
        };
        Ok((first, of_first, seconds))
    };
    let of_run = |run| {
        (0..dims.count())
            .step_by(together)
            .map(move |layer| (run, layer))
    };
    let planned: Result<Vec<_>, KernelError> =
        runs(tokens, held).flat_map(of_run).map(plan).collect();
    for (first, of_first, seconds) in planned? {
        first.launch(&context, of_first);
        match seconds {
            Seconds::Each(seconds) => {
                for (second, of_second) in seconds {
                    second.launch(&context, of_second);
                }
            }
            Seconds::Gated(second) => second.0.launch(&context, second.1),
        }
    }
    Ok(())
}

/// The products after a coupling.
enum Seconds<R: Runtime> {
    /// Of all layers at once, or of one after the other.
    Each(Vec<(PlannedProduct, ProductOperands<R>)>),
    /// Of two layers, one of which gates the other.
    Gated(Box<(PlannedGated, [ProductOperands<R>; 2])>),
}

/// Views the memory of contiguous scratch as `[layers · b, tokens, r]`.
fn layers_apart<R: Runtime>(
    dims: &BlastDims,
    coupled: &TensorBinding<R>,
    tokens: usize,
) -> Option<TensorBinding<R>> {
    let (blocks, rank) = (dims.count() * dims.blocks(), dims.rank());
    let packed = coupled.strides[2] == 1
        && coupled.strides[1] == dims.ranks()
        && coupled.strides[0] >= tokens * dims.ranks();
    packed.then(|| TensorBinding {
        shape: shape![blocks, tokens, rank],
        strides: strides![tokens * rank, rank, 1],
        ..coupled.clone()
    })
}

/// Computes the gradients of [`forward`] from its input and factors: `dU_j = G_jᵀ Z_j`,
/// `dZ_j = G_j U_j`, `dS_ji = Σ_t dZ_j ∘ Y_i`, `dY_i = Σ_j S_ji ∘ dZ_j`, `dV_i = dY_iᵀ X_i`,
/// `dX_i = dY_i V_i`, with `Y` and `Z` computed again.
///
/// Sums in `f32`; the scratch tensors are stored in `dtype`. The gradient of the bias is the sum
/// of `grad_output` over tokens and left to the caller. For zero tokens, the gradients of the
/// factors are set to zero.
///
/// # Errors
///
/// As [`forward`]; [`KernelError::InvalidConfig`] for several layers.
pub fn backward<R: Runtime>(
    client: &ComputeClient<R>,
    operands: BlastBackward<R>,
    dims: &BlastDims,
    dtype: ElemType,
    strategy: &Strategy,
) -> Result<(), KernelError> {
    let tokens = tokens_of(&operands.input);
    let mut context = Context::new(client, dtype, strategy)?;
    let BlastBackward {
        grad_output,
        input,
        u,
        s,
        v,
        inner,
        coupled,
        ..
    } = operands;
    let BlastBackward {
        grad_input,
        grad_u,
        grad_s,
        grad_v,
        ..
    } = operands;
    if dims.count() > 1 {
        return Err(KernelError::InvalidConfig {
            what: "layers of a backward pass",
            actual: dims.count(),
            required: Requirement::AtMost(1),
        });
    }
    context.input("grad_output", &grad_output, &[tokens, dims.out_features()])?;
    context.input("input", &input, &[tokens, dims.in_features()])?;
    context.input("u", &u, &dims.u_shape())?;
    context.input("s", &s, &dims.s_shape())?;
    context.input("v", &v, &dims.v_shape())?;
    context.output("inner", &inner, &dims.scratch_shape(tokens))?;
    context.output("coupled", &coupled, &dims.scratch_shape(tokens))?;
    context.output("grad_input", &grad_input, &[tokens, dims.in_features()])?;
    context.output("grad_u", &grad_u, &dims.u_shape())?;
    context.output("grad_s", &grad_s, &dims.s_shape())?;
    context.output("grad_v", &grad_v, &dims.v_shape())?;
    if tokens == 0 {
        return fill_zero(&context, [grad_u, grad_s, grad_v]);
    }

    let plan = |problem| PlannedProduct::new(&context, problem);
    let to_inner = plan(problem::inner(dims, tokens, &input, &v, &inner))?;
    let to_coupled = problem::coupled(dims, tokens, &s, &inner, &coupled);
    let to_coupled = PlannedCouple::new(&context, to_coupled)?;
    let to_grad_u = plan(problem::grad_u(
        dims,
        tokens,
        &grad_output,
        &coupled,
        &grad_u,
    ))?;
    // Once the gradient of `u` is there, `Z` has served its purpose: its memory takes its own
    // gradient, and then that of `Y`.
    let (grad_coupled, grad_inner) = (&coupled, &coupled);
    let to_grad_coupled = plan(problem::grad_coupled(
        dims,
        tokens,
        &grad_output,
        &u,
        grad_coupled,
    ))?;
    let to_grad_s = problem::grad_s(dims, tokens, grad_coupled, &inner, &grad_s);
    let to_grad_s = PlannedCoupleGradient::new(&context, to_grad_s)?;
    let to_grad_inner = problem::grad_inner(dims, tokens, &s, grad_coupled, grad_inner);
    let to_grad_inner = PlannedCouple::new(&context, to_grad_inner)?;
    let to_grad_v = plan(problem::grad_v(dims, tokens, grad_inner, &input, &grad_v))?;
    let to_grad_input = plan(problem::grad_input(
        dims,
        tokens,
        grad_inner,
        &v,
        &grad_input,
    ))?;

    let product = |planned: PlannedProduct, lhs, rhs, out| {
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
    product(to_inner, input.clone(), v.clone(), inner.clone());
    to_coupled.launch(&context, s.clone(), inner.clone(), Some(coupled.clone()));
    product(to_grad_u, grad_output.clone(), coupled.clone(), grad_u);
    product(to_grad_coupled, grad_output, u, coupled.clone());
    to_grad_s.launch(&context, coupled.clone(), inner, grad_s);
    to_grad_inner.launch(&context, s, coupled.clone(), None);
    product(to_grad_v, coupled.clone(), input, grad_v);
    product(to_grad_input, coupled, v, grad_input);
    Ok(())
}
