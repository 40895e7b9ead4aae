//! Which layer gets how much of a model's parameters.

use burn::tensor::{Device, Tensor};
use burn_blr::{BlrLinear, LowRankLinear, Structure};
use models::{Checkpoint, LinearLayer, Plan, linear_layers};

use super::Calibration;
use super::host::weighted_square;
use super::source::{DenseWeight, check_finite, check_shapes};
use super::subspace::{Effort, low_rank, squared_singular_values};
use super::weighting::damped;
use crate::TrainingError;

/// Ranks are multiples of this where a layer is wide enough: what tensor cores multiply at once.
const STEP: usize = 16;

/// A layer is at least this many steps wide on its smaller side, or its steps are smaller.
const STEPS: usize = 16;

/// Gives the layers that `plan` compresses other ranks, together holding at most as many weights as
/// the plan gives them, such that the output of the model changes least.
///
/// The change is taken to be the sum of what the layers cause, each in proportion to the square of its
/// relative error on the inputs of the calibration. How strongly is measured, by putting the best
/// low-rank layer of the plan's rank in the place of each layer of the dense model; what the error is
/// at every rank follows from singular values, those of the blocks for Monarch and those of the whole
/// for BLAST, which has no such law. Methods and block counts stay; ranks are multiples of 16, of the
/// block count for Monarch, and of less for layers narrower than 256. A plan that leaves the layers
/// less than that stays as it is.
///
/// `on_layer` hears of each layer and their number.
///
/// # Errors
///
/// [`TrainingError`] where the plan does not fit the checkpoint, or a decomposition fails.
pub fn spread_ranks(
    source: &Checkpoint,
    plan: &Plan,
    calibration: &Calibration,
    device: &Device,
    on_layer: &mut dyn FnMut(usize, usize),
) -> Result<Plan, TrainingError> {
    let layers = linear_layers(source)?;
    let chosen = plan.resolve(&layers)?;
    check_shapes(source, &layers)?;
    check_finite(source)?;
    let mut dense = calibration.copy();
    let mut curves = Vec::with_capacity(chosen.len());
    let mut seen: Option<(&LinearLayer, Tensor<2>)> = None;
    for (layer, structure) in &chosen {
        on_layer(curves.len(), chosen.len());
        let moment = match seen.take() {
            Some((earlier, moment)) if dense.see_the_same(earlier, layer) => moment,
            _ => damped(&dense.moment(layer)?)?,
        };
        let weight = DenseWeight::read(source, layer)?.upload(device);
        let probe = Probe::new(&weight, &moment, structure.rank().unwrap_or(1))?;
        let change = dense.change(layer, probe.layer)? / probe.error.max(f64::MIN_POSITIVE);
        curves.push(Curve::new(&weight, layer, *structure, &moment, change)?);
        seen = Some((layer, moment));
    }
    let budget = chosen
        .iter()
        .map(|(layer, structure)| structure.parameters(layer.in_features, layer.out_features))
        .sum();
    let Some(ranks) = spread(&curves, budget) else {
        return Ok(plan.clone());
    };
    let spread = chosen
        .into_iter()
        .zip(ranks)
        .map(|((layer, structure), rank)| {
            let structure = structure.with_rank(rank);
            (layer, structure)
        });
    Ok(Plan::of_layers(&spread.collect::<Vec<_>>()))
}

/// A low-rank layer in the place of a dense one.
struct Probe {
    layer: BlrLinear,
    /// The square of its relative error on the inputs.
    error: f64,
}

impl Probe {
    fn new(weight: &Tensor<2>, moment: &Tensor<2>, rank: usize) -> Result<Self, TrainingError> {
        let (u, v) = low_rank(weight, Some(moment), rank, Effort::Start)?;
        let left = weight.clone() - u.clone().matmul(v.clone());
        let total = weighted_square(weight.clone(), moment)?;
        Ok(Probe {
            layer: BlrLinear::LowRank(LowRankLinear::from_factors(u, v, None)?),
            error: weighted_square(left, moment)? / total.max(f64::MIN_POSITIVE),
        })
    }
}

/// What each further step of the rank of a layer is worth, and costs.
#[derive(Debug, Clone, PartialEq)]
struct Curve {
    /// Ranks are multiples of this.
    step: usize,
    /// Weights that a step adds.
    cost: usize,
    /// By how much each step lowers the change of the output.
    gains: Vec<f64>,
}

