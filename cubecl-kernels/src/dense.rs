//! A dense layer on the kernels of the structured ones.
//!
//! What structured layers are compared with, and those layers of a network that stay dense.

use cubecl::prelude::*;

use crate::context::{Context, tokens_of};
use crate::epilogue::Epilogue;
use crate::error::KernelError;
use crate::operand::{View, axis_size, part};
use crate::product::{
    BiasView, PlannedGated, PlannedProduct, ProductOperands, ProductProblem, TokenAxis,
};
use crate::strategy::Strategy;

/// Tensors of a forward pass. All may have any strides.
#[derive(Clone, Debug)]
pub struct DenseForward<R: Runtime> {
    /// `[tokens, in]`.
    pub input: TensorBinding<R>,
    /// `[in, out]`; fastest where the inputs of an output are contiguous.
    pub weight: TensorBinding<R>,
    /// What is done to each output.
    pub epilogue: Epilogue<R>,
    /// Written, `[tokens, out]`.
    pub output: TensorBinding<R>,
}

/// Computes `output = f(input · weight)`, with `f` the epilogue.
///
/// Sums in `f32`. Launches one product, none for zero tokens. Where the weights of two layers lie side by
/// side and one [gates](Epilogue::gated) the other, one product for few tokens, else two.
///
/// # Errors
///
/// [`KernelError::Shape`] or [`KernelError::Buffer`] if a tensor is not as [`DenseForward`] says,
/// [`KernelError::InvalidConfig`] if the output is broadcast, [`KernelError::Unavailable`] if the
/// device can not run it. Nothing is launched then.
pub fn forward<R: Runtime>(
    client: &ComputeClient<R>,
    operands: DenseForward<R>,
    dtype: ElemType,
    strategy: &Strategy,
) -> Result<(), KernelError> {
    let tokens = tokens_of(&operands.input);
    let mut context = Context::new(client, dtype, strategy)?;
    let DenseForward {
        input,
        weight,
        epilogue,
        output,
    } = operands;
    let (in_features, out_features) = (axis_size(&weight, 0), axis_size(&weight, 1));
    context.input("input", &input, &[tokens, in_features])?;
    context.input("weight", &weight, &[in_features, out_features])?;
    let layers = if epilogue.gated { 2 } else { 1 };
    let written = epilogue.check(&mut context, tokens, (layers, out_features))?;
    context.output("output", &output, &[tokens, written])?;
    if tokens * out_features == 0 {
        return Ok(());
    }
    let product = |weight, epilogue: Epilogue<R>, output: TensorBinding<R>| {
        let problem = ProductProblem {
            batches: 1,
            rows: tokens,
            columns: written,
            depth: in_features,
            tokens: TokenAxis::Rows,
            lhs: View::matrix(&input),
            rhs: View::matrix(&weight),
            out: View::matrix(&output),
            split: None,
            bias: epilogue.bias.as_ref().map(|bias| BiasView {
                batch: 0,
                column: bias.strides[0],
            }),
            merged: epilogue.merged_view(View::matrix, View::matrix(&output)),
            finish: epilogue.finish(),
        };
        let operands = ProductOperands {
            lhs: input.clone(),
            rhs: weight,
            bias: epilogue.bias,
            merged: epilogue.merged.map(|(_, merged)| merged),
            out: output,
        };
        (problem, operands)
    };
    if !epilogue.gated {
        let (problem, operands) = product(weight, epilogue, output);
        PlannedProduct::new(&context, problem)?.launch(&context, operands);
        return Ok(());
    }
    let of_layer = |layer: usize| {
        let features = (layer * written, written);
        let weight = part(&context, &weight, 1, features)?;
        let (epilogue, output) = epilogue.of_layer(&context, features, &output)?;
        Ok::<_, KernelError>(product(weight, epilogue, output))
    };
    let [(gate, of_gate), (other, of_other)] = [of_layer(0)?, of_layer(1)?];
    PlannedGated::new(&context, [gate, other])?.launch(&context, [of_gate, of_other]);
    Ok(())
}
