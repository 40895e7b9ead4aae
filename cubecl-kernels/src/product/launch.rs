//! Plans a product, then starts it.

use cubecl::prelude::*;
use cubecl::zspace::{shape, strides};

use super::choice::{Choice, key, shortlist};
use super::kernel::geometry::{AxesLaunch, GeometryLaunch};
use super::kernel::mma::mma_product;
use super::kernel::naive::naive_product;
use super::kernel::shared_depth::wgmma_shared_depth;
use super::kernel::tiled::tiled_product;
use super::kernel::wgmma::wgmma_product;
use super::plan::ProductPlan;
use super::problem::ProductProblem;
use super::wgmma_plan::{DEPTH, GROUP_ROWS, ROWS, UNITS, WgmmaStore};
use crate::context::Context;
use crate::device::{check_cube, cube_count, cubes_for_elements};
use crate::error::KernelError;
use crate::operand::{View, buffer};
use crate::ptx::group_sums;
use crate::strategy::Strategy;
use crate::stream::kernel::{stream_gated, stream_product};
use crate::stream::plan::StreamBlueprint;
use crate::tuning;

/// Units per cube of the naive kernel.
const NAIVE_UNITS: u32 = 256;

/// The tensors of a product. Their strides are those of the problem.
pub(crate) struct ProductOperands<R: Runtime> {
    /// `A`.
    pub lhs: TensorBinding<R>,
    /// `B`.
    pub rhs: TensorBinding<R>,
    /// Added to each row of `C`.
    pub bias: Option<TensorBinding<R>>,
    /// Merged with `C`.
    pub merged: Option<TensorBinding<R>>,
    /// `C`.
    pub out: TensorBinding<R>,
}

impl<R: Runtime> Clone for ProductOperands<R> {
    fn clone(&self) -> Self {
        Self {
            lhs: self.lhs.clone(),
            rhs: self.rhs.clone(),
            bias: self.bias.clone(),
            merged: self.merged.clone(),
            out: self.out.clone(),
        }
    }
}

/// A product that is known to run: launching it can not fail.
#[derive(Clone)]
pub(crate) struct PlannedProduct {
    problem: ProductProblem,
    plan: ProductPlan,
    count: CubeCount,
    address: AddressType,
    /// Key of the measurement that is still to be made.
    unmeasured: Option<String>,
}

impl PlannedProduct {
    /// Plans `problem`, whose operands have been checked in `context`.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device can not run what the strategy asks for.
    pub fn new<R: Runtime>(
        context: &Context<'_, R>,
        problem: ProductProblem,
    ) -> Result<Self, KernelError> {
        let client = context.client;
        let model = ProductPlan::new(
            client,
            &problem,
            context.dtype,
            context.element_bytes,
            context.strategy,
        )?;
        let outputs = problem.batches * problem.rows * problem.columns;
        let mut planned = Self {
            problem,
            plan: model,
            count: cubes(client, &problem, &model)?,
            address: context.address_type(outputs)?,
            unmeasured: None,
        };
        if *context.strategy == Strategy::Tuned {
            let key = key(context, &problem);
            match tuning::known(client, &key) {
                Some(number) => planned.choose(context, number),
                None => planned.unmeasured = Some(key),
            }
        }
        Ok(planned)
    }

    /// Takes the plan with this number instead of that of the cost model, if it can run.
    fn choose<R: Runtime>(&mut self, context: &Context<'_, R>, number: usize) {
        let Some(choice) = Choice::all().nth(number) else {
            return;
        };
        // All problems of a key can run the same plans, but for how the key rounds tokens.
        if let Ok((plan, _)) = choice.plan(context, &self.problem, self.plan)
            && let Ok(count) = cubes(context.client, &self.problem, &plan)
        {
            (self.plan, self.count) = (plan, count);
        }
    }

