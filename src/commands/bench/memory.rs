//! Device memory that a pass takes.

use burn::tensor::Device;
use burn_blr::Structure;

use crate::device_timing::sync;
use crate::error::CommandError;

/// Bytes that `pass` reserves on the device beyond what there is: results and what is between.
///
/// Taken in the allocator's persistent window, whose blocks fit exactly, after everything unused
/// was given back. Blocks that are freed on the way serve later requests of the same size, so this
/// is the peak where they all live at once, and can be above it where sizes differ. Nothing where
/// the backend does not report its memory.
pub fn reserved_by<I: Send, O: Send>(
    device: &Device,
    input: I,
    pass: impl Fn(I) -> O + Send,
) -> Result<Option<usize>, CommandError> {
    let reserved = || {
        device
            .memory_pool_usage()
            .map(|usage| usage.bytes_reserved as usize)
    };
    sync(device)?;
    device.memory_cleanup();
    let before = reserved();
    let made = device.memory_persistent_allocations(input, pass);
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
