//! The formulas in plain `f64`, for tests. Everything is row-major and contiguous.

use crate::format::{MonarchDims, OutputOrder};

/// Gradients of a Monarch product.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients {
    /// `[tokens, in]`.
    pub input: Vec<f64>,
    /// `[b, r, in/b]`.
    pub right: Vec<f64>,
    /// `[b, out/b, r]`.
    pub left: Vec<f64>,
}

/// The output feature that row `row` of block `block` is.
pub fn output_feature(dims: &MonarchDims, block: usize, row: usize) -> usize {
    match dims.order() {
        OutputOrder::Contiguous => block * dims.block_out() + row,
        OutputOrder::Interleaved => row * dims.blocks() + block,
    }
}

/// Block and column of `Z` that column `column` of `Y_block` goes to, and back.
fn permuted(dims: &MonarchDims, block: usize, column: usize) -> (usize, usize) {
    let part = dims.part();
    (column / part, block * part + column % part)
}

/// `Z [b, tokens, r]`.
fn inner(dims: &MonarchDims, tokens: usize, input: &[f64], right: &[f64]) -> Vec<f64> {
    let (n, r, width) = (dims.in_features(), dims.rank(), dims.block_in());
    let rows = dims.right_rows();
    let mut z = vec![0.0; dims.left_blocks() * tokens * r];
    for i in 0..dims.blocks() {
        for t in 0..tokens {
            for c in 0..rows {
                let (j, k) = permuted(dims, i, c);
                z[(j * tokens + t) * r + k] = (0..width)
                    .map(|f| input[t * n + i * width + f] * right[(i * rows + c) * width + f])
                    .sum();
            }
        }
    }
    z
}

/// `[tokens, out]`.
pub fn forward(
    dims: &MonarchDims,
    tokens: usize,
    input: &[f64],
    right: &[f64],
    left: &[f64],
    bias: Option<&[f64]>,
) -> Vec<f64> {
    let (m, r, height) = (dims.out_features(), dims.rank(), dims.block_out());
    let z = inner(dims, tokens, input, right);
    let mut out = vec![0.0; tokens * m];
    for j in 0..dims.left_blocks() {
        for t in 0..tokens {
            for row in 0..height {
                let sum: f64 = (0..r)
                    .map(|k| z[(j * tokens + t) * r + k] * left[(j * height + row) * r + k])
                    .sum();
                let feature = output_feature(dims, j, row);
                out[t * m + feature] = sum + bias.map_or(0.0, |bias| bias[feature]);
            }
        }
    }
    out
}

/// Gradients for `grad_output [tokens, out]`, by the chain rule: `dleft_j = G_jᵀ Z_j`,
/// `dZ_j = G_j left_j`, permuted back to `dY_i`, `dright_i = dY_iᵀ X_i`, `dX_i = dY_i right_i`.
pub fn backward(
    dims: &MonarchDims,
    tokens: usize,
    grad_output: &[f64],
    input: &[f64],
    right: &[f64],
    left: &[f64],
) -> Gradients {
    let (n, m, r) = (dims.in_features(), dims.out_features(), dims.rank());
    let (width, height) = (dims.block_in(), dims.block_out());
    let rows = dims.right_rows();
    let z = inner(dims, tokens, input, right);
    let mut gradients = Gradients {
        input: vec![0.0; tokens * n],
        right: vec![0.0; right.len()],
        left: vec![0.0; left.len()],
    };
    let mut grad_z = vec![0.0; z.len()];
    for j in 0..dims.left_blocks() {
        for t in 0..tokens {
            for row in 0..height {
                let grad = grad_output[t * m + output_feature(dims, j, row)];
                for k in 0..r {
                    let at = (j * tokens + t) * r + k;
                    gradients.left[(j * height + row) * r + k] += grad * z[at];
                    grad_z[at] += grad * left[(j * height + row) * r + k];
                }
            }
        }
    }
    for i in 0..dims.blocks() {
        for t in 0..tokens {
            for c in 0..rows {
                let (j, k) = permuted(dims, i, c);
                let grad_y = grad_z[(j * tokens + t) * r + k];
                for f in 0..width {
                    let (x, w) = (t * n + i * width + f, (i * rows + c) * width + f);
                    gradients.right[w] += grad_y * input[x];
                    gradients.input[x] += grad_y * right[w];
                }
            }
        }
    }
    gradients
}
