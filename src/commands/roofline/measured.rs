//! Times that `blr bench layers` measured.

use std::path::Path;

use serde::Deserialize;

use crate::commands::bench::rows::{self, WRONG, forward};
use crate::error::CommandError;
use crate::roofline::Ceilings;

/// What `blr bench layers --json` wrote.
#[derive(Deserialize)]
pub struct Measured {
    device: String,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    layer: String,
    method: String,
    #[serde(default = "forward")]
    pass: String,
    tokens: usize,
    dtype: String,
    #[serde(default)]
    kernel: String,
    median_us: f64,
    /// Nothing where the output held numbers that are not finite.
    #[serde(default = "not_stated")]
    rel_err: Option<f64>,
}

/// The error of a row of a list that was written by hand.
fn not_stated() -> Option<f64> {
    Some(0.0)
}

impl Measured {
    /// Reads a report.
    pub fn read(path: &Path) -> Result<Self, CommandError> {
        let measured: Measured = rows::read(path)?;
        for row in &measured.rows {
            let what = (row.method.as_str(), row.layer.as_str(), row.tokens);
            rows::check_time(path, what, row.median_us)?;
        }
        Ok(measured)
    }

    /// The device on which it was measured.
    pub fn ceilings(&self, path: &Path) -> Result<&'static Ceilings, CommandError> {
        Ceilings::of(&self.device).ok_or_else(|| CommandError::NotBenchReport {
            path: path.to_path_buf(),
            reason: format!(
                "measured on `{}`, whose limits are not known; known are {}",
                self.device,
                Ceilings::names().collect::<Vec<_>>().join(", ")
            ),
        })
    }

    /// The best time of a forward pass, where it was measured and right; plain operations of Burn do
    /// not count.
    pub fn us(&self, layer: &str, method: &str, tokens: usize, dtype: &str) -> Option<f64> {
        self.rows
            .iter()
            .filter(|row| row.layer == layer && row.method == method && row.dtype == dtype)
            .filter(|row| row.tokens == tokens && row.pass == "forward" && row.kernel != "plain")
            .filter(|row| row.rel_err.is_some_and(|error| error < WRONG))
            .map(|row| row.median_us)
            .min_by(f64::total_cmp)
    }
}
