//! Where the search begins: the best mixture of low-rank and blocks of their own.
//!
//! Some of the components serve all blocks, as the truncated SVD has them, with couplings of one.
//! The others serve pairs of blocks: component k of a group couples block row j to block column
//! `(h - j) mod b` alone, h the number of its group, so that each block has components of its own,
//! from an approximation of what the shared ones leave over. On the matrix of [`super`] the SVD alone
//! is best; with a rank-4 part of its own added to every block, 0.349 at the start and 0.237 after
//! 100 steps become 0.344 and 0.225.

use burn::tensor::{Int, Tensor};

use super::objective::{Objective, Point};
use crate::TrainingError;
use crate::compress::host::tensor;
use crate::compress::subspace::{Effort, low_rank, low_rank_each};
use crate::compress::weighting::Weighting;

/// Shares of the rank that are tried for the blocks' own components.
const SHARES: [f64; 4] = [0.0, 0.125, 0.25, 0.5];

/// The best start of those tried.
pub(super) fn best(
    objective: &Objective,
    weight: &Tensor<2>,
    moment: Option<&Tensor<2>>,
    weighting: Option<&Weighting>,
) -> Result<Point, TrainingError> {
    let (blocks, rank) = (objective.blocks(), objective.rank());
    let (left, right) = low_rank(weight, moment, rank, Effort::Start)?;
    let right = match weighting {
        None => right,
        Some(weighting) => weighting.scale(right),
    };
    let [_, block_out, in_features] = objective.weight().dims();
    let widest = block_out.min(in_features / blocks);
    let mut best: Option<(f64, Point)> = None;
    let mut tried = None;
    for share in SHARES {
        let each = ((share * rank as f64) as usize / blocks).min(widest);
        if tried.replace(each) == Some(each) {
            continue;
        }
        let point = mixture(objective, &left, &right, each)?;
        let value = objective.value(&point)?;
        if best.as_ref().is_none_or(|(least, _)| value < *least) {
            best = Some((value, point));
        }
    }
    match best {
        Some((_, point)) => Ok(point),
        None => mixture(objective, &left, &right, 0),
    }
}

/// `each` components for every block alone, and the first of `left [out, r]` and `right [r, in]`.
fn mixture(
    objective: &Objective,
    left: &Tensor<2>,
    right: &Tensor<2>,
    each: usize,
) -> Result<Point, TrainingError> {
    let (blocks, rank) = (objective.blocks(), objective.rank());
    let [_, block_out, in_features] = objective.weight().dims();
    let (block_in, device) = (in_features / blocks, objective.device());
    let shared = rank - blocks * each;
    let u: Tensor<3> = left
        .clone()
        .narrow(1, 0, shared)
        .reshape([blocks, block_out, shared]);
    let v = right.clone().narrow(0, 0, shared);
    let s = Tensor::ones([blocks, shared, blocks], &device);
    if each == 0 {
        return Ok(objective.join(u, s, v));
    }
    // As one product: the shared components are those of the whole matrix.
    let whole = objective.product(
        u.clone().reshape([1, blocks * block_out, shared]),
        v.clone().unsqueeze(),
    );
    let rest = objective.weight() - whole.reshape([blocks, block_out, in_features]);
    // [b, out/b, in] -> [b (out), b (in), out/b, in/b]
    let rest: Tensor<4> = rest.reshape([blocks, block_out, blocks, block_in]);
    let rest = rest
        .swap_dims(1, 2)
        .reshape([blocks * blocks, block_out, block_in]);
    let (own_left, own_right) = low_rank_each(&rest, each)?;
    // Block (j, i) takes group h = (j + i) mod b of the blocks' own components.
    let places = |place: fn(usize, usize, usize) -> usize| -> Tensor<1, Int> {
        let places = (0..blocks * blocks).map(|at| place(at / blocks, at % blocks, blocks) as i32);
        Tensor::from_data(places.collect::<Vec<_>>().as_slice(), &device)
    };
    // [b, group, out/b, each] -> [b, out/b, group, each]
    let of_u = own_left.select(
        0,
        places(|j, h, blocks| j * blocks + (h + blocks - j) % blocks),
    );
    let of_u: Tensor<4> = of_u.reshape([blocks, blocks, block_out, each]);
    let of_u = of_u.swap_dims(1, 2);
    let of_u = of_u.reshape([blocks, block_out, blocks * each]);
    // [group, b, each, in/b] -> [group, each, b, in/b]
    let of_v = own_right.select(
        0,
        places(|h, i, blocks| (h + blocks - i) % blocks * blocks + i),
    );
    let of_v: Tensor<4> = of_v.reshape([blocks, blocks, each, block_in]);
    let of_v = of_v.swap_dims(1, 2).reshape([blocks * each, in_features]);
    let u = Tensor::cat(vec![u, of_u], 2);
    let v = Tensor::cat(vec![v, of_v], 0);
    let couplings = (0..blocks * blocks * each * blocks).map(|index| {
        let (row, column) = (index / (blocks * each * blocks), index % blocks);
        let group = index / (each * blocks) % blocks;
        if (row + column) % blocks == group {
            1.0
        } else {
            0.0
        }
    });
    let own = tensor(
        couplings.collect(),
        [blocks, blocks * each, blocks],
        &device,
    );
    Ok(objective.join(u, Tensor::cat(vec![s, own], 1), v))
}
