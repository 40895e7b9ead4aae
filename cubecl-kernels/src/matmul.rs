//! A batched product of plain matrices, on the kernels of the structured ones.
//!
//! What factorisations need of a device: products of `f32` that are never rounded to tf32.

use cubecl::prelude::*;

use crate::context::Context;
use crate::epilogue::Finish;
use crate::error::KernelError;
use crate::operand::{View, axis_size};
use crate::product::{PlannedProduct, ProductOperands, ProductProblem, TokenAxis};
use crate::strategy::Strategy;

/// Tensors of a product. All may have any strides.
#[derive(Clone, Debug)]
pub struct Matmul<R: Runtime> {
    /// `[batches, rows, depth]`.
    pub lhs: TensorBinding<R>,
    /// `[batches, depth, columns]`.
    pub rhs: TensorBinding<R>,
    /// Written, `[batches, rows, columns]`.
    pub output: TensorBinding<R>,
}

/// Computes `output[p] = lhs[p] · rhs[p]`, with products in `dtype` and sums in `f32`.
///
/// # Errors
///
/// [`KernelError::Shape`] or [`KernelError::Buffer`] if a tensor is not as [`Matmul`] says,
/// [`KernelError::InvalidConfig`] if the output is broadcast, [`KernelError::Unavailable`] if the
/// device can not run it. Nothing is launched then.
pub fn matmul<R: Runtime>(
    client: &ComputeClient<R>,
    operands: Matmul<R>,
    dtype: ElemType,
    strategy: &Strategy,
) -> Result<(), KernelError> {
    let Matmul { lhs, rhs, output } = operands;
    let mut context = Context::new(client, dtype, strategy)?;
    let (batches, rows, depth) = (axis_size(&lhs, 0), axis_size(&lhs, 1), axis_size(&lhs, 2));
    let columns = axis_size(&rhs, 2);
    context.input("lhs", &lhs, &[batches, rows, depth])?;
    context.input("rhs", &rhs, &[batches, depth, columns])?;
    context.output("output", &output, &[batches, rows, columns])?;
    if batches * rows * columns == 0 {
        return Ok(());
    }
    let problem = ProductProblem {
        batches,
        rows,
        columns,
        depth,
        tokens: TokenAxis::Rows,
        lhs: View::blocks(&lhs),
        rhs: View::blocks(&rhs),
        out: View::blocks(&output),
        split: None,
        bias: None,
        merged: View::blocks(&output),
        finish: Finish::default(),
    };
    let planned = PlannedProduct::new(&context, problem)?;
    planned.launch(
        &context,
        ProductOperands {
            lhs,
            rhs,
            bias: None,
            merged: None,
            out: output,
        },
    );
    Ok(())
}
