//! The folder of an unfinished run: its settings, and a file for each finished layer.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use burn_blr::{BlrLinear, Structure};
use memmap2::Mmap;
use models::{Checkpoint, LinearLayer};
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use super::BlastOptions;
use super::checkpoint::{LayerReport, partial_path};
use super::write::{Factors, decode_layer};
use crate::TrainingError;

/// Key of a part's safetensors metadata that holds its report as JSON.
const REPORT: &str = "report";

/// A finished layer.
pub(super) struct Part {
    pub report: LayerReport,
    pub factors: Factors,
}

/// What a run must share with the one it resumes, as text so that a difference can be shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Settings {
    source: String,
    layers: Vec<(String, String)>,
    blast: String,
    calibration: String,
    device: String,
}

impl Settings {
    pub fn new(
        source: &Checkpoint,
        chosen: &[(LinearLayer, Structure)],
        blast: &BlastOptions,
        calibration: Option<&str>,
        device: &Device,
    ) -> Self {
        let bytes: usize = source.files().iter().map(|file| file.len()).sum();
        Settings {
            source: format!("{} ({bytes} bytes of weights)", source.dir().display()),
            layers: chosen
                .iter()
                .map(|(layer, structure)| (layer.name.clone(), structure.to_string()))
                .collect(),
            blast: format!("{blast:?}"),
            calibration: calibration.unwrap_or("none").to_string(),
            device: format!("{device:?}"),
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
            .or_else(|| text("BLAST options", &self.blast, &other.blast))
            .or_else(|| text("calibration", &self.calibration, &other.calibration))
            .or_else(|| text("device", &self.device, &other.device))
    }
}

/// Folder within the folder of a run that is gone once the run is done.
const WORK: &str = ".blr-run";

/// `OUT.partial`, with the settings and the finished layers in [`WORK`], until it becomes `OUT`.
pub(super) struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Makes the folder, or opens that of an unfinished run with the same settings.
    pub fn open(out: &Path, settings: Settings, resume: bool) -> Result<Self, TrainingError> {
        let folder = RunFolder {
            path: partial_path(out),
        };
        let work = folder.path.join(WORK);
        let run = work.join("run.json");
        if run.exists() {
            if !resume {
                return Err(TrainingError::Unfinished { path: folder.path });
            }
            let text = fs::read(&run).map_err(io(&run))?;
            let found: Settings =
                serde_json::from_slice(&text).map_err(|error| TrainingError::BrokenPart {
                    path: run.clone(),
                    reason: error.to_string(),
                })?;
            return match settings.difference(&found) {
                None => Ok(folder),
                Some((setting, found, expected)) => Err(TrainingError::OtherRun {
                    path: folder.path,
                    setting,
                    found,
                    expected,
                }),
            };
        }
        // A kill before the settings were written leaves an empty work folder; anything else in the
        // way is not ours.
        if folder.path.exists() && !only_work_folder(&folder.path) {
            return Err(TrainingError::OutputExists { path: folder.path });
        }
        fs::create_dir_all(&work).map_err(io(&work))?;
        let text = serde_json::to_vec_pretty(&settings)
            .map_err(|error| io(&run)(std::io::Error::other(error)))?;
        replace(&run, |path| fs::write(path, &text).map_err(io(path)))?;
        Ok(folder)
    }

