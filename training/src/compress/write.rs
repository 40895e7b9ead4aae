//! The compressed checkpoint on disk.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use models::{BlrLayer, BlrSection, Checkpoint, Entry, LinearLayer};
use serde_json::{Value, json};

use super::record::RECORD;
use super::run_folder::{io, replace};
use super::shard::{self, Output};
use crate::TrainingError;

/// A layer and the factors that take the place of its dense weight.
pub(super) struct Replacement<'a> {
    pub layer: &'a LinearLayer,
    /// What `config.json` says of it.
    pub entry: BlrLayer,
    pub factors: Vec<Entry<'a>>,
}

/// How much of a checkpoint is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    Whole,
    /// The replaced layers alone.
    Part,
}

/// Puts a checkpoint together in `folder`.
///
/// Every weight file keeps its name and the tensors it had, except that the factors of a layer
/// stand where its dense weight stood, or the first part of it. Of a part, only the factors are
/// written, and files without any are left out.
pub(super) fn checkpoint(
    source: &Checkpoint,
    replacements: &[Replacement<'_>],
    extent: Extent,
    folder: &Path,
) -> Result<(), TrainingError> {
    // What stands in the place of a dense tensor; nothing where a part before it has it all.
    let mut replaced: HashMap<String, &[Entry<'_>]> = HashMap::new();
    for replacement in replacements {
        let mut factors = replacement.factors.as_slice();
        for (name, _) in replacement.layer.dense_tensors() {
            replaced.insert(name, std::mem::take(&mut factors));
        }
    }
    let mut weight_map = BTreeMap::new();
    let mut total_size = 0;
    for file in source.files() {
        let file_name = file.path().file_name().unwrap_or_default();
        let mut tensors: Vec<Output<'_>> = vec![];
        let names = source.names().filter_map(|name| source.entry(name));
        for entry in names.filter(|entry| entry.path == file.path()) {
            match (replaced.get(entry.name), extent) {
                (Some(factors), _) => tensors.extend(factors.iter().map(|&entry| entry.into())),
                (None, Extent::Whole) => tensors.push(entry.into()),
                (None, Extent::Part) => {}
            }
        }
        if tensors.is_empty() && extent == Extent::Part {
            continue;
        }
        for output in &tensors {
            let file = file_name.to_string_lossy().into_owned();
            weight_map.insert(output.name.to_string(), file);
        }
        let format = ("format", "pt".to_string());
        total_size += shard::write(&folder.join(file_name), tensors, format)?;
    }
    if source.files().len() > 1 {
        let index = json!({"metadata": {"total_size": total_size}, "weight_map": weight_map});
        write_json(&folder.join("model.safetensors.index.json"), &index)?;
    }
    let config = config(source, replacements, extent)?;
    write_json(&folder.join("config.json"), &config)?;
    match extent {
        Extent::Whole => copy_files(&other_files(source.dir())?, folder),
        Extent::Part => Ok(()),
    }
}

/// The source's configuration with the `blr` section brought up to date.
fn config(
    source: &Checkpoint,
    replacements: &[Replacement<'_>],
    extent: Extent,
) -> Result<Value, TrainingError> {
    let mut section = match extent {
        Extent::Whole => source.blr().clone(),
        Extent::Part => BlrSection {
            part: true,
            ..BlrSection::default()
        },
    };
    for replacement in replacements {
        let name = replacement.layer.name.clone();
        section.layers.insert(name, replacement.entry.clone());
    }
    let mut config = source.config_json().clone();
    config["blr"] = serde_json::to_value(section)
        .map_err(|error| io(&source.config_path())(std::io::Error::other(error)))?;
    Ok(config)
}

/// Writes JSON that is whole or not there.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<(), TrainingError> {
    replace(path, |path| {
        fs::write(path, format!("{value:#}\n")).map_err(io(path))
    })
}

/// What lies beside the weights of a checkpoint, sorted: tokenizer, generation settings, licence and
/// the like.
pub(crate) fn other_files(source: &Path) -> Result<Vec<PathBuf>, TrainingError> {
    /// Weights in other formats, all of them of the dense model.
    const WEIGHTS: [&str; 9] = [
        "safetensors",
        "bin",
        "pt",
        "pth",
        "ckpt",
        "h5",
        "msgpack",
        "onnx",
        "gguf",
    ];
    const WRITTEN: [&str; 4] = [
        "config.json",
        "model.safetensors.index.json",
        "report.html",
        RECORD,
    ];
    let mut files = Vec::new();
    for entry in fs::read_dir(source).map_err(io(source))? {
        let path = entry.map_err(io(source))?.path();
        let name = path.file_name().unwrap_or_default();
        let extension = path.extension().unwrap_or_default();
        let skipped = !path.is_file()
            || WEIGHTS.iter().any(|&weights| extension == weights)
            || WRITTEN.iter().any(|&written| name == written);
        if !skipped {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Copies files into a folder, each whole or not at all.
pub(crate) fn copy_files(files: &[PathBuf], target: &Path) -> Result<(), TrainingError> {
    for file in files {
        let name = file.file_name().unwrap_or_default();
        replace(&target.join(name), |to| {
            fs::copy(file, to).map(drop).map_err(io(file))
        })?;
    }
    Ok(())
}
