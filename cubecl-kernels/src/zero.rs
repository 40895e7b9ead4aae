//! Writes zeros: the gradients of factors when there are no tokens.

use cubecl::prelude::*;

use crate::context::Context;
use crate::device::{check_cube, cubes_for_elements};
use crate::error::KernelError;
use crate::operand::buffer;

const UNITS: u32 = 256;

/// Zeroes one element of a strided `[d0, d1, d2]` per unit.
#[cube(launch_unchecked, address_type = "dynamic")]
fn zero_elements<T: Float>(
    out: &mut [T],
    d0: usize,
    d1: usize,
    d2: usize,
    stride0: usize,
    stride1: usize,
    stride2: usize,
    #[define(T)] _dtype: ElemType,
) {
    let position = ABSOLUTE_POS;
    if position >= d0 * d1 * d2 {
        terminate!();
    }
    let offset = (position / (d1 * d2)) * stride0
        + ((position / d2) % d1) * stride1
        + (position % d2) * stride2;
    out[offset] = T::from_int(0);
}

/// Writes zeros to checked tensors of two or three axes.
///
/// # Errors
///
/// [`KernelError::Unavailable`] if the device is too small; nothing is launched then.
pub(crate) fn fill_zero<R: Runtime, const N: usize>(
    context: &Context<'_, R>,
    tensors: [TensorBinding<R>; N],
) -> Result<(), KernelError> {
    check_cube(context.client, UNITS as usize, 0)?;
    let mut launches = Vec::with_capacity(N);
    for tensor in tensors {
        let elements = tensor.size();
        let count = cubes_for_elements(context.client, elements, UNITS as usize)?;
        launches.push((tensor, count, context.address_type(elements)?));
    }
    for (tensor, count, address) in launches {
        let axes = tensor.shape.iter().zip(tensor.strides.iter());
        let mut padded = [(1, 0); 3];
        for (place, (size, stride)) in padded.iter_mut().rev().zip(axes.rev()) {
            *place = (*size, *stride);
        }
        let [(d0, s0), (d1, s1), (d2, s2)] = padded;
        // SAFETY: shape, strides and buffer have been checked by the context, and units beyond
        // the last element end at once.
        unsafe {
            zero_elements::launch_unchecked::<R>(
                context.client,
                count,
                CubeDim::new_1d(UNITS),
                address,
                buffer(tensor),
                d0,
                d1,
                d2,
                s0,
                s1,
                s2,
                context.dtype,
            );
        }
    }
    Ok(())
}
