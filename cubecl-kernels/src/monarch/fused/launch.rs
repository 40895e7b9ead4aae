//! Plans the fused kernel, then starts it.

use cubecl::prelude::*;

use super::kernel::fused_monarch;
use super::plan::{FusedBlueprint, UNITS};
use crate::context::Context;
use crate::device::{cube_count, mma_element};
use crate::epilogue::Epilogue;
use crate::error::KernelError;
use crate::operand::buffer;
use crate::product::wgmma_plan::{ROWS, WgmmaBlueprint, WgmmaStore};
use crate::product::{ProductProblem, geometry, output_map, tensor_map};
use crate::ptx::{group_sums, held_words};
use crate::strategy::Strategy;
use crate::stream::plan::StreamBlueprint;

/// What a second launch takes beyond its products: seconds, and bytes of `Z` per second to memory and
/// back. Fitted to the times of the layers of the paper's Llama, GPT-2 and ViT on one H100.
const HANDOVER_SECONDS: f64 = 0.5e-6;
const HANDOVER_RATE: f64 = 8.0e12;

/// Seconds that both products should take one after the other, by the tensor cores of the fused
/// kernel; none where such products are not the choice anyway.
fn seconds_apart<R: Runtime>(
    context: &Context<'_, R>,
    inner: &ProductProblem,
    output: &ProductProblem,
) -> Option<f64> {
    let (client, dtype) = (context.client, context.dtype);
    let element = mma_element(client, dtype).ok()?;
    let seconds = |problem: &ProductProblem| {
        let few = StreamBlueprint::new(client, problem, element).ok()?;
        let tiles = WgmmaBlueprint::for_problem(client, problem, dtype, element).ok()?;
        few.is_none().then_some(tiles.1)
    };
    let class = inner.with_rounded_tokens();
    let handed = 2 * class.batches * class.rows * class.columns * context.element_bytes;
    let handover = HANDOVER_SECONDS + handed as f64 / HANDOVER_RATE;
    Some(seconds(inner)? + seconds(output)? + handover)
}

/// A fused product that is known to run: launching it can not fail.
pub(in crate::monarch) struct PlannedFused {
    inner: ProductProblem,
    output: ProductProblem,
    blueprint: FusedBlueprint,
    count: CubeCount,
    address: AddressType,
}

/// The tensors of a fused product. Their strides are those of the problems.
pub(in crate::monarch) struct FusedOperands<R: Runtime> {
    pub input: TensorBinding<R>,
    pub right: TensorBinding<R>,
    pub left: TensorBinding<R>,
    pub epilogue: Epilogue<R>,
    pub out: TensorBinding<R>,
}

impl PlannedFused {
    /// The plan if the strategy asks for it, or leaves the choice and it should be the faster one.
    ///
    /// # Errors
    ///
    /// As [`PlannedFused::new`], if the strategy asks for it.
    pub fn chosen<R: Runtime>(
        context: &Context<'_, R>,
        inner: ProductProblem,
        output: ProductProblem,
    ) -> Result<Option<Self>, KernelError> {
        let planned = || Self::new(context, inner, output);
        match context.strategy {
            Strategy::Fused => planned().map(Some),
            Strategy::Auto | Strategy::Tuned => {
                let Some(apart) = seconds_apart(context, &inner, &output) else {
                    return Ok(None);
                };
                let faster = |fused: &Self| {
                    let class = output.with_rounded_tokens();
                    fused.blueprint.seconds(context.client, &inner, &class) < apart
                };
                Ok(planned().ok().filter(faster))
            }
            Strategy::Naive | Strategy::Tiled | Strategy::TensorCores | Strategy::Hopper => {
                Ok(None)
            }
        }
    }

    /// Plans the products of a Monarch layer, `inner` and `output`, whose operands have been checked
    /// in `context`; what they say of memory for `Z` is not used.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device, the operands or the sizes rule it out.
    pub fn new<R: Runtime>(
        context: &Context<'_, R>,
        inner: ProductProblem,
        output: ProductProblem,
    ) -> Result<Self, KernelError> {
        let client = context.client;
        let element = mma_element(client, context.dtype)?;
        let candidate =
            |problem| WgmmaBlueprint::candidate(0, client, problem, context.dtype, element);
        // What the first product asks of the input and of the right factor.
        candidate(&inner)?;
        let (tile, _) = candidate(&output)?;
        let part = inner.columns / output.batches;
        let blueprint = FusedBlueprint::new(client, tile, part, inner.batches)?;
        let cubes = blueprint.output.cubes(client, &output);
        let count = cube_count(client, [cubes, 1, 1])?;
        let outputs = output.batches * output.rows * output.columns;
        Ok(Self {
            inner,
            output,
            blueprint,
            count,
            address: context.address_type(outputs)?,
        })
    }

    /// Starts the product and returns at once.
    pub fn launch<R: Runtime>(self, context: &Context<'_, R>, operands: FusedOperands<R>) {
        let Self {
            inner,
            output,
            blueprint,
            count,
            address,
        } = self;
        let (client, dtype) = (context.client, context.dtype);
        let FusedBlueprint {
            output: tile, part, ..
        } = blueprint;
        let tokens = [inner.batches, inner.rows, inner.depth];
        let inner_columns = [inner.batches, inner.columns, inner.depth];
        let columns = [output.batches, output.columns, output.depth];
        let input = tensor_map(dtype, operands.input, inner.lhs, tokens, ROWS);
        let right = inner.rhs.transposed();
        let right = tensor_map(dtype, operands.right, right, inner_columns, part);
        let left = output.rhs.transposed();
        let left = tensor_map(dtype, operands.left, left, columns, tile.columns);
        let Epilogue { bias, merged, .. } = operands.epilogue;
        let (bias, merged) = (bias.map(buffer), merged.map(|(_, merged)| buffer(merged)));
        let mapped = match tile.store {
            WgmmaStore::Mapped(columns) => {
                Some(output_map(dtype, operands.out.clone(), &output, columns))
            }
            WgmmaStore::Copied(_) => None,
        };
        // SAFETY: the operands' shapes, strides and buffers have been checked by the context that the
        // plan was made in; tensor maps end where the operands do, stores are masked, and several
        // elements are stored at once only where sizes, strides and addresses are multiples of their
        // number.
        unsafe {
            fused_monarch::launch_unchecked::<R>(
                client,
                count,
                CubeDim::new_1d(UNITS as u32),
                address,
                group_sums(tile.columns),
                group_sums(part),
                held_words(blueprint.part_steps()),
                input,
                right,
                left,
                bias.into(),
                merged.into(),
                mapped.into(),
                buffer(operands.out),
                geometry(&output),
                inner.batches as u32,
                inner.depth as u32,
                blueprint,
                dtype,
            );
        }
    }
}
