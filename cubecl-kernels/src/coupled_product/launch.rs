//! Plans a product and the coupling after it, then starts them.

use cubecl::prelude::*;

use super::choice::{Choice, key};
use super::geometry::{BlockStrides, CoupledGeometryLaunch};
use super::kernel::coupled_product;
use super::plan::{CoupledBlueprint, MAX_BLOCKS, SMALL_BYTES};
use super::wgmma::coupled_wgmma;
use super::wgmma_plan::{COLUMNS, CoupledWgmmaBlueprint, UNITS};
use crate::context::Context;
use crate::couple::{CoupleProblem, PlannedCouple};
use crate::device::{cube_count, mma_element};
use crate::error::{KernelError, Missing};
use crate::operand::{View, buffer};
use crate::product::wgmma_plan::WgmmaBlueprint;
use crate::product::{PlannedProduct, ProductOperands, ProductProblem, box_map, tensor_map};
use crate::ptx::{MmaElement, group_sums};
use crate::strategy::Strategy;
use crate::stream::kernel::stream_coupled;
use crate::stream::plan::{FEW_TOKENS, StreamCoupledBlueprint, streams};
use crate::tuning;

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

impl<R: Runtime> CoupledOperands<R> {
    /// Those of the product alone.
    fn product(&self) -> ProductOperands<R> {
        ProductOperands {
            lhs: self.lhs.clone(),
            rhs: self.rhs.clone(),
            bias: None,
            merged: None,
            out: self.out.clone(),
        }
    }
}

impl<R: Runtime> Clone for CoupledOperands<R> {
    fn clone(&self) -> Self {
        Self {
            lhs: self.lhs.clone(),
            rhs: self.rhs.clone(),
            coupling: self.coupling.clone(),
            out: self.out.clone(),
        }
    }
}

/// A product and its coupling that are known to run.
#[derive(Clone)]
pub(crate) struct PlannedCoupledProduct {
    product: ProductProblem,
    couple: CoupleProblem,
    plan: Plan,
    /// Key of the measurement that is still to be made.
    unmeasured: Option<String>,
}

/// How both are computed.
#[derive(Clone)]
pub(super) enum Plan {
    /// Few tokens: one kernel.
    Stream(StreamCoupledBlueprint, CubeCount, AddressType),
    /// Many tokens: one kernel, `Y` in shared memory.
    Fused(CoupledBlueprint, CubeCount, AddressType),
    /// As `Fused`, by the tensor cores of compute capability 9.0.
    Wgmma(CoupledWgmmaBlueprint, CubeCount, AddressType),
    /// `Y` is stored in the output and replaced by its couplings.
    Apart(Box<(PlannedProduct, PlannedCouple)>),
}

impl Plan {
    /// What the cost model says.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device can not run what the strategy asks for.
    fn by_model<R: Runtime>(
        context: &Context<'_, R>,
        product: &ProductProblem,
        couple: &CoupleProblem,
    ) -> Result<Self, KernelError> {
        let client = context.client;
        if let Some(element) = element(context) {
            if let Some(blueprint) = stream(client, product, couple, element) {
                return Self::stream(context, couple, blueprint);
            }
            match context.strategy {
                Strategy::Fused => {
                    let (plan, _) = Self::wgmma(context, product, couple)?;
                    return Ok(plan);
                }
                Strategy::Auto | Strategy::Tuned => {
                    // Where it can not run, the others are left.
                    if let Ok((plan, seconds)) = Self::wgmma(context, product, couple)
                        && seconds_apart(context, product, couple, element)
                            .is_some_and(|apart| seconds < apart)
                    {
                        return Ok(plan);
                    }
                }
                _ => {}
            }
            if let Some(blueprint) = CoupledBlueprint::for_problem(client, product, couple, element)
            {
                let count = cube_count(client, blueprint.cubes(couple.tokens, couple.rank))?;
                return Ok(Plan::Fused(blueprint, count, address(context, couple)?));
            }
        }
        Self::apart(context, *product, *couple)
    }

    /// Few tokens, by this blueprint.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device launches fewer cubes.
    pub(super) fn stream<R: Runtime>(
        context: &Context<'_, R>,
        couple: &CoupleProblem,
        blueprint: StreamCoupledBlueprint,
    ) -> Result<Self, KernelError> {
        let count = cube_count(
            context.client,
            [blueprint.cubes(context.client, couple.rank), 1, 1],
        )?;
        Ok(Plan::Stream(blueprint, count, address(context, couple)?))
    }

