//! The products that a Monarch operation is made of.
//!
//! Both permutations are strides. The interior one needs the column axis of a store split in two:
//! the first product stores `Y` as `Z`, and its gradient stores `dZ` as `dY`, both as
//! `[b, tokens, r]`, so that every product that follows reads plain blocks. Several layers have as many
//! times the blocks of outputs, each with columns of its own in every `Y_i`.

use cubecl::prelude::*;

use crate::epilogue::{Epilogue, Finish};
use crate::format::{MonarchDims, OutputOrder};
use crate::operand::View;
use crate::product::{BiasView, ColumnSplit, ProductProblem, TokenAxis};

/// Views `[tokens, out]` as blocks, whatever the order of the output features.
fn output_blocks<R: Runtime>(dims: &MonarchDims, binding: &TensorBinding<R>) -> View {
    let (token, feature) = (binding.strides[0], binding.strides[1]);
    match dims.order() {
        OutputOrder::Contiguous => View::feature_blocks(binding, dims.block_out()),
        OutputOrder::Interleaved => View::new(binding, feature, token, dims.blocks() * feature),
    }
}

/// Views a bias `[out]` as blocks, in the order of the output features.
fn bias_blocks<R: Runtime>(dims: &MonarchDims, bias: &TensorBinding<R>) -> BiasView {
    let feature = bias.strides[0];
    match dims.order() {
        OutputOrder::Contiguous => BiasView {
            batch: dims.block_out() * feature,
            column: feature,
        },
        OutputOrder::Interleaved => BiasView {
            batch: feature,
            column: dims.blocks() * feature,
        },
    }
}

/// Views `dY`, which takes the memory of `Z`, as blocks of inputs: `[b, tokens, r]` with the columns of
/// all layers.
fn inner_gradient<R: Runtime>(dims: &MonarchDims, inner: &TensorBinding<R>) -> View {
    let blocks = View::blocks(inner);
    if dims.left_blocks() == dims.blocks() {
        return blocks;
    }
    let (tokens, rows) = (inner.shape[1], dims.right_rows());
    View::new(inner, tokens * rows, rows, 1)
}

/// Views blocks so that block `p` stores part `q` of its columns as part `p` of block `q`: `Y` as `Z`, or
/// the gradient of `Z` as that of `Y`.
fn permuted(dims: &MonarchDims, blocks: View) -> (View, Option<ColumnSplit>) {
    let part = dims.part();
    let view = View {
        batch: part * blocks.column,
        ..blocks
    };
    let split = ColumnSplit {
        width: part,
        stride: blocks.batch,
    };
    (view, Some(split))
}

/// A batch of products, one for each block, over tokens: rows are tokens.
fn over_tokens(
    batches: usize,
    tokens: usize,
    columns: usize,
    depth: usize,
    [lhs, rhs, out]: [View; 3],
) -> ProductProblem {
    ProductProblem {
        batches,
        rows: tokens,
        columns,
        depth,
        tokens: TokenAxis::Rows,
        lhs,
        rhs,
        out,
        split: None,
        bias: None,
        merged: out,
        finish: Finish::default(),
    }
}

/// `Y_i = X_i right_iᵀ`, stored as `Z`.
pub(super) fn inner<R: Runtime>(
    dims: &MonarchDims,
    tokens: usize,
    input: &TensorBinding<R>,
    right: &TensorBinding<R>,
    inner: View,
) -> ProductProblem {
    let (out, split) = permuted(dims, inner);
    let views = [
        View::feature_blocks(input, dims.block_in()),
        View::blocks(right).transposed(),
        out,
    ];
    ProductProblem {
        split,
        ..over_tokens(
            dims.blocks(),
            tokens,
            dims.right_rows(),
            dims.block_in(),
            views,
        )
    }
}

/// `out_j = Z_j left_jᵀ + bias_j`.
pub(super) fn output<R: Runtime>(
    dims: &MonarchDims,
    tokens: usize,
    inner: View,
    left: &TensorBinding<R>,
    epilogue: &Epilogue<R>,
    output: &TensorBinding<R>,
) -> ProductProblem {
    let views = [
        inner,
        View::blocks(left).transposed(),
        output_blocks(dims, output),
    ];
    let bias = epilogue.bias.as_ref().map(|bias| bias_blocks(dims, bias));
    ProductProblem {
        bias,
        merged: epilogue.merged_view(|merged| output_blocks(dims, merged), views[2]),
        finish: epilogue.finish(),
        ..over_tokens(
            dims.left_blocks(),
            tokens,
            dims.block_out(),
            dims.rank(),
            views,
        )
    }
}

/// `dleft_j = G_jᵀ Z_j`.
pub(super) fn grad_left<R: Runtime>(
    dims: &MonarchDims,
    tokens: usize,
    grad_output: &TensorBinding<R>,
    inner: &TensorBinding<R>,
    grad_left: &TensorBinding<R>,
) -> ProductProblem {
    let views = [
        output_blocks(dims, grad_output).transposed(),
        View::blocks(inner),
        View::blocks(grad_left),
    ];
    let problem = over_tokens(
        dims.left_blocks(),
        dims.block_out(),
        dims.rank(),
        tokens,
        views,
    );
    ProductProblem {
        tokens: TokenAxis::Depth,
        ..problem
    }
}

/// `dZ_j = G_j left_j`, stored as `dY`.
pub(super) fn grad_inner<R: Runtime>(
    dims: &MonarchDims,
    tokens: usize,
    grad_output: &TensorBinding<R>,
    left: &TensorBinding<R>,
    grad_inner: &TensorBinding<R>,
) -> ProductProblem {
    let (out, split) = permuted(dims, inner_gradient(dims, grad_inner));
    let views = [output_blocks(dims, grad_output), View::blocks(left), out];
    ProductProblem {
        split,
        ..over_tokens(
            dims.left_blocks(),
            tokens,
            dims.rank(),
            dims.block_out(),
            views,
        )
    }
}

/// `dright_i = dY_iᵀ X_i`.
pub(super) fn grad_right<R: Runtime>(
    dims: &MonarchDims,
    tokens: usize,
    grad_inner: &TensorBinding<R>,
    input: &TensorBinding<R>,
    grad_right: &TensorBinding<R>,
) -> ProductProblem {
    let views = [
        inner_gradient(dims, grad_inner).transposed(),
        View::feature_blocks(input, dims.block_in()),
        View::blocks(grad_right),
    ];
    let problem = over_tokens(
        dims.blocks(),
        dims.right_rows(),
        dims.block_in(),
        tokens,
        views,
    );
    ProductProblem {
        tokens: TokenAxis::Depth,
        ..problem
    }
}

/// `dX_i = dY_i right_i`.
pub(super) fn grad_input<R: Runtime>(
    dims: &MonarchDims,
    tokens: usize,
    grad_inner: &TensorBinding<R>,
    right: &TensorBinding<R>,
    grad_input: &TensorBinding<R>,
) -> ProductProblem {
    let views = [
        inner_gradient(dims, grad_inner),
        View::blocks(right),
        View::feature_blocks(grad_input, dims.block_in()),
    ];
    over_tokens(
        dims.blocks(),
        tokens,
        dims.block_in(),
        dims.right_rows(),
        views,
    )
}
