//! The formulas in plain `f64`, for tests. Everything is row-major and contiguous.

use crate::format::LowRankDims;

/// Gradients of a low-rank product.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients {
    /// `[tokens, in]`.
    pub input: Vec<f64>,
    /// `[out, r]`.
    pub u: Vec<f64>,
    /// `[r, in]`.
    pub v: Vec<f64>,
}

/// `Y = x vᵀ`, `[tokens, r]`.
fn inner(dims: &LowRankDims, input: &[f64], v: &[f64], tokens: usize) -> Vec<f64> {
    let (n, r) = (dims.in_features(), dims.rank());
    let mut y = vec![0.0; tokens * r];
    for t in 0..tokens {
        for k in 0..r {
            y[t * r + k] = (0..n).map(|f| input[t * n + f] * v[k * n + f]).sum();
        }
    }
    y
}

/// `out = (x vᵀ) uᵀ + bias`, `[tokens, out]`.
pub fn forward(
    dims: &LowRankDims,
    tokens: usize,
    input: &[f64],
    u: &[f64],
    v: &[f64],
    bias: Option<&[f64]>,
) -> Vec<f64> {
    let (m, r) = (dims.out_features(), dims.rank());
    let y = inner(dims, input, v, tokens);
    let mut out = vec![0.0; tokens * m];
    for t in 0..tokens {
        for o in 0..m {
            let sum: f64 = (0..r).map(|k| y[t * r + k] * u[o * r + k]).sum();
            out[t * m + o] = sum + bias.map_or(0.0, |bias| bias[o]);
        }
    }
    out
}

/// Gradients for `grad_output [tokens, out]`, by the chain rule:
/// `dU = Gᵀ Y`, `dY = G U`, `dV = dYᵀ X`, `dX = dY V`.
pub fn backward(
    dims: &LowRankDims,
    tokens: usize,
    grad_output: &[f64],
    input: &[f64],
    u: &[f64],
    v: &[f64],
) -> Gradients {
    let (n, m, r) = (dims.in_features(), dims.out_features(), dims.rank());
    let y = inner(dims, input, v, tokens);
    let mut gradients = Gradients {
        input: vec![0.0; tokens * n],
        u: vec![0.0; m * r],
        v: vec![0.0; r * n],
    };
    for t in 0..tokens {
        let mut grad_y = vec![0.0; r];
        for o in 0..m {
            for k in 0..r {
                gradients.u[o * r + k] += grad_output[t * m + o] * y[t * r + k];
                grad_y[k] += grad_output[t * m + o] * u[o * r + k];
            }
        }
        for k in 0..r {
            for f in 0..n {
                gradients.v[k * n + f] += grad_y[k] * input[t * n + f];
                gradients.input[t * n + f] += grad_y[k] * v[k * n + f];
            }
        }
    }
    gradients
}
