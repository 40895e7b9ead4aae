//! Plans a product and the coupling after it, then starts them.

use cubecl::prelude::*;

use super::geometry::{BlockStrides, CoupledGeometryLaunch};
use super::kernel::coupled_product;
use super::plan::{CoupledBlueprint, MAX_BLOCKS};
use crate::context::Context;
use crate::couple::{CoupleProblem, PlannedCouple};
use crate::device::{check_cube, cube_count, mma_element};
use crate::error::KernelError;
use crate::operand::{View, buffer};
use crate::product::{PlannedProduct, ProductOperands, ProductProblem};
use crate::ptx::MmaElement;
use crate::strategy::Strategy;
use crate::stream::kernel::stream_coupled;
use crate::stream::plan::{FEW_TOKENS, LINES, StreamCoupledBlueprint, streams};

/// The tensors of a product that is coupled. Their strides are those of the problems.
pub(crate) struct CoupledOperands<R: Runtime> {
    /// `A`.
    pub lhs: TensorBinding<R>,
    /// `B`.
    pub rhs: TensorBinding<R>,
    /// `S`.
    pub coupling: TensorBinding<R>,
    /// The couplings of `Y`.
    pub out: TensorBinding<R>,
}

/// A product and its coupling that are known to run.
pub(crate) struct PlannedCoupledProduct {
    product: ProductProblem,
    couple: CoupleProblem,
    plan: Plan,
}

enum Plan {
    /// Few tokens: one kernel.
    Stream(StreamCoupledBlueprint, CubeCount, AddressType),
    /// Many tokens: one kernel, `Y` in shared memory.
    Fused(CoupledBlueprint, CubeCount, AddressType),
    /// `Y` is stored in the output and replaced by its couplings.
    Apart(Box<(PlannedProduct, PlannedCouple)>),
}

impl PlannedCoupledProduct {
    /// Plans `product` and the coupling of its output, which both store to the same tensor.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device can not run what the strategy asks for.
    pub fn new<R: Runtime>(
        context: &Context<'_, R>,
        product: ProductProblem,
        couple: CoupleProblem,
    ) -> Result<Self, KernelError> {
        let client = context.client;
        let outputs = couple.blocks * couple.tokens * couple.rank;
        let address = context.address_type(outputs)?;
        let element = match context.strategy {
            Strategy::Naive | Strategy::Tiled => None,
            Strategy::Auto | Strategy::TensorCores | Strategy::Hopper => {
                mma_element(client, context.dtype).ok()
            }
        };
        let element = element.filter(|element| *element != MmaElement::Tf32);
        let fused = element.map(|element| {
            if let Some(blueprint) = stream(client, &product, &couple, element) {
                let cubes = [couple.rank.div_ceil(LINES), 1, 1];
                return Ok(Some(Plan::Stream(
                    blueprint,
                    cube_count(client, cubes)?,
                    address,
                )));
            }
            let blueprint = CoupledBlueprint::for_problem(client, &product, &couple, element);
            let plan = blueprint.map(|blueprint| {
                let count = cube_count(client, blueprint.cubes(couple.tokens, couple.rank))?;
                Ok(Plan::Fused(blueprint, count, address))
            });
            plan.transpose()
        });
        let plan = match fused.transpose()?.flatten() {
            Some(plan) => plan,
            None => Plan::Apart(Box::new((
                PlannedProduct::new(context, product)?,
                PlannedCouple::new(context, couple)?,
            ))),
        };
        Ok(Self {
            product,
            couple,
            plan,
        })
    }

    /// Starts product and coupling and returns at once.
    pub fn launch<R: Runtime>(self, context: &Context<'_, R>, operands: CoupledOperands<R>) {
        let Self {
            product,
            couple,
            plan,
        } = self;
        let CoupledOperands {
            lhs,
            rhs,
            coupling,
            out,
        } = operands;
        let geometry = || {
            let rhs = View {
                row: product.rhs.column,
                column: product.rhs.row,
                ..product.rhs
            };
            CoupledGeometryLaunch::new(
                couple.tokens,
                couple.rank,
                product.depth,
                BlockStrides::launch(product.lhs),
                BlockStrides::launch(rhs),
                BlockStrides::launch(couple.coupling),
                BlockStrides::launch(couple.out),
            )
        };
        match plan {
            // SAFETY: the operands' shapes, strides and buffers have been checked by the context
            // that the plan was made in; loads of lines past the end are clamped to the last one,
            // loads past the depth or the tokens are left out, and stores are masked.
            Plan::Stream(blueprint, count, address) => unsafe {
                stream_coupled::launch_unchecked::<R>(
                    context.client,
                    count,
                    CubeDim::new_1d(blueprint.units() as u32),
                    address,
                    buffer(lhs),
                    buffer(rhs),
                    buffer(coupling),
                    buffer(out),
                    geometry(),
                    blueprint,
                    context.dtype,
                );
            },
            // SAFETY: as above; copies outside the operands write zeros instead of reading.
            Plan::Fused(blueprint, count, address) => unsafe {
                coupled_product::launch_unchecked::<R>(
                    context.client,
                    count,
                    CubeDim::new_1d(blueprint.tile.units() as u32),
                    address,
                    buffer(lhs),
                    buffer(rhs),
                    buffer(coupling),
                    buffer(out),
                    geometry(),
                    blueprint,
                    context.dtype,
                );
            },
            Plan::Apart(planned) => {
                let (product, couple) = *planned;
                let operands = ProductOperands {
                    lhs,
                    rhs,
                    bias: None,
                    out: out.clone(),
                };
                product.launch(context, operands);
                couple.launch(context, coupling, out, None);
            }
        }
    }
}

/// The blueprint for few tokens, if the operands can be streamed.
fn stream<R: Runtime>(
    client: &ComputeClient<R>,
    product: &ProductProblem,
    couple: &CoupleProblem,
    element: MmaElement,
) -> Option<StreamCoupledBlueprint> {
    let (lhs, rhs, depth) = (product.lhs, product.rhs, product.depth);
    let possible = couple.tokens <= FEW_TOKENS
        && couple.blocks <= MAX_BLOCKS
        && couple.coupling.column == 1
        && couple.out.column == 1
        && streams(lhs, lhs.row, lhs.column, depth, element)
        && streams(rhs, rhs.column, rhs.row, depth, element);
    if !possible {
        return None;
    }
    let bytes = depth * element.bytes();
    let blueprint =
        StreamCoupledBlueprint::new(element, couple.blocks, couple.tokens, couple.rank, bytes);
    let stage = blueprint.stage_elements() * size_of::<f32>();
    check_cube(client, blueprint.units(), stage).ok()?;
    Some(blueprint)
}
