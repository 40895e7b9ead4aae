//! Checks and plans an attention, then starts it.

use cubecl::prelude::*;

use super::geometry::{geometry, own_geometry, rows};
use super::kernel::flash::flash_attention;
use super::kernel::single::{clustered_attention, join_shares, single_query_attention};
use super::plan::{AttentionPlan, SingleBlueprint, splits};
use super::problem::{AttentionProblem, Visible};
use super::rotate::Angles;
use crate::context::Context;
use crate::device::{clusters, cube_count, cubes_for_elements};
use crate::error::KernelError;
use crate::operand::{buffer, check_input};
use crate::strategy::Strategy;

/// Units of a cube that joins shares.
const JOINING_UNITS: u32 = 128;

/// Keys and values of the queries' own tokens, which come with them: they become the rows of the cache from
/// `position` on. Rows past its end are left out. A query sees the rows before, and these up to its own.
#[derive(Clone, Debug)]
pub struct OwnTokens<R: Runtime> {
    /// `[batch, key heads, tokens, width]`.
    pub key: TensorBinding<R>,
    /// The same.
    pub value: TensorBinding<R>,
    /// What query and key turn by, where they do; of a single token only.
    pub angles: Option<Angles<R>>,
}

/// Tensors of an attention. All but the features may have any strides.
#[derive(Clone, Debug)]
pub struct Attention<R: Runtime> {
    /// `[batch, heads, tokens, width]`.
    pub query: TensorBinding<R>,
    /// `[batch, key heads, keys, width]`, where the key heads divide the heads.
    pub key: TensorBinding<R>,
    /// `[batch, key heads, keys, width]`.
    pub value: TensorBinding<R>,
    /// How many keys come before the first query, `[1]`, and its integer type. Without, the last
    /// query is at the last key. Only causal attention looks at it.
    pub position: Option<(TensorBinding<R>, ElemType)>,
    /// What is appended to `key` and `value` on the way; attention is causal then.
    pub own: Option<OwnTokens<R>>,
    /// Scratch of [`scratch_elements`] elements of `f32`; may be left out where those are none.
    pub partial: Option<TensorBinding<R>>,
    /// Written, `[batch, heads, tokens, width]`.
    pub output: TensorBinding<R>,
}

/// Elements (`f32`) of scratch that an attention of these sizes needs: where a single query of few
/// heads has many keys, several cubes divide them, and on some devices have to hand over by memory.
pub fn scratch_elements<R: Runtime>(
    client: &ComputeClient<R>,
    [batch, heads, tokens, width]: [usize; 4],
    keys: usize,
) -> usize {
    match (tokens, splits(client, batch * heads, keys)) {
        (1, splits) if splits > 1 && !clusters(client) => batch * heads * splits * (width + 2),
        _ => 0,
    }
}

