//! The plans that a measurement chooses from.

use cubecl::prelude::*;

use super::mma_plan::MmaBlueprint;
use super::plan::{ProductPlan, TiledBlueprint};
use super::problem::{ProductProblem, TokenAxis, token_class};
use super::wgmma_plan::WgmmaBlueprint;
use crate::context::Context;
use crate::device::mma_element;
use crate::error::KernelError;
use crate::stream::plan::{StreamBlueprint, StreamLines, ways};

/// Tiles that are measured beside the plan of the cost model, at most.
const MOST_TILES: usize = 4;

/// How many times the time of the best a candidate should take at most, by the cost model, to be
/// measured.
const WORTH: f64 = 2.0;

/// A plan by what sets it apart; the rest follows from the problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// What the cost model says.
    Model,
    /// A candidate of the product on tensor maps.
    Wgmma(usize),
    /// A candidate of the product on tensor cores.
    Mma(usize),
    /// Lines of a cube and planes that share their depth, for few tokens.
    Stream(StreamLines, usize),
    /// A candidate of the tiles without tensor cores.
    Tiled(usize),
}

impl Choice {
    /// All choices, in the order by which stored results number them.
    pub fn all() -> impl Iterator<Item = Choice> {
        [Choice::Model]
            .into_iter()
            .chain((0..WgmmaBlueprint::CANDIDATES).map(Choice::Wgmma))
            .chain((0..MmaBlueprint::CANDIDATES).map(Choice::Mma))
            .chain(ways().map(|(lines, splits)| Choice::Stream(lines, splits)))
            .chain((0..TiledBlueprint::CANDIDATES).map(Choice::Tiled))
    }

    /// Name in stored results: those of another list of names are not taken for results of this one.
    pub fn name(self) -> String {
        match self {
            Choice::Model => "model".to_string(),
            Choice::Wgmma(index) => WgmmaBlueprint::candidate_name(index),
            Choice::Mma(index) => MmaBlueprint::candidate_name(index),
            Choice::Stream(lines, splits) => format!("ring {} x {splits}", lines.count()),
            Choice::Tiled(index) => TiledBlueprint::candidate_name(index),
        }
    }

    /// The plan for `problem` where the cost model says `model`, and the seconds it should take,
    /// about, where there is a model of that.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device or the operands rule it out.
    pub fn plan<R: Runtime>(
        self,
        context: &Context<'_, R>,
        problem: &ProductProblem,
        model: ProductPlan,
    ) -> Result<(ProductPlan, Option<f64>), KernelError> {
        let (client, dtype) = (context.client, context.dtype);
        match self {
            Choice::Model => Ok((model, None)),
            Choice::Wgmma(index) => {
                let element = mma_element(client, dtype)?;
                let planned = WgmmaBlueprint::candidate(index, client, problem, dtype, element);
                planned.map(|(blueprint, seconds)| (ProductPlan::Wgmma(blueprint), Some(seconds)))
            }
            Choice::Mma(index) => {
                let element = mma_element(client, dtype)?;
                let planned = MmaBlueprint::candidate(index, client, problem, element);
                planned.map(|(blueprint, seconds)| (ProductPlan::Mma(blueprint), Some(seconds)))
            }
            Choice::Stream(lines, splits) => {
                let element = mma_element(client, dtype)?;
                let plan = match StreamBlueprint::new(client, problem, element)? {
                    Some(blueprint) => {
                        ProductPlan::Stream(blueprint.with(client, problem, lines, splits)?)
                    }
                    // Another token count of the class, where the model has its own way.
                    None => model,
                };
                Ok((plan, None))
            }
            Choice::Tiled(index) => {
                let bytes = context.element_bytes;
                let blueprint = TiledBlueprint::candidate(index, client, problem, bytes)?;
                Ok((ProductPlan::Tiled(blueprint), None))
            }
        }
    }

    /// Whether this is worth a measurement where the cost model says `model`: a few of the same
    /// kind, never one that rounds what the model does not.
    fn is_near(self, model: &ProductPlan) -> bool {
        match (self, model) {
            (Choice::Model, _) => true,
            (Choice::Tiled(_), ProductPlan::Tiled(_)) => true,
            (Choice::Stream(_, splits), ProductPlan::Stream(blueprint)) => {
                splits.max(blueprint.splits) <= 2 * splits.min(blueprint.splits)
            }
            (
                Choice::Wgmma(_) | Choice::Mma(_),
                ProductPlan::Wgmma(_) | ProductPlan::Mma(_) | ProductPlan::Stream(_),
            ) => true,
            _ => false,
        }
    }
}

/// The plans that are worth a measurement, with their numbers, that of the model first.
pub(crate) fn shortlist<R: Runtime>(
    context: &Context<'_, R>,
    problem: &ProductProblem,
    model: ProductPlan,
) -> Vec<(usize, ProductPlan)> {
    let possible = Choice::all()
        .enumerate()
        .filter(|(_, choice)| choice.is_near(&model))
        .filter_map(|(number, choice)| {
            let (plan, seconds) = choice.plan(context, problem, model).ok()?;
            (plan != model).then_some((number, plan, seconds))
        });
    let (mut tiles, others): (Vec<_>, Vec<_>) =
        possible.partition(|(.., seconds)| seconds.is_some());
    let seconds = |seconds: Option<f64>| seconds.unwrap_or(f64::INFINITY);
    tiles.sort_by(|(.., one), (.., other)| seconds(*one).total_cmp(&seconds(*other)));
    let limit = tiles
        .first()
        .map_or(0.0, |(.., least)| WORTH * seconds(*least));
    tiles.retain(|(.., expected)| seconds(*expected) <= limit);
    tiles.truncate(MOST_TILES);
    let others = others.into_iter().chain(tiles);
    let others = others.map(|(number, plan, _)| (number, plan));
    [(0, model)].into_iter().chain(others).collect()
}

/// What results are found by: products of one key run at the same speed, about.
pub(crate) fn key<R: Runtime>(context: &Context<'_, R>, problem: &ProductProblem) -> String {
    let bytes = context.element_bytes;
    let ProductProblem {
        batches, columns, ..
    } = problem;
    let (rows, depth) = match problem.tokens {
        TokenAxis::Rows => (token_class(problem.rows), problem.depth),
        TokenAxis::Depth => (problem.rows, token_class(problem.depth)),
    };
    let [lhs, rhs, out] = [problem.lhs, problem.rhs, problem.out].map(|view| view.class(bytes));
    format!(
        "product {:?} {batches}x{rows}x{columns}x{depth} {:?} {lhs:?} {rhs:?} {out:?} {}",
        context.dtype,
        problem.tokens,
        problem.split.is_some()
    )
}