impl Curve {
    /// The curve of `weight` as `structure`, where the output changes by `change` times the square of
    /// its relative error.
    fn new(
        weight: &Tensor<2>,
        layer: &LinearLayer,
        structure: Structure,
        moment: &Tensor<2>,
        change: f64,
    ) -> Result<Self, TrainingError> {
        let (inputs, outputs) = (layer.in_features, layer.out_features);
        let narrow = inputs.min(outputs);
        let step = STEP.min(narrow / STEPS).max(1);
        // A Monarch block has a share of the rank; the others have all of it.
        let (blocks, step) = match structure {
            Structure::Monarch { blocks, .. } => (blocks, step.next_multiple_of(blocks)),
            _ => (1, step),
        };
        let cost = structure.with_rank(step).parameters(inputs, outputs);
        // Not more weights than the dense layer has.
        let most = (narrow / step).min(inputs * outputs / cost).max(1);
        let squares = block_squares(weight, moment, blocks, most * step / blocks)?;
        let total = weighted_square(weight.clone(), moment)?.max(f64::MIN_POSITIVE);
        let steps = squares.chunks(step / blocks);
        Ok(Curve {
            step,
            cost,
            gains: steps
                .map(|squares| change * squares.iter().sum::<f64>() / total)
                .collect(),
        })
    }
}

/// Sums over `blocks · blocks` blocks of their squared singular values, largest with largest.
fn block_squares(
    weight: &Tensor<2>,
    moment: &Tensor<2>,
    blocks: usize,
    count: usize,
) -> Result<Vec<f64>, TrainingError> {
    let [rows, columns] = weight.dims();
    let (block_out, block_in) = (rows / blocks, columns / blocks);
    let mut squares = vec![0.0; count];
    for i in 0..blocks {
        let inputs = i * block_in;
        let columns = weight.clone().narrow(1, inputs, block_in);
        let moment = moment.clone().narrow(0, inputs, block_in);
        let moment = moment.narrow(1, inputs, block_in);
        for j in 0..blocks {
            let block = columns.clone().narrow(0, j * block_out, block_out);
            let found = squared_singular_values(&block, Some(&moment), count)?;
            for (sum, square) in squares.iter_mut().zip(found) {
                *sum += square;
            }
        }
    }
    Ok(squares)
}

/// The ranks for a budget of weights: one step each, then step by step where a weight gains most;
/// `None` where the budget does not pay for one step each.
fn spread(curves: &[Curve], budget: usize) -> Option<Vec<usize>> {
    let mut steps = vec![1; curves.len()];
    let mut held: usize = curves.iter().map(|curve| curve.cost).sum();
    if held > budget {
        return None;
    }
    loop {
        let next = curves.iter().zip(&steps).enumerate();
        let best = next
            .filter(|(_, (curve, _))| held + curve.cost <= budget)
            .filter_map(|(layer, (curve, steps))| {
                let gain = curve.gains.get(*steps)?;
                Some((layer, gain / curve.cost as f64))
            })
            .max_by(|(_, one), (_, other)| one.total_cmp(other));
        let Some((layer, _)) = best else { break };
        steps[layer] += 1;
        held += curves[layer].cost;
    }
    let ranks = steps.into_iter().zip(curves);
    Some(ranks.map(|(steps, curve)| steps * curve.step).collect())
}

#[cfg(test)]
mod tests {
    use super::{Curve, spread};

    #[test]
    fn steps_go_where_a_weight_gains_most_and_stay_within_the_budget() {
        let curve = |step, cost, gains: &[f64]| Curve {
            step,
            cost,
            gains: gains.to_vec(),
        };
        let steep = curve(16, 10, &[0.7, 0.2, 0.05, 0.05]);
        let flat = curve(8, 20, &[0.3, 0.3, 0.2, 0.2]);
        // Gains for a weight: 0.02 of the steep one's second step, 0.015, 0.01 and 0.01 of the flat
        // one's, 0.005 of the steep one's third.
        for (budget, ranks) in [
            (30, [16, 8]),
            (40, [32, 8]),
            (65, [32, 16]),
            (100, [32, 32]),
            (1000, [64, 32]),
        ] {
            let found = spread(&[steep.clone(), flat.clone()], budget);
            assert_eq!(found.as_deref(), Some(&ranks[..]), "{budget}");
        }
        assert_eq!(spread(&[steep, flat], 29), None);
    }
}
