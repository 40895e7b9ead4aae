//! How long one layer takes, for reports on other things.

use burn_blr::Structure;

use super::operands;
use super::passes::Passes;
use crate::arguments::Pass;
use crate::device::ChosenDevice;
use crate::device_timing;
use crate::error::CommandError;

/// Copies of the operands that calls take turns with. Few: `bench layers` rotates through more than
/// a cache holds, for layers of models that no cache holds.
const COPIES: usize = 4;

/// Fewest timed calls.
const REPETITIONS: usize = 12;

/// The median time in microseconds of a forward pass through a layer with random weights, of
/// `(in, out)` features, on so many tokens.
pub fn layer_us(
    structure: Structure,
    widths: (usize, usize),
    tokens: usize,
    chosen: &ChosenDevice,
) -> Result<f64, CommandError> {
    let (dtype, device) = (chosen.dtype, &chosen.device);
    let operands = (0..COPIES)
        .map(|_| operands::random(structure, widths, tokens, dtype, device))
        .collect::<Result<Vec<_>, _>>()?;
    device_timing::sync(device)?;
    let passes = Passes::new(operands, Pass::Forward, false);
    Ok(device_timing::time(chosen, &passes, REPETITIONS)?.median_us)
}
