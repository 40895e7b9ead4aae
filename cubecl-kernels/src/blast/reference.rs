//! The formulas in plain `f64`, for tests, of one layer. Everything is row-major and contiguous.

use crate::format::BlastDims;

/// Gradients of a BLAST product.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients {
    /// `[tokens, in]`.
    pub input: Vec<f64>,
    /// `[b, out/b, r]`.
    pub u: Vec<f64>,
    /// `[b (out), b (in), r]`.
    pub s: Vec<f64>,
    /// `[b, r, in/b]`.
    pub v: Vec<f64>,
}

/// `Y_i = X_i V_iᵀ`, `[b, tokens, r]`.
fn inner(dims: &BlastDims, tokens: usize, input: &[f64], v: &[f64]) -> Vec<f64> {
    let (n, r, width) = (dims.in_features(), dims.rank(), dims.block_in());
    let mut y = vec![0.0; dims.blocks() * tokens * r];
    for i in 0..dims.blocks() {
        for t in 0..tokens {
            for k in 0..r {
                y[(i * tokens + t) * r + k] = (0..width)
                    .map(|f| input[t * n + i * width + f] * v[(i * r + k) * width + f])
                    .sum();
            }
        }
    }
    y
}

/// `Z_j = Σ_i S_ji ∘ Y_i`, `[b, tokens, r]`.
fn coupled(dims: &BlastDims, tokens: usize, s: &[f64], y: &[f64]) -> Vec<f64> {
    let (b, r) = (dims.blocks(), dims.rank());
    let mut z = vec![0.0; y.len()];
    for j in 0..b {
        for t in 0..tokens {
            for k in 0..r {
                z[(j * tokens + t) * r + k] = (0..b)
                    .map(|i| s[(j * b + i) * r + k] * y[(i * tokens + t) * r + k])
                    .sum();
            }
        }
    }
    z
}

/// `[tokens, out]`.
pub fn forward(
    dims: &BlastDims,
    tokens: usize,
    input: &[f64],
    u: &[f64],
    s: &[f64],
    v: &[f64],
    bias: Option<&[f64]>,
) -> Vec<f64> {
    let (m, r, height) = (dims.out_features(), dims.rank(), dims.block_out());
    let y = inner(dims, tokens, input, v);
    let z = coupled(dims, tokens, s, &y);
    let mut out = vec![0.0; tokens * m];
    for j in 0..dims.blocks() {
        for t in 0..tokens {
            for row in 0..height {
                let sum: f64 = (0..r)
                    .map(|k| z[(j * tokens + t) * r + k] * u[(j * height + row) * r + k])
                    .sum();
                let feature = j * height + row;
                out[t * m + feature] = sum + bias.map_or(0.0, |bias| bias[feature]);
            }
        }
    }
    out
}

/// Gradients for `grad_output [tokens, out]`, by the chain rule: `dU_j = G_jᵀ Z_j`,
/// `dZ_j = G_j U_j`, `dS_ji = Σ_t dZ_j ∘ Y_i`, `dY_i = Σ_j S_ji ∘ dZ_j`, `dV_i = dY_iᵀ X_i`,
/// `dX_i = dY_i V_i`.
pub fn backward(
    dims: &BlastDims,
    tokens: usize,
    grad_output: &[f64],
    input: &[f64],
    u: &[f64],
    s: &[f64],
    v: &[f64],
) -> Gradients {
    let (n, m, r, b) = (
        dims.in_features(),
        dims.out_features(),
        dims.rank(),
        dims.blocks(),
    );
    let (width, height) = (dims.block_in(), dims.block_out());
    let y = inner(dims, tokens, input, v);
    let z = coupled(dims, tokens, s, &y);
    let mut gradients = Gradients {
        input: vec![0.0; tokens * n],
        u: vec![0.0; u.len()],
        s: vec![0.0; s.len()],
        v: vec![0.0; v.len()],
    };
    let mut grad_z = vec![0.0; z.len()];
    for j in 0..b {
        for t in 0..tokens {
            for row in 0..height {
                let grad = grad_output[t * m + j * height + row];
                for k in 0..r {
                    let (at, w) = ((j * tokens + t) * r + k, (j * height + row) * r + k);
                    gradients.u[w] += grad * z[at];
                    grad_z[at] += grad * u[w];
                }
            }
        }
    }
    let mut grad_y = vec![0.0; y.len()];
    for j in 0..b {
        for i in 0..b {
            for t in 0..tokens {
                for k in 0..r {
                    let (from, to) = ((j * tokens + t) * r + k, (i * tokens + t) * r + k);
                    gradients.s[(j * b + i) * r + k] += grad_z[from] * y[to];
                    grad_y[to] += s[(j * b + i) * r + k] * grad_z[from];
                }
            }
        }
    }
    for i in 0..b {
        for t in 0..tokens {
            for k in 0..r {
                let grad = grad_y[(i * tokens + t) * r + k];
                for f in 0..width {
                    let (x, w) = (t * n + i * width + f, (i * r + k) * width + f);
                    gradients.v[w] += grad * input[x];
                    gradients.input[x] += grad * v[w];
                }
            }
        }
    }
    gradients
}