    /// Both in one kernel, by a candidate of its tiles.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device or the operands rule it out.
    pub(super) fn fused<R: Runtime>(
        index: usize,
        context: &Context<'_, R>,
        product: &ProductProblem,
        couple: &CoupleProblem,
    ) -> Result<Self, KernelError> {
        let client = context.client;
        let element = element(context).ok_or(KernelError::Unavailable(Missing::TensorCores(
            context.dtype,
        )))?;
        let blueprint = CoupledBlueprint::candidate(index, client, product, couple, element)?;
        let count = cube_count(client, blueprint.cubes(couple.tokens, couple.rank))?;
        Ok(Plan::Fused(blueprint, count, address(context, couple)?))
    }

    /// Both in one kernel, by the tensor cores of compute capability 9.0, and the seconds that it should
    /// take, about.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device or the operands rule it out.
    pub(super) fn wgmma<R: Runtime>(
        context: &Context<'_, R>,
        product: &ProductProblem,
        couple: &CoupleProblem,
    ) -> Result<(Self, f64), KernelError> {
        let (client, dtype) = (context.client, context.dtype);
        let element = mma_element(client, dtype)?;
        let (blueprint, seconds) =
            CoupledWgmmaBlueprint::for_problem(client, product, couple, dtype, element)?;
        let cubes = blueprint.cubes(client, couple);
        let count = cube_count(client, [cubes, 1, 1])?;
        let plan = Plan::Wgmma(blueprint, count, address(context, couple)?);
        Ok((plan, seconds))
    }

    /// One after the other.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device can not run what the strategy asks for.
    pub(super) fn apart<R: Runtime>(
        context: &Context<'_, R>,
        product: ProductProblem,
        couple: CoupleProblem,
    ) -> Result<Self, KernelError> {
        let product = PlannedProduct::new(context, product)?;
        let couple = PlannedCouple::new(context, couple)?;
        Ok(Plan::Apart(Box::new((product, couple))))
    }
}

/// Seconds of a coupling by itself, and bytes that it reads and writes in a second: of `Y` that is not
/// found in cache on one H100. The store of `Y`, which the model of the product does not know, is part
/// of it: the coupling alone reaches 2.7 TB/s, or 3.2 with what the cache still has.
const COUPLE_SECONDS: f64 = 1.0e-6;
const COUPLE_RATE: f64 = 2.2e12;

/// Seconds that product and coupling should take one after the other, about; nothing where the portable
/// kernel takes both, with little to do and a launch to save.
fn seconds_apart<R: Runtime>(
    context: &Context<'_, R>,
    product: &ProductProblem,
    couple: &CoupleProblem,
    element: MmaElement,
) -> Option<f64> {
    let class = product.with_rounded_tokens();
    let bytes = couple.blocks * class.rows * couple.rank * element.bytes();
    let product = WgmmaBlueprint::for_problem(context.client, &class, context.dtype, element);
    let coupling = COUPLE_SECONDS + (2 * bytes) as f64 / COUPLE_RATE;
    (bytes > SMALL_BYTES).then_some(product.ok()?.1 + coupling)
}

/// The element type of the kernels that compute both at once, where the strategy allows them.
fn element<R: Runtime>(context: &Context<'_, R>) -> Option<MmaElement> {
    match context.strategy {
        Strategy::Naive | Strategy::Tiled => None,
        _ => mma_element(context.client, context.dtype)
            .ok()
            .filter(|element| *element != MmaElement::Tf32),
    }
}

/// Address type that reaches every operand and output.
fn address<R: Runtime>(
    context: &Context<'_, R>,
    couple: &CoupleProblem,
) -> Result<AddressType, KernelError> {
    context.address_type(couple.blocks * couple.tokens * couple.rank)
}

