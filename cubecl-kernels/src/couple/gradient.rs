//! Plans the gradient of the couplings, then starts it.

use cubecl::prelude::*;

use super::kernel::gradient_mma::mma_couple_gradient;
use super::kernel::gradient_naive::naive_couple_gradient;
use super::kernel::gradient_tiled::tiled_couple_gradient;
use super::launch::{UNITS, geometry};
use super::plan::CoupleGradientPlan;
use super::problem::CoupleGradientProblem;
use crate::context::Context;
use crate::device::{check_cube, cube_count, cubes_for_elements};
use crate::error::KernelError;
use crate::operand::buffer;

/// A gradient of couplings that is known to run.
pub(crate) struct PlannedCoupleGradient {
    problem: CoupleGradientProblem,
    plan: CoupleGradientPlan,
    count: CubeCount,
    address: AddressType,
}

impl PlannedCoupleGradient {
    /// Plans `problem`, whose operands have been checked in `context`.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device can not run what the strategy asks for.
    pub fn new<R: Runtime>(
        context: &Context<'_, R>,
        problem: CoupleGradientProblem,
    ) -> Result<Self, KernelError> {
        let client = context.client;
        let plan = CoupleGradientPlan::new(client, &problem, context.dtype, context.strategy)?;
        let outputs = problem.blocks * problem.blocks * problem.rank;
        let count = match &plan {
            CoupleGradientPlan::Naive => {
                check_cube(client, UNITS as usize, 0)?;
                cubes_for_elements(client, outputs, UNITS as usize)?
            }
            CoupleGradientPlan::Tiled(blueprint) => {
                let groups = problem.blocks.div_ceil(blueprint.pairs);
                cube_count(
                    client,
                    [problem.rank.div_ceil(blueprint.ranks), groups, groups],
                )?
            }
            CoupleGradientPlan::Mma(_) => cube_count(client, [problem.rank / 8, 1, 1])?,
        };
        let address = context.address_type(outputs)?;
        Ok(Self {
            problem,
            plan,
            count,
            address,
        })
    }

    /// Starts the gradient and returns at once.
    pub fn launch<R: Runtime>(
        self,
        context: &Context<'_, R>,
        grad: TensorBinding<R>,
        source: TensorBinding<R>,
        out: TensorBinding<R>,
    ) {
        let Self {
            problem,
            plan,
            count,
            address,
        } = self;
        let (grad, source, out) = (buffer(grad), buffer(source), buffer(out));
        let sizes = [problem.blocks, problem.tokens, problem.rank];
        let geometry = geometry(sizes, [problem.grad, problem.source, problem.out]);
        match plan {
            // SAFETY: the operands' shapes, strides and buffers have been checked by the context
            // that the plan was made in, and units beyond the last output end at once.
            CoupleGradientPlan::Naive => unsafe {
                naive_couple_gradient::launch_unchecked::<R>(
                    context.client,
                    count,
                    CubeDim::new_1d(UNITS),
                    address,
                    grad,
                    source,
                    out,
                    geometry,
                    context.dtype,
                );
            },
            // SAFETY: as above; loads outside the blocks and tokens are left out, stores are masked,
            // and eight ranks are moved at once only where sizes, strides and addresses are
            // multiples of eight.
            CoupleGradientPlan::Mma(tile) => unsafe {
                mma_couple_gradient::launch_unchecked::<R>(
                    context.client,
                    count,
                    CubeDim::new_1d(tile.units() as u32),
                    address,
                    grad,
                    source,
                    out,
                    geometry,
                    tile,
                    context.dtype,
                );
            },
            // SAFETY: as above; loads are clamped to the last block and rank, stores are masked.
            CoupleGradientPlan::Tiled(blueprint) => unsafe {
                tiled_couple_gradient::launch_unchecked::<R>(
                    context.client,
                    count,
                    CubeDim::new_1d(blueprint.units() as u32),
                    address,
                    grad,
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
