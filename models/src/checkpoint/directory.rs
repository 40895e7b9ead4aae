//! The directory: its configuration, its weight files and the tensors in them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::{BlrSection, Entry, Family, WeightFile};
use crate::ModelError;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// What errors call the families that are language models.
pub(crate) const LANGUAGE: &str = "language";

/// A checkpoint directory: `config.json` and `model.safetensors`, or shards of it with
/// `model.safetensors.index.json`.
///
/// Opening it parses the configuration, maps the weight files and checks their headers; weights
/// are read when asked for.
#[derive(Debug)]
pub struct Checkpoint {
    config: Value,
    family: Family,
    blr: BlrSection,
    tensors: StoredTensors,
}

/// The weight files of a directory and the tensors in them.
#[derive(Debug)]
pub(crate) struct StoredTensors {
    dir: PathBuf,
    files: Vec<WeightFile>,
    /// Which of the files holds a tensor.
    places: BTreeMap<String, usize>,
}

/// `model.safetensors.index.json`, as far as it is needed.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens the checkpoint in `dir`.
    ///
    /// # Errors
    ///
    /// [`ModelError::NotADirectory`], [`ModelError::MissingFile`] and [`ModelError::Io`] for what is
    /// not there; [`ModelError::Json`], [`ModelError::MissingKey`], [`ModelError::InvalidKey`] and
    /// [`ModelError::UnsupportedFamily`] for a configuration that cannot be used;
    /// [`ModelError::InvalidWeights`], [`ModelError::InvalidIndex`] and
    /// [`ModelError::DuplicateTensor`] for damaged weight files.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, ModelError> {
        let dir = dir.as_ref().to_path_buf();
        if !dir.is_dir() {
            return Err(ModelError::NotADirectory { path: dir });
        }
        let config_path = dir.join(CONFIG);
        let config: Value = read_json(
            &config_path,
            "a checkpoint directory has a config.json beside its weights",
        )?;
        let family = Family::of_config(&config, &config_path)?;
        let blr = BlrSection::from_config(&config_path, &config)?;

        let files = open_weights(&dir)?;
        Ok(Self {
            config,
            family,
            blr,
            tensors: StoredTensors::new(dir, files)?,
        })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.tensors.dir
    }

    /// The path of its `config.json`.
    pub fn config_path(&self) -> PathBuf {
        self.dir().join(CONFIG)
    }

    /// `config.json` as it was read.
    pub fn config_json(&self) -> &Value {
        &self.config
    }

    /// The model family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Checks that the model is of `expected`.
    pub(crate) fn expect_family(&self, expected: Family) -> Result<(), ModelError> {
        if self.family == expected {
            return Ok(());
        }
        Err(self.wrong_family(expected.model_type()))
    }

    /// Checks that the model is a language model.
    ///
    /// # Errors
    ///
    /// [`ModelError::WrongFamily`] if it is not.
    pub fn expect_language_model(&self) -> Result<(), ModelError> {
        match self.family {
            Family::Gpt2 | Family::Llama => Ok(()),
            Family::Vit | Family::Dit => Err(self.wrong_family(LANGUAGE)),
        }
    }

    /// Checks that the checkpoint has all weights of its model, not only those of some layers.
    ///
    /// # Errors
    ///
    /// [`ModelError::Part`] if it is a part of one.
    pub fn expect_whole(&self) -> Result<(), ModelError> {
        match self.blr.part {
            false => Ok(()),
            true => Err(ModelError::Part {
                path: self.dir().to_path_buf(),
            }),
        }
    }

    /// The error for a model of which something else was `expected`.
    pub(crate) fn wrong_family(&self, expected: &'static str) -> ModelError {
        ModelError::WrongFamily {
            path: self.dir().to_path_buf(),
            found: self.family.model_type(),
            expected,
        }
    }

    /// Which layers are stored as factors.
    pub fn blr(&self) -> &BlrSection {
        &self.blr
    }

    /// The weight files.
    pub fn files(&self) -> &[WeightFile] {
        &self.tensors.files
    }

    /// The tensors of the weight files.
    pub(crate) fn tensors(&self) -> &StoredTensors {
        &self.tensors
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.names()
    }

    /// The tensor `name` as it is stored, `None` if there is none.
    pub fn entry(&self, name: &str) -> Option<Entry<'_>> {
        self.tensors.entry(name)
    }

    /// The elements of the tensor `name`, row-major, widened to `f32`.
    ///
    /// # Errors
    ///
    /// [`ModelError::UnknownTensor`] if there is none; [`ModelError::TensorDtype`] if it is not
    /// `F32`, `F16` or `BF16`; [`ModelError::NonFiniteWeight`] if an element is infinite or not a
    /// number.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        self.entry(name)
            .ok_or_else(|| ModelError::UnknownTensor {
                path: self.dir().to_path_buf(),
                tensor: name.to_string(),
            })?
            .floats()
    }
}

