//! The folder of an unfinished training: its settings, and its state after the last rounds.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::store::ModuleRecord;
use burn::train::checkpoint::{Checkpoint, Checkpointer, CheckpointerError};

use super::curve::{Curve, SharedRecording, locked};
use crate::TrainingError;
use crate::compress::{io, partial_path, replace};

/// Folder within the folder of a run that is gone once the run is done.
const WORK: &str = ".blr-train";

/// What is kept after a round: three records of Burn, and the curve.
const STATES: [&str; 3] = ["model", "optimizer", "scheduler"];
const CURVE: &str = "curve";

/// What a run must share with the one it resumes: names and values.
pub(crate) type Settings = Vec<(&'static str, String)>;

/// `OUT.partial`, which becomes `OUT`.
pub(crate) struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Makes the folder, or opens that of an unfinished run with the same settings.
    pub fn open(out: &Path, settings: &Settings, resume: bool) -> Result<Self, TrainingError> {
        if out.exists() {
            let path = out.to_path_buf();
            return Err(TrainingError::OutputExists { path });
        }
        let folder = RunFolder {
            path: partial_path(out),
        };
        let run = folder.work().join("run.json");
        if run.exists() {
            if !resume {
                return Err(TrainingError::Unfinished { path: folder.path });
            }
            folder.check(&run, settings)?;
            return Ok(folder);
        }
        // A kill before the settings were written leaves a work folder without them.
        if folder.path.exists() && !folder.work().exists() {
            return Err(TrainingError::OutputExists { path: folder.path });
        }
        let work = folder.work();
        fs::create_dir_all(&work).map_err(io(&work))?;
        let map: BTreeMap<_, _> = settings.iter().cloned().collect();
        write_json(&run, &map)?;
        Ok(folder)
    }

    fn check(&self, run: &Path, settings: &Settings) -> Result<(), TrainingError> {
        let found: BTreeMap<String, String> = read_json(run)?;
        for (setting, expected) in settings {
            let found = found.get(*setting).cloned().unwrap_or_default();
            if found != *expected {
                return Err(TrainingError::OtherRun {
                    path: self.path.clone(),
                    setting,
                    found,
                    expected: expected.clone(),
                });
            }
        }
        Ok(())
    }

    /// Where the files of the finished checkpoint are put together.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the state is kept.
    pub fn work(&self) -> PathBuf {
        self.path.join(WORK)
    }

    /// The last round after which the whole state was kept, and the curve up to it.
    pub fn last_round(&self, rounds: usize) -> Result<Option<(usize, Curve)>, TrainingError> {
        let work = self.work();
        let whole = |round: &usize| {
            let states = STATES.iter().map(|state| state_path(&work, state, *round));
            let mut files = states.chain([curve_path(&work, *round)]);
            files.all(|file| file.exists())
        };
        let Some(round) = (1..=rounds).rev().find(whole) else {
            return Ok(None);
        };
        let curve = read_json(&curve_path(&work, round))?;
        Ok(Some((round, curve)))
    }

    /// Keepers of model, optimizer and scheduler; the last keeps the curve as well.
    pub fn keepers(&self, recording: &SharedRecording) -> [Keeper; 3] {
        let keeper = |state, recording| Keeper {
            work: self.work(),
            state,
            recording,
        };
        let [model, optimizer, scheduler] = STATES;
        [
            keeper(model, None),
            keeper(optimizer, None),
            keeper(scheduler, Some(recording.clone())),
        ]
    }

    /// Gives the folder its name and removes what only an unfinished run needs.
    pub fn finish(self, out: &Path) -> Result<(), TrainingError> {
        // In this order a kill between the two leaves a complete checkpoint with a folder too many.
        fs::rename(&self.path, out).map_err(io(out))?;
        let work = out.join(WORK);
        fs::remove_dir_all(&work).map_err(io(&work))
    }
}

fn state_path(work: &Path, state: &str, round: usize) -> PathBuf {
    work.join(format!("{state}-{round}.bpk"))
}

fn curve_path(work: &Path, round: usize) -> PathBuf {
    work.join(format!("{CURVE}-{round}.json"))
}

/// Keeps one record of Burn after each round, whole or not at all.
pub(crate) struct Keeper {
    work: PathBuf,
    state: &'static str,
    /// Whose curve is kept with it.
    recording: Option<SharedRecording>,
}

impl Keeper {
    /// The model after `round`, from the keeper of models.
    pub fn model(&self, round: usize) -> Result<ModuleRecord, TrainingError> {
        let path = state_path(&self.work, self.state, round);
        ModuleRecord::load(&path).map_err(|error| TrainingError::BrokenState {
            path: path.clone(),
            reason: error.to_string(),
        })
    }
}

impl<R: Checkpoint> Checkpointer<R> for Keeper {
    fn save(&self, round: usize, record: R) -> Result<(), CheckpointerError> {
        if let Some(recording) = &self.recording {
            let curve = locked(recording).curve().clone();
            write_json(&curve_path(&self.work, round), &curve).map_err(failed)?;
        }
        // Burn may put an ending of its own behind a name that has none.
        let unfinished = self.work.join(format!("{}.unfinished.bpk", self.state));
        record.save(unfinished.clone())?;
        let path = state_path(&self.work, self.state, round);
        fs::rename(&unfinished, path).map_err(CheckpointerError::IOError)
    }

    fn delete(&self, round: usize) -> Result<(), CheckpointerError> {
        let mut files = vec![state_path(&self.work, self.state, round)];
        if self.recording.is_some() {
            files.push(curve_path(&self.work, round));
        }
        for file in files.iter().filter(|file| file.exists()) {
            fs::remove_file(file).map_err(CheckpointerError::IOError)?;
        }
        Ok(())
    }

    fn restore(&self, round: usize) -> Result<R, CheckpointerError> {
        R::load(state_path(&self.work, self.state, round))
    }
}

fn failed(error: TrainingError) -> CheckpointerError {
    CheckpointerError::Unknown(error.to_string())
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), TrainingError> {
    let text = serde_json::to_vec(value).map_err(|error| io(path)(std::io::Error::other(error)))?;
    replace(path, |path| fs::write(path, &text).map_err(io(path)))
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, TrainingError> {
    let text = fs::read(path).map_err(io(path))?;
    serde_json::from_slice(&text).map_err(|error| TrainingError::BrokenState {
        path: path.to_path_buf(),
        reason: error.to_string(),
    })
}
