//! What a run was asked to do.

use std::path::Path;

use burn_blr::Structure;
use models::LinearLayer;
use serde::{Deserialize, Serialize};

use super::request::CompressRequest;
use crate::TrainingError;

/// What a run must share with the one it resumes, as text so that a difference can be shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Settings {
    source: String,
    layers: Vec<(String, String)>,
    ranks: String,
    blast: String,
    calibration: String,
    device: String,
    /// Of the output: the whole checkpoint, or a part.
    extent: String,
}

impl Settings {
    /// The settings of a request, its layers as the plan has them.
    pub fn new(
        request: &CompressRequest<'_>,
        chosen: &[(LinearLayer, Structure)],
        calibration: Option<&str>,
    ) -> Self {
        let source = request.source;
        let bytes: usize = source.files().iter().map(|file| file.len()).sum();
        Settings {
            source: format!("{} ({bytes} bytes of weights)", source.dir().display()),
            layers: chosen
                .iter()
                .map(|(layer, structure)| (layer.name.clone(), structure.to_string()))
                .collect(),
            ranks: format!("{:?}", request.ranks).to_lowercase(),
            blast: format!("{:?}", request.blast),
            calibration: calibration.unwrap_or("none").to_string(),
            device: format!("{:?}", request.device),
            extent: format!("{:?}", request.extent()).to_lowercase(),
        }
    }

    /// The first setting that differs: its name, and its value in `other` and in `self`.
    fn difference(&self, other: &Settings) -> Option<(&'static str, String, String)> {
        let layer = self
            .layers
            .iter()
            .map(Some)
            .chain(std::iter::repeat(None))
            .zip(other.layers.iter().map(Some).chain(std::iter::repeat(None)))
            .take(self.layers.len().max(other.layers.len()))
            .find(|(here, there)| here != there)
            .map(|(here, there)| {
                let text = |layer: Option<&(String, String)>| match layer {
                    Some((name, structure)) => format!("{name} as {structure}"),
                    None => "no such layer".to_string(),
                };
                ("layers", text(there), text(here))
            });
        let text = |name, here: &dyn ToString, there: &dyn ToString| {
            let (here, there) = (here.to_string(), there.to_string());
            (here != there).then_some((name, there, here))
        };
        text("source", &self.source, &other.source)
            .or(layer)
            .or_else(|| text("ranks", &self.ranks, &other.ranks))
            .or_else(|| text("BLAST options", &self.blast, &other.blast))
            .or_else(|| text("calibration", &self.calibration, &other.calibration))
            .or_else(|| text("device", &self.device, &other.device))
            .or_else(|| text("output", &self.extent, &other.extent))
    }

    /// Fails unless the run in `path`, which was for `found`, was for the same.
    pub fn expect(&self, found: &Settings, path: &Path) -> Result<(), TrainingError> {
        match self.difference(found) {
            None => Ok(()),
            Some((setting, found, expected)) => Err(TrainingError::OtherRun {
                path: path.to_path_buf(),
                setting,
                found,
                expected,
            }),
        }
    }
}