/// Computes `softmax(scale · query keyᵀ) value` for each head, where query `i` of a causal attention
/// sees the keys up to `position + i`.
///
/// Scores and sums are `f32`; the weights of several queries are rounded to `dtype` before they
/// multiply the values. Keys past the last visible one are not read.
///
/// # Errors
///
/// [`KernelError::Shape`], [`KernelError::Buffer`] or [`KernelError::InvalidConfig`] if a tensor is
/// not as [`Attention`] says, [`KernelError::Unavailable`] if no kernel serves the device, the element
/// type and the layout: several queries need tensor cores, 16-bit elements and heads of up to 128
/// features; appended tokens need rows at multiples of 16 bytes, a single one clusters, several that they
/// do not turn. Nothing is launched then.
pub fn attention<R: Runtime>(
    client: &ComputeClient<R>,
    operands: Attention<R>,
    visible: Visible,
    scale: f64,
    dtype: ElemType,
    strategy: &Strategy,
) -> Result<(), KernelError> {
    let mut context = Context::new(client, dtype, strategy)?;
    let problem = AttentionProblem::new(&mut context, &operands, visible, scale)?;
    if problem.batch * problem.heads * problem.tokens * problem.width == 0 {
        return Ok(());
    }
    if let Some((position, index)) = &operands.position {
        check_input("position", position, &[1], index.size())?;
    }
    let plan = AttentionPlan::new(&context, &problem)?;
    let sizes = [problem.batch, problem.heads, problem.tokens, problem.width];
    let scratch = scratch_elements(client, sizes, problem.keys);
    let partial = match operands.partial {
        Some(partial) if scratch > 0 => {
            check_input("partial", &partial, &[scratch], size_of::<f32>())?;
            Some(partial)
        }
        None if scratch > 0 => {
            return Err(KernelError::Shape {
                operand: "partial",
                expected: vec![scratch],
                actual: Vec::new(),
            });
        }
        _ => None,
    };
    let address = context.address_type(0)?;
    let (heads, batch) = (problem.heads, problem.batch);
    let count = match &plan {
        AttentionPlan::Flash(blueprint) => {
            let tiles = problem.tokens.div_ceil(blueprint.rows());
            cube_count(client, [heads, tiles, batch])?
        }
        AttentionPlan::Single(blueprint) => cube_count(client, [heads, batch, blueprint.splits])?,
    };
    let joining = cubes_for_elements(
        client,
        batch * heads * problem.width,
        JOINING_UNITS as usize,
    )?;
    let index = operands
        .position
        .as_ref()
        .map_or(u32::elem_type_native(), |(_, index)| *index);
    let position = operands.position.map(|(position, _)| buffer(position));
    let (query, key) = (buffer(operands.query), buffer(operands.key));
    let (value, output) = (buffer(operands.value), operands.output);
    // The second and third binding.
    let cache = (
        BufferArg::alias(1, key.len()),
        BufferArg::alias(2, value.len()),
    );
    let (keys, values) = operands.own.is_some().then_some(cache).unzip();
    let (own, angles) = operands
        .own
        .map(|own| ((buffer(own.key), buffer(own.value)), own.angles))
        .unzip();
    let (own_key, own_value) = own.unzip();
    let (cos, sin) = angles
        .flatten()
        .map(|angles| (buffer(angles.cos), buffer(angles.sin)))
        .unzip();
    let clustered =
        |blueprint: &SingleBlueprint| blueprint.own || (blueprint.splits > 1 && partial.is_none());
    match plan {
        // SAFETY: shapes, strides and buffers have been checked; copies outside an operand write
        // zeros instead of reading, and stores are masked.
        AttentionPlan::Flash(blueprint) => unsafe {
            flash_attention::launch_unchecked::<R>(
                client,
                count,
                CubeDim::new_1d(blueprint.units() as u32),
                address,
                query,
                key,
                value,
                position.into(),
                own_key.into(),
                own_value.into(),
                keys.into(),
                values.into(),
                buffer(output),
                geometry(&problem),
                own_geometry(problem.own),
                blueprint,
                dtype,
                index,
            );
        },
        // SAFETY: as above; keys are read up to the last one, and vectors are used only where the
        // width, strides and addresses are multiples of them.
        AttentionPlan::Single(blueprint) if clustered(&blueprint) => unsafe {
            clustered_attention::launch_unchecked::<R>(
                client,
                count,
                CubeDim::new_1d(blueprint.units as u32),
                address,
                blueprint.vector,
                query,
                key,
                value,
                position.into(),
                own_key.into(),
                own_value.into(),
                cos.into(),
                sin.into(),
                keys.into(),
                values.into(),
                buffer(output),
                geometry(&problem),
                own_geometry(problem.own),
                blueprint,
                dtype,
                index,
            );
        },
        // SAFETY: as above.
        AttentionPlan::Single(blueprint) => unsafe {
            single_query_attention::launch_unchecked::<R>(
                client,
                count,
                CubeDim::new_1d(blueprint.units as u32),
                address,
                blueprint.vector,
                query,
                key,
                value,
                position.into(),
                buffer(output.clone()),
                partial.clone().map(buffer).into(),
                geometry(&problem),
                blueprint,
                dtype,
                index,
            );
            if let Some(partial) = partial {
                join_shares::launch_unchecked::<R>(
                    client,
                    joining,
                    CubeDim::new_1d(JOINING_UNITS),
                    address,
                    buffer(partial),
                    buffer(output),
                    heads,
                    batch,
                    rows(problem.out),
                    blueprint,
                    dtype,
                );
            }
        },
    }
    Ok(())
}
