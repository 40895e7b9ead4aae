//! What reports of `bench layers` have in common for those who read them.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::CommandError;

/// Relative errors from here on are no rounding, whatever the number format: the row is left out.
pub const WRONG: f64 = 0.1;

/// The pass of a row that does not say.
pub fn forward() -> String {
    "forward".to_string()
}

/// Reads a report as far as `T` knows it.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, CommandError> {
    let text = std::fs::read(path).map_err(|source| CommandError::Io {
        path: path.to_path_buf(),
        source,
    })?;
    serde_json::from_slice(&text).map_err(|error| CommandError::NotBenchReport {
        path: path.to_path_buf(),
        reason: error.to_string(),
    })
}

/// Checks the time of a row.
pub fn check_time(
    path: &Path,
    (method, layer, tokens): (&str, &str, usize),
    median_us: f64,
) -> Result<(), CommandError> {
    if median_us > 0.0 && median_us.is_finite() {
        return Ok(());
    }
    Err(CommandError::NotBenchReport {
        path: path.to_path_buf(),
        reason: format!("{method} {layer} at {tokens} tokens: median_us must be above 0"),
    })
}
