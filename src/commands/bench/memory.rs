//! Device memory that a pass takes.

use burn::tensor::{Device, Tensor};
use burn_blr::{BlrLinear, Structure};

use super::passes;
use crate::arguments::Pass;
use crate::device_timing::sync;
use crate::error::CommandError;

/// Bytes that one pass reserves on the device beyond its operands: results and what is between.
///
/// Taken in the allocator's persistent window, whose blocks fit exactly, after everything unused
/// was given back. Blocks that are freed on the way serve later requests of the same size, so this
/// is the peak where they all live at once, and can be above it where sizes differ. Nothing where
/// the backend does not report its memory.
pub fn beyond_operands(
    device: &Device,
    operands: &(BlrLinear, Tensor<2>),
    pass: Pass,
    plain: bool,
) -> Result<Option<usize>, CommandError> {
    let reserved = || {
        device
            .memory_pool_usage()
            .map(|usage| usage.bytes_reserved as usize)
    };
    sync(device)?;
    device.memory_cleanup();
    let before = reserved();
    let made = device.memory_persistent_allocations((operands.clone(), pass, plain), |input| {
        let (operands, pass, plain) = input;
        passes::run(&operands, pass, plain)
    });
    sync(device)?;
    let after = reserved();
    drop(made);
    Ok(before
        .zip(after)
        .map(|(before, after)| after.saturating_sub(before)))
}

/// Elements of the intermediate of a structure: the result of its first product.
pub fn intermediate_elements(structure: &Structure, tokens: usize) -> usize {
    structure.blocks() * tokens * structure.rank().unwrap_or(0)
}
