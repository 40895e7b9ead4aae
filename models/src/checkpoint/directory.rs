//! The directory: its configuration, its weight files and the tensors in them.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use serde::Deserialize;
use serde_json::Value;

use super::{BlrSection, Family, WeightFile};
use crate::ModelError;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A checkpoint directory: `config.json` and `model.safetensors`, or shards of it with
/// `model.safetensors.index.json`.
///
/// Opening it parses the configuration, maps the weight files and checks their headers; weights
/// are read when asked for.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    config: Value,
    family: Family,
    blr: BlrSection,
    files: Vec<WeightFile>,
    places: BTreeMap<String, Place>,
}

/// Where a tensor is.
#[derive(Debug)]
struct Place {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

/// A tensor of a checkpoint, as it is stored.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The file that holds it.
    pub path: &'a Path,
    /// Its name.
    pub name: &'a str,
    /// Its element type.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: &'a [usize],
    /// Its elements, row-major and little-endian.
    pub bytes: &'a [u8],
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
        let model_type = config.get("model_type").and_then(Value::as_str);
        let model_type = model_type.ok_or_else(|| ModelError::MissingKey {
            path: config_path.clone(),
            key: String::from("model_type"),
            expected: format!("one of {}", Family::supported()),
        })?;
        let family = Family::from_model_type(model_type, &config_path)?;
        let blr = BlrSection::from_config(&config_path, &config)?;

        let files = open_weights(&dir)?;
        let places = locate(&files)?;
        Ok(Self {
            dir,
            config,
            family,
            blr,
            files,
            places,
        })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of its `config.json`.
    pub fn config_path(&self) -> PathBuf {
        self.dir.join(CONFIG)
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
        Err(ModelError::WrongFamily {
            path: self.dir.clone(),
            found: self.family.model_type(),
            expected: expected.model_type(),
        })
    }

    /// Which layers are stored as factors.
    pub fn blr(&self) -> &BlrSection {
        &self.blr
    }

    /// The weight files.
    pub fn files(&self) -> &[WeightFile] {
        &self.files
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// The tensor `name` as it is stored, `None` if there is none.
    pub fn entry(&self, name: &str) -> Option<Entry<'_>> {
        let (name, place) = self.places.get_key_value(name)?;
        let file = self.files.get(place.file)?;
        Some(Entry {
            path: file.path(),
            name,
            dtype: place.dtype,
            shape: &place.shape,
            bytes: file.bytes(place.range.clone()),
        })
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
                path: self.dir.clone(),
                tensor: name.to_string(),
            })?
            .floats()
    }
}

impl Entry<'_> {
    /// The elements, row-major, widened to `f32`.
    ///
    /// # Errors
    ///
    /// [`ModelError::TensorDtype`] if the tensor is not `F32`, `F16` or `BF16`;
    /// [`ModelError::NonFiniteWeight`] if an element is infinite or not a number.
    pub fn floats(&self) -> Result<Vec<f32>, ModelError> {
        let values: Vec<f32> = match self.dtype {
            Dtype::F32 => self.elements(f32::from_le_bytes),
            Dtype::F16 => self.elements(|bytes| f16::from_le_bytes(bytes).to_f32()),
            Dtype::BF16 => self.elements(|bytes| bf16::from_le_bytes(bytes).to_f32()),
            found => {
                return Err(ModelError::TensorDtype {
                    path: self.path.to_path_buf(),
                    tensor: self.name.to_string(),
                    found,
                });
            }
        };
        self.check_below(&values, f32::MAX, "f32")?;
        Ok(values)
    }

    /// Checks that every value is a number of absolute value at most `max`, which is below infinity.
    pub(crate) fn check_below<E: Copy + Into<f32>>(
        &self,
        values: &[E],
        max: f32,
        dtype: &'static str,
    ) -> Result<(), ModelError> {
        let in_range = |&value: &E| value.into().abs() <= max; // false for NaN
        match values.iter().position(|value| !in_range(value)) {
            None => Ok(()),
            Some(index) => Err(ModelError::NonFiniteWeight {
                path: self.path.to_path_buf(),
                tensor: self.name.to_string(),
                index,
                value: values.get(index).map_or(f32::NAN, |&value| value.into()),
                dtype,
            }),
        }
    }

    /// The elements of `N` bytes, row-major.
    pub(crate) fn elements<const N: usize, E>(&self, element: impl Fn([u8; N]) -> E) -> Vec<E> {
        let (chunks, _) = self.bytes.as_chunks::<N>();
        chunks.iter().map(|chunk| element(*chunk)).collect()
    }
}

/// Reads and parses a JSON file that must be there.
fn read_json<T: serde::de::DeserializeOwned>(
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

/// Finds every tensor of `files`.
fn locate(files: &[WeightFile]) -> Result<BTreeMap<String, Place>, ModelError> {
    let mut places: BTreeMap<String, Place> = BTreeMap::new();
    for (index, file) in files.iter().enumerate() {
        for (name, info) in file.tensors() {
            let place = Place {
                file: index,
                dtype: info.dtype,
                shape: info.shape,
                range: info.data_offsets.0..info.data_offsets.1,
            };
            if let Some(first) = places.get(&name).and_then(|first| files.get(first.file)) {
                return Err(ModelError::DuplicateTensor {
                    tensor: name,
                    first: first.path().to_path_buf(),
                    second: file.path().to_path_buf(),
                });
            }
            places.insert(name, place);
        }
    }
    Ok(places)
}
