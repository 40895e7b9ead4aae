//! The plans that a measurement of a coupled product chooses from.

use cubecl::prelude::*;

use super::launch::Plan;
use super::plan::CoupledBlueprint;
use crate::context::Context;
use crate::couple::CoupleProblem;
use crate::error::KernelError;
use crate::product::{ProductProblem, token_class};
use crate::stream::plan::{StreamLines, ways};

/// A plan by what sets it apart; the rest follows from the problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// What the cost model says.
    Model,
    /// Product and coupling one after the other.
    Apart,
    /// A candidate of both in one kernel.
    Fused(usize),
    /// Both in one kernel, by the tensor cores of compute capability 9.0.
    Wgmma,
    /// Ranks of a cube and planes that share their depth, for few tokens.
    Stream(StreamLines, usize),
}

impl Choice {
    /// All choices, in the order by which stored results number them.
    pub fn all() -> impl Iterator<Item = Choice> {
        [Choice::Model, Choice::Apart]
            .into_iter()
            .chain((0..CoupledBlueprint::CANDIDATES).map(Choice::Fused))
            .chain([Choice::Wgmma])
            .chain(ways().map(|(lines, splits)| Choice::Stream(lines, splits)))
    }

    /// Name in stored results: those of another list of names are not taken for results of this one.
    pub fn name(self) -> String {
        match self {
            Choice::Model => "model".to_string(),
            Choice::Apart => "apart".to_string(),
            Choice::Fused(index) => CoupledBlueprint::candidate_name(index),
            Choice::Wgmma => "wgmma".to_string(),
            Choice::Stream(lines, splits) => format!("ring {} x {splits}", lines.count()),
        }
    }

    /// The plan for the problems where the cost model says `model`; nothing where that is the same.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device or the operands rule it out.
    pub fn plan<R: Runtime>(
        self,
        context: &Context<'_, R>,
        product: &ProductProblem,
        couple: &CoupleProblem,
        model: &Plan,
    ) -> Result<Option<Plan>, KernelError> {
        let plan = match (self, model) {
            (Choice::Apart | Choice::Fused(_), _) if couple.split.is_some() => None,
            (Choice::Model, _)
            | (Choice::Apart, Plan::Apart(_))
            | (Choice::Wgmma, Plan::Wgmma(..) | Plan::Stream(..)) => None,
            (Choice::Wgmma, _) => Some(Plan::wgmma(context, product, couple)?.0),
            (Choice::Apart, _) => Some(Plan::apart(context, *product, *couple)?),
            (Choice::Fused(index), _) => {
                let plan = Plan::fused(index, context, product, couple)?;
                let same = matches!((&plan, model), (Plan::Fused(this, ..), Plan::Fused(that, ..)) if this == that);
                (!same).then_some(plan)
            }
            (Choice::Stream(lines, splits), Plan::Stream(blueprint, ..))
                if (lines, splits) != (blueprint.ring.lines, blueprint.splits) =>
            {
                let bytes = product.depth * blueprint.ring.element.bytes();
                let blueprint = blueprint.with(context.client, couple, bytes, lines, splits)?;
                Some(Plan::stream(context, couple, blueprint)?)
            }
            (Choice::Stream(..), _) => None,
        };
        Ok(plan)
    }
}

/// What results are found by: coupled products of one key run at the same speed, about.
pub(super) fn key<R: Runtime>(
    context: &Context<'_, R>,
    product: &ProductProblem,
    couple: &CoupleProblem,
) -> String {
    let bytes = context.element_bytes;
    let views = [product.lhs, product.rhs, couple.coupling, couple.out];
    let [lhs, rhs, coupling, out] = views.map(|view| view.class(bytes));
    format!(
        "coupled {:?} {}x{}x{}x{} {lhs:?} {rhs:?} {coupling:?} {out:?} {}",
        context.dtype,
        couple.blocks,
        token_class(couple.tokens),
        couple.rank,
        product.depth,
        couple.split.is_some()
    )
}
