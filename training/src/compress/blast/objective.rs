//! The function that is minimised, its gradient and its scale along every coordinate.

use burn::tensor::{Device, Tensor};
use burn_blr::ops::exact_product;

use super::{BlastFactors, Products};
use crate::TrainingError;
use crate::compress::host::sum;
use crate::compress::weighting::Weighting;

/// Columns of a [`Point`].
const WIDTH: usize = 4096;

/// Most entries of an intermediate `[blocks at once, r, in]`; bounds the memory of an evaluation.
const INTERMEDIATE: usize = 1 << 28;

/// Curvature below this share of the largest counts as this share.
const FLATTEST: f32 = 1e-6;

/// All factors, one after the other, zeros behind them: `[_, WIDTH]`.
///
/// First `U [b, out/b, r]`, then `S [b (out), r, b (in)]`, then `V [r, in]`. The rows are what sums
/// over all coordinates are split by, so that a device has something to do in parallel and rounding
/// does not add up.
pub(super) type Point = Tensor<2>;

/// `½ Σ_j ‖(U_j [diag(S_ji) V_i]_i − W_j) L‖²`.
pub(super) struct Objective {
    /// `[b, out/b, in]`, in the coordinates of `metric`.
    weight: Tensor<3>,
    /// `L Lᵀ [1, in, in]`; none stands for the identity.
    metric: Option<Tensor<3>>,
    /// `‖W L‖²`.
    square: f64,
    products: Products,
    blocks: usize,
    rank: usize,
}

impl Objective {
    pub fn new(
        weight: &Tensor<2>,
        weighting: Option<&Weighting>,
        blocks: usize,
        rank: usize,
        products: Products,
    ) -> Result<Self, TrainingError> {
        let [out_features, in_features] = weight.dims();
        let weight = match weighting {
            None => weight.clone(),
            Some(weighting) => weighting.scale(weight.clone()),
        };
        let mut objective = Objective {
            weight: weight.reshape([blocks, out_features / blocks, in_features]),
            metric: weighting.map(|weighting| weighting.metric()),
            square: 0.0,
            products,
            blocks,
            rank,
        };
        let weighted = objective.weighted(objective.weight.clone());
        objective.square = sum(objective.weight.clone() * weighted)?;
        Ok(objective)
    }

    pub fn device(&self) -> Device {
        self.weight.device()
    }

    pub fn blocks(&self) -> usize {
        self.blocks
    }

    pub fn rank(&self) -> usize {
        self.rank
    }

    /// `W` in the coordinates of the metric, `[b, out/b, in]`.
    pub fn weight(&self) -> Tensor<3> {
        self.weight.clone()
    }

    fn block_out(&self) -> usize {
        self.weight.dims()[1]
    }

    fn in_features(&self) -> usize {
        self.weight.dims()[2]
    }

    /// Entries of U, S and V.
    fn sizes(&self) -> [usize; 3] {
        let (blocks, rank) = (self.blocks, self.rank);
        [
            blocks * self.block_out() * rank,
            blocks * blocks * rank,
            rank * self.in_features(),
        ]
    }

    /// `lhs · rhs`, batched.
    pub fn product(&self, lhs: Tensor<3>, rhs: Tensor<3>) -> Tensor<3> {
        match self.products {
            Products::Exact => exact_product(lhs, rhs),
            Products::Device => lhs.matmul(rhs),
        }
    }

    /// Block rows times `L Lᵀ`.
    fn weighted(&self, rows: Tensor<3>) -> Tensor<3> {
        let Some(metric) = &self.metric else {
            return rows;
        };
        let [blocks, block_out, in_features] = rows.dims();
        let rows = rows.reshape([1, blocks * block_out, in_features]);
        let rows = self.product(rows, metric.clone());
        rows.reshape([blocks, block_out, in_features])
    }

    /// The relative error `‖(Ŵ − W) L‖ / ‖W L‖` at a value of the function.
    pub fn relative_error(&self, value: f64) -> f64 {
        if self.square > 0.0 {
            (2.0 * value.max(0.0) / self.square).sqrt()
        } else {
            0.0
        }
    }

    /// Joins U `[b, out/b, r]`, S `[b (out), r, b (in)]` and V `[r, in]`.
    pub fn join(&self, u: Tensor<3>, s: Tensor<3>, v: Tensor<2>) -> Point {
        let [u_size, s_size, v_size] = self.sizes();
        let size = u_size + s_size + v_size;
        let rows = size.div_ceil(WIDTH);
        let rest = Tensor::zeros([rows * WIDTH - size], &self.device());
        let parts = vec![
            u.reshape([u_size]),
            s.reshape([s_size]),
            v.reshape([v_size]),
            rest,
        ];
        Tensor::cat(parts, 0).reshape([rows, WIDTH])
    }

    /// U `[b, out/b, r]`, S `[b (out), r, b (in), 1]` and V `[1, r, b (in), in/b]`.
    fn split(&self, point: &Point) -> (Tensor<3>, Tensor<4>, Tensor<4>) {
        let (blocks, rank) = (self.blocks, self.rank);
        let [u_size, s_size, v_size] = self.sizes();
        let [rows, width] = point.dims();
        let all: Tensor<1> = point.clone().reshape([rows * width]);
        let u = all.clone().narrow(0, 0, u_size);
        let s = all.clone().narrow(0, u_size, s_size);
        let v = all.narrow(0, u_size + s_size, v_size);
        (
            u.reshape([blocks, self.block_out(), rank]),
            s.reshape([blocks, rank, blocks, 1]),
            v.reshape([1, rank, blocks, self.in_features() / blocks]),
        )
    }