    /// Measures the plans for this product on its operands, where that is still to be done, and
    /// takes the fastest.
    pub fn settle<R: Runtime>(&mut self, context: &Context<'_, R>, operands: &ProductOperands<R>) {
        let Some(key) = self.unmeasured.take() else {
            return;
        };
        let candidates = shortlist(context, &self.problem, self.plan);
        let candidates = candidates.into_iter().filter_map(|(number, plan)| {
            let count = cubes(context.client, &self.problem, &plan).ok()?;
            let planned = Self {
                plan,
                count,
                ..self.clone()
            };
            Some((number, planned))
        });
        let names: Vec<String> = Choice::all().map(Choice::name).collect();
        let others = operands.clone();
        let measured = tuning::measure(
            context,
            &key,
            &names,
            candidates.collect(),
            &operands.rhs,
            move |planned: &Self, context, rhs| {
                let others = others.clone();
                planned
                    .clone()
                    .launch(context, ProductOperands { rhs, ..others });
            },
        );
        if let Some(number) = measured {
            self.choose(context, number);
        }
    }

    /// Starts the product and returns at once, unless its plans are to be measured first.
    pub fn launch<R: Runtime>(mut self, context: &Context<'_, R>, operands: ProductOperands<R>) {
        self.settle(context, &operands);
        let (client, dtype) = (context.client, context.dtype);
        let Self {
            problem,
            plan,
            count,
            address,
            ..
        } = self;
        let target = operands.out.clone();
        let (bias, merged) = (operands.bias.map(buffer), operands.merged.map(buffer));
        let out = buffer(operands.out);
        let (lhs, rhs) = (operands.lhs, operands.rhs);
        match plan {
            ProductPlan::Wgmma(blueprint) => {
                let units = CubeDim::new_1d(UNITS as u32);
                let rows = [problem.batches, problem.rows, problem.depth];
                let columns = [problem.batches, problem.columns, problem.depth];
                let lhs = tensor_map(dtype, lhs, problem.lhs, rows, ROWS);
                let view = problem.rhs.transposed();
                let rhs = tensor_map(dtype, rhs, view, columns, blueprint.columns);
                let mapped = match blueprint.store {
                    WgmmaStore::Mapped(columns) => {
                        Some(output_map(dtype, target.clone(), &problem, columns))
                    }
                    WgmmaStore::Copied(_) => None,
                };
                // SAFETY: the operands' shapes, strides and buffers have been checked by the context
                // that the plan was made in; tensor maps end where the operands do, stores are masked,
                // and several elements are stored at once only where sizes, strides and addresses are
                // multiples of their number.
                unsafe {
                    if blueprint.shares > 1 {
                        return wgmma_shared_depth::launch_unchecked::<R>(
                            client,
                            count,
                            units,
                            address,
                            group_sums(blueprint.columns),
                            lhs,
                            rhs,
                            bias.into(),
                            merged.into(),
                            out,
                            geometry(&problem),
                            blueprint,
                            dtype,
                        );
                    }
                    wgmma_product::launch_unchecked::<R>(
                        client,
                        count,
                        units,
                        address,
                        group_sums(blueprint.columns),
                        lhs,
                        rhs,
                        bias.into(),
                        merged.into(),
                        mapped.into(),
                        out,
                        geometry(&problem),
                        blueprint,
                        dtype,
                    );
                }
            }
            // SAFETY: the operands' shapes, strides and buffers have been checked by the context
            // that the plan was made in, and the kernel reads and writes no element outside them:
            // it ends beyond the last output, and sums over the depth alone.
            ProductPlan::Naive => unsafe {
                naive_product::launch_unchecked::<R>(
                    client,
                    count,
                    CubeDim::new_1d(NAIVE_UNITS),
                    address,
                    buffer(lhs),
                    buffer(rhs),
                    bias.into(),
                    merged.into(),
                    out,
                    geometry(&problem),
                    problem.split.is_some(),
                    problem.finish,
                    dtype,
                );
            },
            // SAFETY: as above; loads and stores are masked by the sizes of the problem, and the
            // plan uses vectors only where sizes, strides and addresses are multiples of them.
            ProductPlan::Tiled(blueprint) => unsafe {
                tiled_product::launch_unchecked::<R>(
                    client,
                    count,
                    CubeDim::new_1d(blueprint.tile.units() as u32),
                    address,
                    blueprint.lhs.vector,
                    blueprint.rhs.vector,
                    blueprint.out_vector,
                    buffer(lhs),
                    buffer(rhs),
                    bias.into(),
                    merged.into(),
                    out,
                    geometry(&problem),
                    blueprint,
                    dtype,
                );
            },
            // SAFETY: as above; copies outside the operands write zeros instead of reading, stores
            // are masked, and runs of several elements are copied or stored only where sizes,
            // strides and addresses are multiples of them.
            ProductPlan::Mma(blueprint) => unsafe {
                mma_product::launch_unchecked::<R>(
                    client,
                    count,
                    CubeDim::new_1d(blueprint.tile.units() as u32),
                    address,
                    buffer(lhs),
                    buffer(rhs),
                    bias.into(),
                    merged.into(),
                    out,
                    geometry(&problem),
                    blueprint,
                    dtype,
                );
            },
            // SAFETY: as above; copies of lines past the end are clamped to the last one, those past
            // the depth or the tokens write zeros instead of reading, and stores are masked.
            ProductPlan::Stream(blueprint) => unsafe {
                stream_product::launch_unchecked::<R>(
                    client,
                    count,
                    CubeDim::new_1d(32 * blueprint.planes() as u32),
                    address,
                    buffer(lhs),
                    buffer(rhs),
                    bias.into(),
                    merged.into(),
                    out,
                    geometry(&problem),
                    blueprint,
                    dtype,
                );
            },
        }
    }
}