impl StoredTensors {
    /// The tensors of `files`, which are in `dir`.
    pub(crate) fn new(dir: PathBuf, files: Vec<WeightFile>) -> Result<Self, ModelError> {
        let places = locate(&files)?;
        Ok(Self { dir, files, places })
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The names of all tensors, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// The tensor `name` as it is stored, `None` if there is none.
    pub(crate) fn entry(&self, name: &str) -> Option<Entry<'_>> {
        let (name, &file) = self.places.get_key_value(name)?;
        self.files.get(file)?.entry(name)
    }
}

/// Reads and parses a JSON file that must be there.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(
    path: &Path,
    expected: &'static str,
) -> Result<T, ModelError> {
    let bytes = fs::read(path).map_err(|source| {
        let path = path.to_path_buf();
        match source.kind() {
            std::io::ErrorKind::NotFound => ModelError::MissingFile { path, expected },
            _ => ModelError::Io { path, source },
        }
    })?;
    serde_json::from_slice(&bytes).map_err(|source| ModelError::Json {
        path: path.to_path_buf(),
        source,
    })
}

/// Maps `model.safetensors`, or else the shards that the index names.
fn open_weights(dir: &Path) -> Result<Vec<WeightFile>, ModelError> {
    let single = dir.join(WEIGHTS);
    if single.exists() {
        return Ok(vec![WeightFile::open(&single)?]);
    }
    let index_path = dir.join(INDEX);
    if !index_path.exists() {
        return Err(ModelError::MissingFile {
            path: single,
            expected: "weights are read from model.safetensors or from the shards of \
                       model.safetensors.index.json",
        });
    }
    let index: Index = read_json(&index_path, "the index of the shards")?;
    let mut files = BTreeMap::new();
    for (tensor, shard) in &index.weight_map {
        let invalid = |found| ModelError::InvalidIndex {
            path: index_path.clone(),
            tensor: tensor.clone(),
            shard: shard.clone(),
            found,
        };
        if !files.contains_key(shard) {
            // A shard lies beside its index; anything else would read files nobody named.
            if Path::new(shard).file_name() != Some(shard.as_ref()) {
                return Err(invalid("which is not a plain file name"));
            }
            let path = dir.join(shard);
            if !path.exists() {
                return Err(invalid("which is not there"));
            }
            files.insert(shard.clone(), WeightFile::open(&path)?);
        }
        let holds = files
            .get(shard)
            .is_some_and(|file: &WeightFile| file.holds(tensor));
        if !holds {
            return Err(invalid("which does not hold it"));
        }
    }
    Ok(files.into_values().collect())
}

/// Which of `files` holds each tensor.
fn locate(files: &[WeightFile]) -> Result<BTreeMap<String, usize>, ModelError> {
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for (index, file) in files.iter().enumerate() {
        for name in file.names() {
            if let Some(first) = places.get(&name).and_then(|&first| files.get(first)) {
                return Err(ModelError::DuplicateTensor {
                    tensor: name,
                    first: first.path().to_path_buf(),
                    second: file.path().to_path_buf(),
                });
            }
            places.insert(name, index);
        }
    }
    Ok(places)
}
