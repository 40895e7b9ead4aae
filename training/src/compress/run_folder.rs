//! The folder of an unfinished run: its settings, and a file for each finished layer.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use burn_blr::{BlrLinear, Structure};
use models::{Entry, LinearLayer, Plan, WeightFile};
use safetensors::Dtype;

use super::factors::{Factors, decode_layer};
use super::record::{MadeBy, Record};
use super::request::{LayerReport, partial_path};
use super::settings::Settings;
use super::shard;
use crate::TrainingError;

/// Key of the metadata of a layer's file that holds its report as JSON.
const REPORT: &str = "report";

/// A finished layer.
pub(super) struct FinishedLayer {
    pub report: LayerReport,
    pub factors: Factors,
}

/// Folder within the folder of a run that is gone once the run is done.
const WORK: &str = ".blr-run";

/// The settings of a run, in [`WORK`].
const SETTINGS: &str = "run.json";

/// The ranks that a run chose, in [`WORK`].
const PLAN: &str = "plan.toml";

/// What stands in their place where the folder is that of a merge.
const MERGE: &str = "merge";

/// `OUT.partial`, with the settings and the finished layers in [`WORK`], until it becomes `OUT`.
pub(super) struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Makes the folder, or opens that of an unfinished run with the same settings.
    pub fn open(out: &Path, settings: &Settings, resume: bool) -> Result<Self, TrainingError> {
        let folder = RunFolder {
            path: partial_path(out),
        };
        let work = folder.path.join(WORK);
        let run = work.join(SETTINGS);
        if run.exists() {
            if !resume {
                return Err(TrainingError::Unfinished { path: folder.path });
            }
            let text = fs::read(&run).map_err(io(&run))?;
            let found: Settings =
                serde_json::from_slice(&text).map_err(|error| TrainingError::BrokenLayer {
                    path: run.clone(),
                    reason: error.to_string(),
                })?;
            settings.expect(&found, &folder.path)?;
            return Ok(folder);
        }
        // A kill before the settings were written leaves an empty work folder; anything else in the
        // way is not ours.
        if folder.path.exists() && !only_work_folder(&folder.path) {
            return Err(TrainingError::OutputExists { path: folder.path });
        }
        fs::create_dir_all(&work).map_err(io(&work))?;
        let text = serde_json::to_vec_pretty(settings)
            .map_err(|error| io(&run)(std::io::Error::other(error)))?;
        replace(&run, |path| fs::write(path, &text).map_err(io(path)))?;
        Ok(folder)
    }

    /// Makes the folder for work that begins from nothing each time, and removes what an unfinished
    /// one before it left.
    pub fn start_over(out: &Path) -> Result<Self, TrainingError> {
        let folder = RunFolder {
            path: partial_path(out),
        };
        let work = folder.path.join(WORK);
        let marker = work.join(MERGE);
        if marker.exists() {
            for entry in fs::read_dir(&folder.path).map_err(io(&folder.path))? {
                let path = entry.map_err(io(&folder.path))?.path();
                if path != work {
                    fs::remove_file(&path).map_err(io(&path))?;
                }
            }
        } else if work.join(SETTINGS).exists()
            || folder.path.exists() && !only_work_folder(&folder.path)
        {
            return Err(TrainingError::OutputExists { path: folder.path });
        }
        fs::create_dir_all(&work).map_err(io(&work))?;
        fs::write(&marker, []).map_err(io(&marker))?;
        Ok(folder)
    }

    /// Where the files of the finished checkpoint are put together.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The plan that an earlier run kept, or else that of `choose`, which is kept.
    pub fn plan(
        &self,
        choose: impl FnOnce() -> Result<Plan, TrainingError>,
    ) -> Result<Plan, TrainingError> {
        let path = self.path.join(WORK).join(PLAN);
        if path.exists() {
            return Ok(Plan::open(&path)?);
        }
        let plan = choose()?;
        let text = plan.to_toml()?;
        replace(&path, |path| fs::write(path, &text).map_err(io(path)))?;
        Ok(plan)
    }

    fn layer_path(&self, index: usize) -> PathBuf {
        self.path.join(WORK).join(format!("{index:05}.safetensors"))
    }

    /// The report of layer `index` if an earlier run finished it.
    pub fn finished(
        &self,
        index: usize,
        layer: &LinearLayer,
    ) -> Result<Option<LayerReport>, TrainingError> {
        let path = self.layer_path(index);
        if !path.exists() {
            return Ok(None);
        }
        let broken = |reason: String| TrainingError::BrokenLayer {
            path: path.clone(),
            reason,
        };
        let file = LayerFile::open(path.clone())?;
        let report = file.file.metadata(REPORT);
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
    pub fn keep(&self, index: usize, layer: &FinishedLayer) -> Result<(), TrainingError> {
        let path = self.layer_path(index);
        let report = serde_json::to_string(&layer.report)
            .map_err(|error| io(&path)(std::io::Error::other(error)))?;
        shard::write(&path, layer.factors.outputs(), (REPORT, report)).map(drop)
    }

    /// Opens the factors of layer `index`.
    pub fn layer_file(&self, index: usize) -> Result<LayerFile, TrainingError> {
        LayerFile::open(self.layer_path(index))
    }

    /// Gives the folder its name and removes what only an unfinished run needs.
    ///
    /// A kill between the two leaves a complete checkpoint with a folder too many, which
    /// [`finished_run`] removes.
    pub fn finish(self, out: &Path) -> Result<(), TrainingError> {
        fs::rename(&self.path, out).map_err(io(out))?;
        remove_work(out)
    }
}

