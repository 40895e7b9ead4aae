//! The products and couplings that a BLAST operation is made of.

use cubecl::prelude::*;

use crate::couple::{CoupleGradientProblem, CoupleProblem};
use crate::epilogue::{Epilogue, Finish};
use crate::format::BlastDims;
use crate::operand::View;
use crate::product::{BiasView, ColumnSplit, ProductProblem, TokenAxis};

/// A batch of products, one for each block, over tokens: rows are tokens.
fn over_tokens(
    dims: &BlastDims,
    tokens: usize,
    columns: usize,
    depth: usize,
    [lhs, rhs, out]: [View; 3],
) -> ProductProblem {
    ProductProblem {
        batches: dims.blocks(),
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

/// `Y_i = X_i V_iᵀ`.
pub(super) fn inner<R: Runtime>(
    dims: &BlastDims,
    tokens: usize,
    input: &TensorBinding<R>,
    v: &TensorBinding<R>,
    inner: &TensorBinding<R>,
) -> ProductProblem {
    let views = [
        View::feature_blocks(input, dims.block_in()),
        View::blocks(v).transposed(),
        View::blocks(inner),
    ];
    over_tokens(dims, tokens, dims.ranks(), dims.block_in(), views)
}

/// `Z_j = Σ_i S_ji ∘ Y_i`.
pub(super) fn coupled<R: Runtime>(
    dims: &BlastDims,
    tokens: usize,
    s: &TensorBinding<R>,
    inner: &TensorBinding<R>,
    coupled: &TensorBinding<R>,
) -> CoupleProblem {
    CoupleProblem {
        blocks: dims.blocks(),
        tokens,
        rank: dims.ranks(),
        coupling: View::blocks(s),
        source: View::blocks(inner),
        out: View::blocks(coupled),
        split: None,
    }
}

/// The same, stored as the blocks of one layer after those of another, `[layers · b, tokens, r]` from
/// the start of `apart`.
pub(super) fn coupled_apart<R: Runtime>(
    dims: &BlastDims,
    tokens: usize,
    s: &TensorBinding<R>,
    inner: &TensorBinding<R>,
    apart: &TensorBinding<R>,
) -> CoupleProblem {
    let out = View::blocks(apart);
    CoupleProblem {
        out,
        split: Some(ColumnSplit {
            width: dims.rank(),
            stride: dims.blocks() * out.batch,
        }),
        ..coupled(dims, tokens, s, inner, inner)
    }
}

/// `out_j = Z_j U_jᵀ + bias_j`, for as many blocks as `u` has.
pub(super) fn output<R: Runtime>(
    dims: &BlastDims,
    tokens: usize,
    coupled: &TensorBinding<R>,
    u: &TensorBinding<R>,
    epilogue: &Epilogue<R>,
    output: &TensorBinding<R>,
) -> ProductProblem {
    let views = [
        View::blocks(coupled),
        View::blocks(u).transposed(),
        View::feature_blocks(output, dims.block_out()),
    ];
    let bias = epilogue.bias.as_ref().map(|bias| BiasView {
        batch: dims.block_out() * bias.strides[0],
        column: bias.strides[0],
    });
    ProductProblem {
        bias,
        merged: epilogue.merged_view(
            |merged| View::feature_blocks(merged, dims.block_out()),
            views[2],
        ),
        finish: epilogue.finish(),
        batches: u.shape[0],
        ..over_tokens(dims, tokens, dims.block_out(), dims.rank(), views)
    }
}

/// `dU_j = G_jᵀ Z_j`.
pub(super) fn grad_u<R: Runtime>(
    dims: &BlastDims,
    tokens: usize,
    grad_output: &TensorBinding<R>,
    coupled: &TensorBinding<R>,
    grad_u: &TensorBinding<R>,
) -> ProductProblem {
    let views = [
        View::feature_blocks(grad_output, dims.block_out()).transposed(),
        View::blocks(coupled),
        View::blocks(grad_u),
    ];
    let problem = over_tokens(dims, dims.block_out(), dims.rank(), tokens, views);
    ProductProblem {
        tokens: TokenAxis::Depth,
        ..problem
    }
}

/// `dZ_j = G_j U_j`.
pub(super) fn grad_coupled<R: Runtime>(
    dims: &BlastDims,
    tokens: usize,
    grad_output: &TensorBinding<R>,
    u: &TensorBinding<R>,
    grad_coupled: &TensorBinding<R>,
) -> ProductProblem {
    let views = [
        View::feature_blocks(grad_output, dims.block_out()),
        View::blocks(u),
        View::blocks(grad_coupled),
    ];
    over_tokens(dims, tokens, dims.rank(), dims.block_out(), views)
}

/// `dS_ji = Σ_t dZ_j ∘ Y_i`.
pub(super) fn grad_s<R: Runtime>(
    dims: &BlastDims,
    tokens: usize,
    grad_coupled: &TensorBinding<R>,
    inner: &TensorBinding<R>,
    grad_s: &TensorBinding<R>,
) -> CoupleGradientProblem {
    CoupleGradientProblem {
        blocks: dims.blocks(),
        tokens,
        rank: dims.rank(),
        grad: View::blocks(grad_coupled),
        source: View::blocks(inner),
        out: View::blocks(grad_s),
    }
}

/// `dY_i = Σ_j S_ji ∘ dZ_j`: the coupling with the block axes of `s` swapped.
pub(super) fn grad_inner<R: Runtime>(
    dims: &BlastDims,
    tokens: usize,
    s: &TensorBinding<R>,
    grad_coupled: &TensorBinding<R>,
    grad_inner: &TensorBinding<R>,
) -> CoupleProblem {
    let strides = &s.strides;
    CoupleProblem {
        coupling: View::new(s, strides[1], strides[0], strides[2]),
        ..coupled(dims, tokens, s, grad_coupled, grad_inner)
    }
}

/// `dV_i = dY_iᵀ X_i`.
pub(super) fn grad_v<R: Runtime>(
    dims: &BlastDims,
    tokens: usize,
    grad_inner: &TensorBinding<R>,
    input: &TensorBinding<R>,
    grad_v: &TensorBinding<R>,
) -> ProductProblem {
    let views = [
        View::blocks(grad_inner).transposed(),
        View::feature_blocks(input, dims.block_in()),
        View::blocks(grad_v),
    ];
    let problem = over_tokens(dims, dims.rank(), dims.block_in(), tokens, views);
    ProductProblem {
        tokens: TokenAxis::Depth,
        ..problem
    }
}

/// `dX_i = dY_i V_i`.
pub(super) fn grad_input<R: Runtime>(
    dims: &BlastDims,
    tokens: usize,
    grad_inner: &TensorBinding<R>,
    v: &TensorBinding<R>,
    grad_input: &TensorBinding<R>,
) -> ProductProblem {
    let views = [
        View::blocks(grad_inner),
        View::blocks(v),
        View::feature_blocks(grad_input, dims.block_in()),
    ];
    over_tokens(dims, tokens, dims.block_in(), dims.rank(), views)
}
