//! Batches of matrices on the host, and the plain composition that kernels are compared with:
//! each operation on its own, summed in `f32`, its result rounded to the element type.

use rand::RngExt;
use rand::rngs::StdRng;

use super::dtype::Dtype;

/// `[batch, rows, columns]`, row-major.
#[derive(Clone, Debug)]
pub struct Blocks {
    pub batch: usize,
    pub rows: usize,
    pub columns: usize,
    pub values: Vec<f64>,
}

impl Blocks {
    pub fn new(batch: usize, rows: usize, columns: usize, values: Vec<f64>) -> Self {
        assert_eq!(values.len(), batch * rows * columns);
        Self {
            batch,
            rows,
            columns,
            values,
        }
    }

    /// Uniform in `[-1, 1)`, rounded to `dtype`.
    pub fn random(shape: [usize; 3], dtype: Dtype, rng: &mut StdRng) -> Self {
        let [batch, rows, columns] = shape;
        let value = |_| dtype.round(rng.random_range(-1.0..1.0));
        let values = (0..batch * rows * columns).map(value).collect();
        Self::new(batch, rows, columns, values)
    }

    pub fn from_fn(shape: [usize; 3], value: impl Fn(usize, usize, usize) -> f64) -> Self {
        let [batch, rows, columns] = shape;
        let mut values = Vec::with_capacity(batch * rows * columns);
        for p in 0..batch {
            for row in 0..rows {
                values.extend((0..columns).map(|column| value(p, row, column)));
            }
        }
        Self::new(batch, rows, columns, values)
    }

    pub fn at(&self, batch: usize, row: usize, column: usize) -> f64 {
        self.values[(batch * self.rows + row) * self.columns + column]
    }

    pub fn shape(&self) -> [usize; 3] {
        [self.batch, self.rows, self.columns]
    }

    pub fn transposed(&self) -> Self {
        Self::from_fn([self.batch, self.columns, self.rows], |p, row, column| {
            self.at(p, column, row)
        })
    }

    /// `[1, tokens, b · w]` to `[b, tokens, w]`.
    pub fn split(&self, blocks: usize) -> Self {
        let width = self.columns / blocks;
        Self::from_fn([blocks, self.rows, width], |p, row, column| {
            self.at(0, row, p * width + column)
        })
    }

    /// `[b, tokens, w]` to `[1, tokens, b · w]`.
    pub fn merged(&self) -> Self {
        Self::from_fn(
            [1, self.rows, self.batch * self.columns],
            |_, row, column| self.at(column / self.columns, row, column % self.columns),
        )
    }

    /// `[1, tokens, w · b]` with feature `q · b + j` to `[b, tokens, w]`, and the way back.
    pub fn split_interleaved(&self, blocks: usize) -> Self {
        Self::from_fn(
            [blocks, self.rows, self.columns / blocks],
            |p, row, column| self.at(0, row, column * blocks + p),
        )
    }

    pub fn merged_interleaved(&self) -> Self {
        Self::from_fn(
            [1, self.rows, self.batch * self.columns],
            |_, row, column| self.at(column % self.batch, row, column / self.batch),
        )
    }

    /// Part `q` of the columns of block `p` becomes part `p` of block `q` of `blocks`.
    pub fn permuted(&self, blocks: usize) -> Self {
        let part = self.columns / blocks;
        let shape = [blocks, self.rows, self.batch * part];
        Self::from_fn(shape, |p, row, column| {
            self.at(column / part, row, p * part + column % part)
        })
    }

    /// `self · rhs`.
    pub fn product(&self, rhs: &Blocks, dtype: Dtype) -> Self {
        assert_eq!((self.batch, self.columns), (rhs.batch, rhs.rows));
        Self::from_fn([self.batch, self.rows, rhs.columns], |p, row, column| {
            let sum = (0..self.columns).fold(0.0f32, |sum, k| {
                sum + self.at(p, row, k) as f32 * rhs.at(p, k, column) as f32
            });
            dtype.round(sum as f64)
        })
    }

    /// `bias` added to every row.
    pub fn biased(&self, bias: Option<&[f64]>, dtype: Dtype) -> Self {
        let Some(bias) = bias else {
            return self.clone();
        };
        Self::from_fn(self.shape(), |p, row, column| {
            dtype.round((self.at(p, row, column) as f32 + bias[column] as f32) as f64)
        })
    }

    /// `Σ_i coupling[j, i] ∘ self_i`.
    pub fn coupled(&self, coupling: &Blocks, dtype: Dtype) -> Self {
        Self::from_fn(self.shape(), |j, row, k| {
            let sum = (0..self.batch).fold(0.0f32, |sum, i| {
                sum + coupling.at(j, i, k) as f32 * self.at(i, row, k) as f32
            });
            dtype.round(sum as f64)
        })
    }

    /// `Σ_t grad_j[t] ∘ self_i[t]`, `[b (j), b (i), columns]`.
    pub fn coupling_gradient(&self, grad: &Blocks, dtype: Dtype) -> Self {
        Self::from_fn([self.batch, self.batch, self.columns], |j, i, k| {
            let sum = (0..self.rows).fold(0.0f32, |sum, t| {
                sum + grad.at(j, t, k) as f32 * self.at(i, t, k) as f32
            });
            dtype.round(sum as f64)
        })
    }

    /// Swaps the two block axes of a coupling.
    pub fn swapped(&self) -> Self {
        Self::from_fn([self.rows, self.batch, self.columns], |i, j, k| {
            self.at(j, i, k)
        })
    }
}
