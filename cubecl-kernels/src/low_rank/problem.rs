//! The products that a low-rank operation is made of.

use cubecl::prelude::*;

use crate::epilogue::{Epilogue, Finish};
use crate::format::LowRankDims;
use crate::operand::View;
use crate::product::{BiasView, ProductProblem, TokenAxis};

/// A product over tokens: rows are tokens.
fn over_tokens(tokens: usize, columns: usize, depth: usize, views: [View; 3]) -> ProductProblem {
    let [lhs, rhs, out] = views;
    ProductProblem {
        batches: 1,
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

/// The gradient of a factor `[rows, columns]`: the depth is tokens.
fn factor_gradient(rows: usize, columns: usize, tokens: usize, views: [View; 3]) -> ProductProblem {
    let problem = over_tokens(rows, columns, tokens, views);
    ProductProblem {
        tokens: TokenAxis::Depth,
        ..problem
    }
}

/// `Y = x vᵀ`.
pub(super) fn inner<R: Runtime>(
    dims: &LowRankDims,
    tokens: usize,
    input: &TensorBinding<R>,
    v: &TensorBinding<R>,
    inner: &TensorBinding<R>,
) -> ProductProblem {
    let views = [
        View::matrix(input),
        View::matrix(v).transposed(),
        View::matrix(inner),
    ];
    over_tokens(tokens, dims.rank(), dims.in_features(), views)
}

/// `out = Y uᵀ + bias`.
pub(super) fn output<R: Runtime>(
    dims: &LowRankDims,
    tokens: usize,
    inner: &TensorBinding<R>,
    u: &TensorBinding<R>,
    epilogue: &Epilogue<R>,
    output: &TensorBinding<R>,
) -> ProductProblem {
    let views = [
        View::matrix(inner),
        View::matrix(u).transposed(),
        View::matrix(output),
    ];
    let bias = epilogue.bias.as_ref().map(|bias| BiasView {
        batch: 0,
        column: bias.strides[0],
    });
    ProductProblem {
        bias,
        merged: epilogue.merged_view(|merged| View::matrix(merged), views[2]),
        finish: epilogue.finish(),
        ..over_tokens(tokens, dims.out_features(), dims.rank(), views)
    }
}

/// `dU = Gᵀ Y`.
pub(super) fn grad_u<R: Runtime>(
    dims: &LowRankDims,
    tokens: usize,
    grad_output: &TensorBinding<R>,
    inner: &TensorBinding<R>,
    grad_u: &TensorBinding<R>,
) -> ProductProblem {
    let views = [
        View::matrix(grad_output).transposed(),
        View::matrix(inner),
        View::matrix(grad_u),
    ];
    factor_gradient(dims.out_features(), dims.rank(), tokens, views)
}

/// `dY = G U`.
pub(super) fn grad_inner<R: Runtime>(
    dims: &LowRankDims,
    tokens: usize,
    grad_output: &TensorBinding<R>,
    u: &TensorBinding<R>,
    grad_inner: &TensorBinding<R>,
) -> ProductProblem {
    let views = [
        View::matrix(grad_output),
        View::matrix(u),
        View::matrix(grad_inner),
    ];
    over_tokens(tokens, dims.rank(), dims.out_features(), views)
}

/// `dV = dYᵀ X`.
pub(super) fn grad_v<R: Runtime>(
    dims: &LowRankDims,
    tokens: usize,
    grad_inner: &TensorBinding<R>,
    input: &TensorBinding<R>,
    grad_v: &TensorBinding<R>,
) -> ProductProblem {
    let views = [
        View::matrix(grad_inner).transposed(),
        View::matrix(input),
        View::matrix(grad_v),
    ];
    factor_gradient(dims.rank(), dims.in_features(), tokens, views)
}

/// `dX = dY V`.
pub(super) fn grad_input<R: Runtime>(
    dims: &LowRankDims,
    tokens: usize,
    grad_inner: &TensorBinding<R>,
    v: &TensorBinding<R>,
    grad_input: &TensorBinding<R>,
) -> ProductProblem {
    let views = [
        View::matrix(grad_inner),
        View::matrix(v),
        View::matrix(grad_input),
    ];
    over_tokens(tokens, dims.in_features(), dims.rank(), views)
}
