//! Plans a coupling, then starts it.

use cubecl::prelude::*;

use super::kernel::geometry::{CoupleGeometryLaunch, StridesLaunch};
use super::kernel::naive::naive_couple;
use super::kernel::tiled::tiled_couple;
use super::plan::CouplePlan;
use super::problem::CoupleProblem;
use crate::context::Context;
use crate::coupled_product::couple::couple;
use crate::coupled_product::geometry::CoupledGeometry;
use crate::device::{check_cube, cube_count, cubes_for_elements};
use crate::error::KernelError;
use crate::operand::{View, buffer};

/// Units per cube: no two of them exchange anything, so small cubes fill the device evenly.
pub(super) const UNITS: u32 = 128;

/// A coupling that is known to run.
#[derive(Clone)]
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
        let client = context.client;
        let plan = CouplePlan::new(
            client,
            &problem,
            context.dtype,
            context.element_bytes,
            context.strategy,
        )?;
        let outputs = problem.blocks * problem.tokens * problem.rank;
        let count_items = |items| {
            check_cube(client, UNITS as usize, 0)?;
            cubes_for_elements(client, items, UNITS as usize)
        };
        let count = match &plan {
            CouplePlan::Naive => count_items(problem.tokens * problem.rank)?,
            CouplePlan::Tiled(blueprint) => count_items(blueprint.items(&problem))?,
            CouplePlan::Mma(tile) => {
                let cubes = tile.standing_cubes(client, problem.tokens, problem.rank);
                cube_count(client, cubes)?
            }
        };
        let address = context.address_type(outputs)?;
        Ok(Self {
            problem,
            plan,
            count,
            address,
        })
    }

    /// Starts the coupling and returns at once; without `out`, it replaces `source`.
    pub fn launch<R: Runtime>(
        self,
        context: &Context<'_, R>,
        coupling: TensorBinding<R>,
        source: TensorBinding<R>,
        out: Option<TensorBinding<R>>,
    ) {
        let Self {
            problem,
            plan,
            count,
            address,
        } = self;
        let (coupling, source) = (buffer(coupling), buffer(source));
        // Position 1 is that of the source in every kernel.
        let out = out.map_or_else(|| BufferArg::alias(1, source.len()), buffer);
        let sizes = [problem.blocks, problem.tokens, problem.rank];
        let views = [problem.coupling, problem.source, problem.out];
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
                    geometry(sizes, views),
                    problem.blocks,
                    context.dtype,
                );
            },
            // SAFETY: as above; loads are clamped to the last token, stores are masked,
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
                    geometry(sizes, views),
                    blueprint,
                    context.dtype,
                );
            },
            // SAFETY: as above; copies outside the source write zeros instead of reading, stores
            // are masked, and eight ranks are moved at once only where sizes, strides and addresses
            // are multiples of eight.
            CouplePlan::Mma(tile) => unsafe {
                couple::launch_unchecked::<R>(
                    context.client,
                    count,
                    CubeDim::new_1d(tile.units as u32),
                    address,
                    coupling,
                    source,
                    out,
                    CoupledGeometry::launch(sizes, views),
                    tile,
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
