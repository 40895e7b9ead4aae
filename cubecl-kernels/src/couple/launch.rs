//! Plans a coupling, then starts it.

use cubecl::prelude::*;

use super::kernel::geometry::{CoupleGeometryLaunch, StridesLaunch};
use super::kernel::naive::naive_couple;
use super::kernel::tiled::tiled_couple;
use super::plan::CouplePlan;
use super::problem::CoupleProblem;
use crate::context::Context;
use crate::device::{check_cube, cubes_for_elements};
use crate::error::KernelError;
use crate::operand::{View, buffer};

/// Units per cube: no two of them exchange anything, so small cubes fill the device evenly.
pub(super) const UNITS: u32 = 128;

/// A coupling that is known to run.
pub(crate) struct PlannedCouple {
    problem: CoupleProblem,
    plan: CouplePlan,
    count: CubeCount,
    address: AddressType,
}

impl PlannedCouple {
    /// Plans `problem`, whose operands have been checked in `context`.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device can not run what the strategy asks for.
    pub fn new<R: Runtime>(
        context: &Context<'_, R>,
        problem: CoupleProblem,
    ) -> Result<Self, KernelError> {
        let plan = CouplePlan::new(&problem, context.element_bytes, context.strategy);
        let outputs = problem.blocks * problem.tokens * problem.rank;
        let items = match &plan {
            CouplePlan::Naive => outputs,
            CouplePlan::Tiled(blueprint) => blueprint.items(&problem),
        };
        check_cube(context.client, UNITS as usize, 0)?;
        let count = cubes_for_elements(context.client, items, UNITS as usize)?;
        let address = context.address_type(outputs)?;
        Ok(Self {
            problem,
            plan,
            count,
            address,
        })
    }

    /// Starts the coupling and returns at once.
    pub fn launch<R: Runtime>(
        self,
        context: &Context<'_, R>,
        coupling: TensorBinding<R>,
        source: TensorBinding<R>,
        out: TensorBinding<R>,
    ) {
        let Self {
            problem,
            plan,
            count,
            address,
        } = self;
        let (coupling, source, out) = (buffer(coupling), buffer(source), buffer(out));
        let sizes = [problem.blocks, problem.tokens, problem.rank];
        let geometry = geometry(sizes, [problem.coupling, problem.source, problem.out]);
        let dim = CubeDim::new_1d(UNITS);
        match plan {
            // SAFETY: the operands' shapes, strides and buffers have been checked by the context
            // that the plan was made in, and units beyond the last output end at once.
            CouplePlan::Naive => unsafe {
                naive_couple::launch_unchecked::<R>(
                    context.client,
                    count,
                    dim,
                    address,
                    coupling,
                    source,
                    out,
                    geometry,
                    context.dtype,
                );
            },
            // SAFETY: as above; loads are clamped to the last block and token, stores are masked,
            // and vectors are used only where sizes, strides and addresses are multiples of them.
            CouplePlan::Tiled(blueprint) => unsafe {
                tiled_couple::launch_unchecked::<R>(
                    context.client,
                    count,
                    dim,
                    address,
                    blueprint.vector,
                    coupling,
                    source,
                    out,
                    geometry,
                    blueprint,
                    context.dtype,
                );
            },
        }
    }
}

/// Sizes (blocks, tokens, rank) and strides for a kernel.
pub(super) fn geometry<R: Runtime>(
    [blocks, tokens, rank]: [usize; 3],
    views: [View; 3],
) -> CoupleGeometryLaunch<R> {
    let [left, source, out] =
        views.map(|view| StridesLaunch::new(view.batch, view.row, view.column));
    CoupleGeometryLaunch::new(blocks, tokens, rank, left, source, out)
}
