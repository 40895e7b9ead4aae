//! Times that `blr bench layers` measured.

use std::path::Path;

use serde::Deserialize;

use crate::error::CommandError;
use crate::roofline::Ceilings;

/// Relative errors from here on are no rounding, whatever the number format: the row is left out.
const WRONG: f64 = 0.1;

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

fn forward() -> String {
    "forward".to_string()
}

/// The error of a row of a list that was written by hand.
fn not_stated() -> Option<f64> {
    Some(0.0)
}

impl Measured {
    /// Reads a report.
    pub fn read(path: &Path) -> Result<Self, CommandError> {
        let unfit = |reason: String| CommandError::NotBenchReport {
            path: path.to_path_buf(),
            reason,
        };
        let text = std::fs::read(path).map_err(|source| CommandError::Io {
            path: path.to_path_buf(),
            source,
        })?;
        let measured: Measured =
            serde_json::from_slice(&text).map_err(|error| unfit(error.to_string()))?;
        let wrong = |row: &&Row| !(row.median_us > 0.0 && row.median_us.is_finite());
        match measured.rows.iter().find(wrong) {
            None => Ok(measured),
            Some(row) => Err(unfit(format!(
                "{} {} at {} tokens: median_us must be above 0",
                row.method, row.layer, row.tokens
            ))),
        }
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
