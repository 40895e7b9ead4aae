//! What a finished directory says of how it was made.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::request::LayerReport;
use super::run_folder::{io, replace};
use super::settings::Settings;
use crate::TrainingError;

/// Name of the file.
pub(super) const RECORD: &str = "report.json";

/// What became of the layers of a directory, and what was asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub made_by: MadeBy,
    pub layers: Vec<LayerReport>,
}

/// Where a directory comes from.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum MadeBy {
    /// A compression.
    Compress(Settings),
    /// The parts that were put together.
    Merge(Vec<String>),
}

impl Record {
    /// Writes it into `folder`.
    pub fn write(&self, folder: &Path) -> Result<(), TrainingError> {
        let path = folder.join(RECORD);
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| io(&path)(std::io::Error::other(error)))?;
        replace(&path, |path| fs::write(path, &text).map_err(io(path)))
    }

    /// Reads that of `folder`.
    pub fn read(folder: &Path) -> Result<Self, TrainingError> {
        let path = folder.join(RECORD);
        let text = fs::read(&path).map_err(io(&path))?;
        serde_json::from_slice(&text).map_err(|error| TrainingError::BrokenRecord {
            path,
            reason: error.to_string(),
        })
    }
}