/// How two products of few tokens are one kernel.
pub(super) struct Gating {
    blueprint: StreamBlueprint,
    count: CubeCount,
}

impl PlannedProduct {
    /// How this product and `other`, which it gates, are one kernel for few tokens, if they can be.
    pub(super) fn gating<R: Runtime>(
        &self,
        context: &Context<'_, R>,
        other: &PlannedProduct,
    ) -> Option<Gating> {
        let (ProductPlan::Stream(blueprint), ProductPlan::Stream(_)) = (self.plan, other.plan)
        else {
            return None;
        };
        let strides = |view: View| [view.batch, view.row, view.column];
        let sizes = |problem: &ProductProblem| {
            let ProductProblem {
                batches,
                rows,
                columns,
                depth,
                bias,
                ..
            } = *problem;
            let views = [problem.lhs, problem.rhs, problem.out].map(strides);
            ([batches, rows, columns, depth], views, bias)
        };
        if sizes(&self.problem) != sizes(&other.problem) {
            return None;
        }
        let client = context.client;
        let blueprint = blueprint.gated(client, &self.problem).ok()?;
        let cubes = blueprint.cubes(client, &self.problem, 2);
        let count = cube_count(client, [cubes, 1, 1]).ok()?;
        Some(Gating { blueprint, count })
    }

    /// Starts this product and the one that it gates as [one kernel](Self::gating).
    pub(super) fn launch_gated<R: Runtime>(
        self,
        context: &Context<'_, R>,
        Gating { blueprint, count }: Gating,
        [gate, other]: [ProductOperands<R>; 2],
    ) {
        // SAFETY: the operands' shapes, strides and buffers have been checked by the context that the
        // plan was made in; copies of lines past the end are clamped to the last one, those past the
        // depth or the tokens write zeros instead of reading, and stores are masked.
        unsafe {
            stream_gated::launch_unchecked::<R>(
                context.client,
                count,
                CubeDim::new_1d(2 * 32 * blueprint.planes() as u32),
                self.address,
                buffer(gate.lhs),
                buffer(gate.rhs),
                gate.bias.map(buffer).into(),
                buffer(other.lhs),
                buffer(other.rhs),
                other.bias.map(buffer).into(),
                buffer(other.out),
                geometry(&self.problem),
                blueprint,
                context.dtype,
            );
        }
    }
}