    /// Where the files of the finished checkpoint are put together.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn part_path(&self, index: usize) -> PathBuf {
        self.path.join(WORK).join(format!("{index:05}.safetensors"))
    }

    /// The report of layer `index` if an earlier run finished it.
    pub fn finished(
        &self,
        index: usize,
        layer: &LinearLayer,
    ) -> Result<Option<LayerReport>, TrainingError> {
        let path = self.part_path(index);
        if !path.exists() {
            return Ok(None);
        }
        let broken = |reason: String| TrainingError::BrokenPart {
            path: path.clone(),
            reason,
        };
        let file = MappedPart::open(path.clone())?;
        let (_, metadata) =
            SafeTensors::read_metadata(&file.map).map_err(|error| broken(error.to_string()))?;
        let report = metadata
            .metadata()
            .as_ref()
            .and_then(|metadata| metadata.get(REPORT));
        let report = report.ok_or_else(|| broken("it has no report".to_string()))?;
        let report: LayerReport =
            serde_json::from_str(report).map_err(|error| broken(error.to_string()))?;
        if report.layer != layer.name {
            return Err(broken(format!(
                "it holds `{}`, not `{}`",
                report.layer, layer.name
            )));
        }
        Ok(Some(report))
    }

    /// Keeps a finished layer.
    pub fn keep(&self, index: usize, part: &Part) -> Result<(), TrainingError> {
        let path = self.part_path(index);
        let report = serde_json::to_string(&part.report)
            .map_err(|error| io(&path)(std::io::Error::other(error)))?;
        let metadata = HashMap::from([(REPORT.to_string(), report)]);
        replace(&path, |path| {
            safetensors::serialize_to_file(part.factors.views(), Some(metadata), path)
                .map_err(|error| io(path)(std::io::Error::other(error)))
        })
    }

    /// Opens the factors of layer `index`.
    pub fn part(&self, index: usize) -> Result<MappedPart, TrainingError> {
        MappedPart::open(self.part_path(index))
    }

    /// Gives the folder its name and removes what only an unfinished run needs.
    pub fn finish(self, out: &Path) -> Result<(), TrainingError> {
        // In this order a kill between the two leaves a complete checkpoint with a folder too many.
        fs::rename(&self.path, out).map_err(io(out))?;
        let work = out.join(WORK);
        fs::remove_dir_all(&work).map_err(io(&work))
    }
}

fn only_work_folder(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|entries| {
        entries
            .into_iter()
            .all(|entry| entry.is_ok_and(|entry| entry.file_name() == WORK))
    })
}

/// A part file, mapped.
pub(super) struct MappedPart {
    path: PathBuf,
    map: Mmap,
}

impl MappedPart {
    fn open(path: PathBuf) -> Result<Self, TrainingError> {
        let file = fs::File::open(&path).map_err(io(&path))?;
        // SAFETY: the map is read only, and the file lies in a folder that belongs to this run;
        // parts are written under another name and renamed, never changed in place.
        let map = unsafe { Mmap::map(&file) }.map_err(io(&path))?;
        Ok(MappedPart { path, map })
    }

    /// The tensors of the file.
    pub fn tensors(&self) -> Result<SafeTensors<'_>, TrainingError> {
        SafeTensors::deserialize(&self.map).map_err(|error| TrainingError::BrokenPart {
            path: self.path.clone(),
            reason: error.to_string(),
        })
    }

    /// `layer` in `f32`, without bias, from the factors of `structure` in the file.
    pub fn layer(
        &self,
        layer: &LinearLayer,
        structure: &Structure,
        device: &Device,
    ) -> Result<BlrLinear, TrainingError> {
        let tensors = self.tensors()?;
        let names = layer.weight_tensors(structure).into_iter();
        let views: Vec<_> = names
            .map(|(name, _)| tensors.tensor(&name))
            .collect::<Result<_, _>>()
            .map_err(|error| TrainingError::BrokenPart {
                path: self.path.clone(),
                reason: error.to_string(),
            })?;
        let dtype = views.first().map_or(Dtype::F32, |view| view.dtype());
        let factors: Vec<_> = views
            .iter()
            .map(|view| (view.shape(), view.data()))
            .collect();
        decode_layer(*structure, dtype, &factors, device)
    }
}

/// Writes a file under another name and renames it, so that it is whole or not there.
pub(crate) fn replace(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), TrainingError>,
) -> Result<(), TrainingError> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    let unfinished = path.with_file_name(name);
    write(&unfinished)?;
    fs::rename(&unfinished, path).map_err(io(path))
}

/// Names the file of a failed operation.
pub(crate) fn io(path: &Path) -> impl Fn(std::io::Error) -> TrainingError {
    let path = path.to_path_buf();
    move |source| TrainingError::Io {
        path: path.clone(),
        source,
    }
}