/// The reports of the run with these settings that made `out`.
pub(super) fn finished_run(
    out: &Path,
    settings: &Settings,
) -> Result<Vec<LayerReport>, TrainingError> {
    match Record::read(out) {
        Ok(Record {
            made_by: MadeBy::Compress(found),
            layers,
        }) => {
            settings.expect(&found, out)?;
            remove_work(out)?;
            Ok(layers)
        }
        _ => Err(TrainingError::OutputExists {
            path: out.to_path_buf(),
        }),
    }
}

/// Removes the work folder from a finished output.
fn remove_work(out: &Path) -> Result<(), TrainingError> {
    let work = out.join(WORK);
    match fs::remove_dir_all(&work) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io(&work)(error)),
        _ => Ok(()),
    }
}

fn only_work_folder(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|entries| {
        entries
            .into_iter()
            .all(|entry| entry.is_ok_and(|entry| entry.file_name() == WORK))
    })
}

/// The file of a finished layer, mapped.
pub(super) struct LayerFile {
    file: WeightFile,
    names: Vec<String>,
}

impl LayerFile {
    fn open(path: PathBuf) -> Result<Self, TrainingError> {
        match WeightFile::open(&path) {
            Ok(file) => Ok(LayerFile {
                names: file.names(),
                file,
            }),
            Err(error) => Err(TrainingError::BrokenLayer {
                path,
                reason: error.to_string(),
            }),
        }
    }

    /// The tensors of the file.
    pub fn entries(&self) -> Vec<Entry<'_>> {
        let names = self.names.iter();
        names.filter_map(|name| self.file.entry(name)).collect()
    }

    /// `layer` in `f32`, without bias, from the factors of `structure` in the file.
    pub fn layer(
        &self,
        layer: &LinearLayer,
        structure: &Structure,
        device: &Device,
    ) -> Result<BlrLinear, TrainingError> {
        let names = layer.weight_tensors(structure);
        let entries: Option<Vec<_>> = names
            .iter()
            .map(|(name, _)| self.file.entry(name))
            .collect();
        let entries = entries.ok_or_else(|| TrainingError::BrokenLayer {
            path: self.file.path().to_path_buf(),
            reason: format!("it has no factors of {structure}"),
        })?;
        let dtype = entries.first().map_or(Dtype::F32, |entry| entry.dtype);
        let factors: Vec<_> = entries
            .iter()
            .map(|entry| (entry.shape, entry.bytes))
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