impl PlannedCoupledProduct {
    /// Whether both are done by the kernel for few tokens.
    pub fn streams<R: Runtime>(
        context: &Context<'_, R>,
        product: &ProductProblem,
        couple: &CoupleProblem,
    ) -> bool {
        element(context)
            .and_then(|element| stream(context.client, product, couple, element))
            .is_some()
    }

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
        let mut planned = Self {
            product,
            couple,
            plan: Plan::by_model(context, &product, &couple)?,
            unmeasured: None,
        };
        // Without tensor cores there is one way only.
        if *context.strategy == Strategy::Tuned && element(context).is_some() {
            let key = key(context, &product, &couple);
            match tuning::known(context.client, &key) {
                Some(number) => planned.choose(context, number),
                None => planned.unmeasured = Some(key),
            }
        }
        Ok(planned)
    }

    /// Takes the plan with this number instead of that of the cost model, if it can run.
    fn choose<R: Runtime>(&mut self, context: &Context<'_, R>, number: usize) {
        let choice = Choice::all().nth(number).unwrap_or(Choice::Model);
        let plan = choice.plan(context, &self.product, &self.couple, &self.plan);
        if let Ok(Some(plan)) = plan {
            self.plan = plan;
        }
    }

    /// Measures the plans on the operands, where that is still to be done, and takes the fastest.
    fn settle<R: Runtime>(&mut self, context: &Context<'_, R>, operands: &CoupledOperands<R>) {
        let Some(key) = self.unmeasured.take() else {
            return;
        };
        let plan = |choice: Choice| {
            let plan = choice.plan(context, &self.product, &self.couple, &self.plan);
            plan.ok().flatten()
        };
        let others = Choice::all().enumerate().filter_map(|(number, choice)| {
            let plan = plan(choice)?;
            Some((
                number,
                Self {
                    plan,
                    ..self.clone()
                },
            ))
        });
        let mut candidates: Vec<(usize, Self)> =
            [(0, self.clone())].into_iter().chain(others).collect();
        for (_, candidate) in &mut candidates {
            // The product is compared by its own fastest plan.
            if let Plan::Apart(planned) = &mut candidate.plan {
                planned.0.settle(context, &operands.product());
            }
        }
        let names: Vec<String> = Choice::all().map(Choice::name).collect();
        let others = operands.clone();
        let measured = tuning::measure(
            context,
            &key,
            &names,
            candidates,
            &operands.rhs,
            move |planned: &Self, context, rhs| {
                let others = others.clone();
                planned
                    .clone()
                    .launch(context, CoupledOperands { rhs, ..others });
            },
        );
        if let Some(number) = measured {
            self.choose(context, number);
        }
    }

    /// Starts product and coupling and returns at once, unless their plans are to be measured first.
    pub fn launch<R: Runtime>(mut self, context: &Context<'_, R>, operands: CoupledOperands<R>) {
        self.settle(context, &operands);
        let Self {
            product,
            couple,
            plan,
            ..
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
            // that the plan was made in; copies of lines past the end are clamped to the last one,
            // those past the depth or the tokens write zeros, and stores are masked.
            Plan::Stream(blueprint, count, address) => unsafe {
                let (part, part_stride) = couple
                    .split
                    .map_or((1, 0), |split| (split.width, split.stride));
                stream_coupled::launch_unchecked::<R>(
                    context.client,
                    count,
                    CubeDim::new_1d(32 * blueprint.planes() as u32),
                    address,
                    buffer(lhs),
                    buffer(rhs),
                    buffer(coupling),
                    buffer(out),
                    geometry(),
                    part,
                    part_stride,
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
            Plan::Wgmma(blueprint, count, address) => {
                let rows = [product.batches, product.rows, product.depth];
                let columns = [product.batches, product.columns, product.depth];
                let outputs = [couple.blocks, couple.tokens, couple.rank];
                let (dtype, tokens) = (context.dtype, blueprint.rows);
                let lhs = tensor_map(dtype, lhs, product.lhs, rows, tokens);
                let rhs = tensor_map(dtype, rhs, product.rhs.transposed(), columns, COLUMNS);
                let out = tensor_map(dtype, out, couple.out, outputs, tokens);
                let couplings = [couple.blocks, couple.blocks, couple.rank];
                let piece = [blueprint.piece(), couple.blocks];
                let coupling = box_map(dtype, coupling, couple.coupling, couplings, piece);
                // SAFETY: as above; tensor maps end where the operands do.
                unsafe {
                    coupled_wgmma::launch_unchecked::<R>(
                        context.client,
                        count,
                        CubeDim::new_1d(UNITS as u32),
                        address,
                        group_sums(tokens),
                        lhs,
                        rhs,
                        coupling,
                        out,
                        geometry(),
                        blueprint,
                        context.dtype,
                    );
                }
            }
            Plan::Apart(planned) => {
                let (product, couple) = *planned;
                let operands = ProductOperands {
                    lhs,
                    rhs,
                    bias: None,
                    merged: None,
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
    StreamCoupledBlueprint::new(client, element, couple, depth * element.bytes()).ok()
}