/// Cubes of `plan` for `problem`.
///
/// # Errors
///
/// [`KernelError::Unavailable`] if the device launches fewer.
fn cubes<R: Runtime>(
    client: &ComputeClient<R>,
    problem: &ProductProblem,
    plan: &ProductPlan,
) -> Result<CubeCount, KernelError> {
    match plan {
        ProductPlan::Naive => {
            check_cube(client, NAIVE_UNITS as usize, 0)?;
            let outputs = problem.batches * problem.rows * problem.columns;
            cubes_for_elements(client, outputs, NAIVE_UNITS as usize)
        }
        ProductPlan::Tiled(blueprint) => cube_count(client, blueprint.tile.cubes(problem)),
        ProductPlan::Mma(blueprint) => cube_count(client, blueprint.cubes(problem)),
        ProductPlan::Wgmma(blueprint) => {
            cube_count(client, [blueprint.cubes(client, problem), 1, 1])
        }
        ProductPlan::Stream(blueprint) => {
            cube_count(client, [blueprint.cubes(client, problem, 1), 1, 1])
        }
    }
}

/// A tensor map of `[batch, line, depth]` that copies `lines` lines of a batch by 128 bytes at a time,
/// with what lies outside as zeros.
pub(crate) fn tensor_map<R: Runtime>(
    dtype: ElemType,
    binding: TensorBinding<R>,
    view: View,
    shape: [usize; 3],
    lines: usize,
) -> TensorMapArg<R, Tiled> {
    box_map(dtype, binding, view, shape, [1, lines])
}

/// As [`tensor_map`], of so many batches and lines of each at a time.
pub(crate) fn box_map<R: Runtime>(
    dtype: ElemType,
    binding: TensorBinding<R>,
    view: View,
    [batches, lines, depth]: [usize; 3],
    [box_batches, box_lines]: [usize; 2],
) -> TensorMapArg<R, Tiled> {
    // A single block may have any stride but zero.
    let batch = if batches == 1 {
        lines * view.row
    } else {
        view.batch
    };
    let tensor = TensorBinding {
        shape: shape![batches, lines, depth],
        strides: strides![batch, view.row, 1],
        ..binding
    };
    let box_of = TiledArgs {
        tile_size: shape![box_batches, box_lines, DEPTH],
    };
    TensorMapArg::new(box_of, tensor.into_tensor_arg(), dtype).with_swizzle(TensorMapSwizzle::B128)
}

/// A tensor map of `C` as `[batch, row, part, column]` that stores the rows of a group by `columns`
/// columns at a time and leaves out what lies outside.
pub(crate) fn output_map<R: Runtime>(
    dtype: ElemType,
    binding: TensorBinding<R>,
    problem: &ProductProblem,
    columns: usize,
) -> TensorMapArg<R, Tiled> {
    let out = problem.out;
    let batch = if problem.batches == 1 {
        problem.rows * out.row
    } else {
        out.batch
    };
    let (width, stride) = match problem.split {
        Some(split) => (split.width, split.stride),
        // A single part may have any stride.
        None => (problem.columns, out.row),
    };
    let tensor = TensorBinding {
        shape: shape![
            problem.batches,
            problem.rows,
            problem.columns / width,
            width
        ],
        strides: strides![batch, out.row, stride, 1],
        ..binding
    };
    let box_of = TiledArgs {
        tile_size: shape![1, GROUP_ROWS, 1, columns],
    };
    let swizzle = match columns {
        64 => TensorMapSwizzle::B128,
        32 => TensorMapSwizzle::B64,
        _ => TensorMapSwizzle::B32,
    };
    TensorMapArg::new(box_of, tensor.into_tensor_arg(), dtype).with_swizzle(swizzle)
}

pub(crate) fn geometry<R: Runtime>(problem: &ProductProblem) -> GeometryLaunch<R> {
    let axes = |view: View| AxesLaunch::new(view.batch, view.row, view.column);
    let (part, part_stride) = problem
        .split
        .map_or((1, 0), |split| (split.width, split.stride));
    let (bias_batch, bias_column) = problem
        .bias
        .map_or((0, 0), |bias| (bias.batch, bias.column));
    GeometryLaunch::new(
        problem.batches,
        problem.rows,
        problem.columns,
        problem.depth,
        axes(problem.lhs),
        axes(problem.rhs),
        axes(problem.out),
        axes(problem.merged),
        part,
        part_stride,
        bias_batch,
        bias_column,
    )
}