    /// The factors at `point`, in the coordinates of the metric.
    pub fn factors(&self, point: Point) -> BlastFactors {
        let (u, s, v) = self.split(&point);
        BlastFactors {
            u,
            s: s.squeeze_dim::<3>(3).swap_dims(1, 2),
            v: v.squeeze_dim::<3>(0).swap_dims(0, 1),
        }
    }

    /// The value at `point`.
    pub fn value(&self, point: &Point) -> Result<f64, TrainingError> {
        let (rank, in_features) = (self.rank, self.in_features());
        let (u, s, v) = self.split(point);
        let mut value = 0.0;
        for (first, count) in self.chunks() {
            let u = u.clone().narrow(0, first, count);
            let coupled = v.clone() * s.clone().narrow(0, first, count);
            let residual = self.product(u, coupled.reshape([count, rank, in_features]))
                - self.weight.clone().narrow(0, first, count);
            value += 0.5 * sum(residual.clone() * self.weighted(residual))?;
        }
        Ok(value)
    }

    /// First and number of the block rows that are worked on at once.
    fn chunks(&self) -> impl Iterator<Item = (usize, usize)> {
        let blocks = self.blocks;
        let at_once = (INTERMEDIATE / (self.rank * self.in_features())).clamp(1, blocks);
        let firsts = (0..blocks).step_by(at_once);
        firsts.map(move |first| (first, at_once.min(blocks - first)))
    }

    /// The value and the gradient at `point`.
    pub fn evaluate(&self, point: &Point) -> Result<(f64, Point), TrainingError> {
        let (rank, in_features) = (self.rank, self.in_features());
        let (u, s, v) = self.split(point);
        let [_, _, blocks, block_in] = v.dims();
        let (mut squares, mut grad_u, mut grad_s) = (vec![], vec![], vec![]);
        let mut grad_v: Option<Tensor<4>> = None;
        for (first, count) in self.chunks() {
            let u = u.clone().narrow(0, first, count);
            let s = s.clone().narrow(0, first, count);
            let coupled = (v.clone() * s.clone()).reshape([count, rank, in_features]);
            let residual = self.product(u.clone(), coupled.clone())
                - self.weight.clone().narrow(0, first, count);
            let weighted = self.weighted(residual.clone());
            squares.push((residual * weighted.clone()).sum_dim(2));
            grad_u.push(self.product(weighted.clone(), coupled.swap_dims(1, 2)));
            let projected = self
                .product(u.swap_dims(1, 2), weighted)
                .reshape([count, rank, blocks, block_in]);
            grad_s.push((projected.clone() * v.clone()).sum_dim(3));
            let part = (projected * s).sum_dim(0);
            grad_v = Some(match grad_v {
                None => part,
                Some(sum) => sum + part,
            });
        }
        let value = 0.5 * sum(Tensor::cat(squares, 0))?;
        let grad_v = grad_v.unwrap_or_else(|| v.zeros_like());
        let gradient = self.join(
            Tensor::cat(grad_u, 0),
            Tensor::cat(grad_s, 0).squeeze_dim(3),
            grad_v.reshape([rank, in_features]),
        );
        Ok((value, gradient))
    }

    /// One over the root of the diagonal of the Hessian at `point`, each of its blocks `U_j`, `S_ji`,
    /// `V_i` averaged over the features: `Σ_i S_ji² ‖V_i‖²`, `‖U_j‖² ‖V_i‖²` and `Σ_j S_ji² ‖U_j‖²` for
    /// every component.
    pub fn scales(&self, point: &Point) -> Point {
        let (u, s, v) = self.split(point);
        let (u_shape, s_shape, v_shape) = (u.dims(), s.dims(), v.dims());
        let [blocks, block_out, rank] = u_shape;
        let u_square = u.square().sum_dim(1).reshape([blocks, rank, 1]);
        let v_square = v.square().sum_dim(3).reshape([1, rank, blocks]);
        let s_square = s.squeeze_dim::<3>(3).square();
        let of_u = (s_square.clone() * v_square.clone()).sum_dim(2); // [b, r, 1]
        let of_v = (s_square * u_square.clone()).sum_dim(0); // [1, r, b]
        let of_s = u_square * v_square; // [b, r, b]
        let [of_u, of_s, of_v] = [of_u, of_s, of_v].map(|curvature| {
            let largest = curvature.clone().max().reshape([1, 1, 1]);
            let flattest = largest * FLATTEST + f32::MIN_POSITIVE;
            let flattest = flattest.expand(curvature.shape());
            curvature.max_pair(flattest).sqrt().recip()
        });
        self.join(
            of_u.swap_dims(1, 2).expand([blocks, block_out, rank]),
            of_s.reshape([s_shape[0], s_shape[1], s_shape[2]]),
            of_v.reshape([rank, blocks, 1])
                .expand([rank, blocks, v_shape[3]])
                .reshape([rank, blocks * v_shape[3]]),
        )
    }
}
