//! A trained model as a checkpoint directory.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use models::{AnyModel, Checkpoint, StoredParameters, StoredTensor};
use safetensors::{Dtype, View};
use serde_json::{Value, json};

use crate::TrainingError;
use crate::compress::{copy_files, io, replace, to_bytes, write_json};

/// Bytes of a weight file, beyond which another one is begun.
const BYTES_OF_A_FILE: usize = 5_000_000_000;

/// The weight of a head that a checkpoint may repeat although it is the token embedding.
const HEAD: &str = "lm_head.weight";

/// What the checkpoint gets besides the weights of the model.
pub(crate) struct Around<'a> {
    /// `config.json`.
    pub config: Value,
    /// Files that are copied.
    pub files: Vec<PathBuf>,
    /// Number formats of tensors, and tensors that are no parameters; `f32` and none without.
    pub source: Option<&'a Checkpoint>,
}

/// Writes the model into `folder`.
pub(crate) fn checkpoint(
    model: &AnyModel,
    stored: &StoredParameters,
    around: &Around<'_>,
    folder: &Path,
) -> Result<(), TrainingError> {
    let mut files = WeightFiles::default();
    stored.read(model, |tensor| files.add(encode(tensor, around.source)?))?;
    for tensor in unchanged(stored, around.source) {
        files.add(tensor)?;
    }
    files.write(folder)?;
    write_json(&folder.join("config.json"), &around.config)?;
    copy_files(&around.files, folder)
}

/// A tensor as it is written.
struct Encoded {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl View for &Encoded {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Rounds a tensor to the number format that it has in `source`.
fn encode(tensor: StoredTensor, source: Option<&Checkpoint>) -> Result<Encoded, TrainingError> {
    let StoredTensor {
        name,
        shape,
        values,
    } = tensor;
    let dtype = source.and_then(|source| source.entry(&name));
    let dtype = dtype.map_or(Dtype::F32, |entry| entry.dtype);
    let (dtype, max): (_, f32) = match dtype {
        Dtype::F16 => (Dtype::F16, f16::MAX.to_f32()),
        Dtype::BF16 => (Dtype::BF16, bf16::MAX.to_f32()),
        _ => (Dtype::F32, f32::MAX),
    };
    if !values.iter().all(|value| value.abs() <= max) {
        return Err(TrainingError::Overflow {
            layer: name,
            dtype: format!("{dtype:?}"),
        });
    }
    let bytes = to_bytes(&values, dtype);
    Ok(Encoded {
        name,
        dtype,
        shape,
        bytes,
    })
}

/// The tensors of `source` that are no parameters, such as fixed positions. A head that repeats the
/// token embedding is left out: it would not be the same any more.
fn unchanged<'a>(
    stored: &StoredParameters,
    source: Option<&'a Checkpoint>,
) -> impl Iterator<Item = Encoded> + use<'a> {
    let trained: Vec<String> = stored.names().map(String::from).collect();
    let entries = source.into_iter().flat_map(|source| {
        let names = source.names();
        names.filter_map(|name| source.entry(name))
    });
    let others = entries
        .filter(move |entry| entry.name != HEAD && !trained.iter().any(|name| name == entry.name));
    others.map(|entry| Encoded {
        name: entry.name.to_string(),
        dtype: entry.dtype,
        shape: entry.shape.to_vec(),
        bytes: entry.bytes.to_vec(),
    })
}

/// Tensors, file by file.
#[derive(Default)]
struct WeightFiles {
    files: Vec<Vec<Encoded>>,
    bytes: usize,
    total: usize,
}

impl WeightFiles {
    fn add(&mut self, tensor: Encoded) -> Result<(), TrainingError> {
        let length = tensor.bytes.len();
        self.bytes += length;
        self.total += length;
        match self.files.last_mut() {
            Some(file) if self.bytes <= BYTES_OF_A_FILE => file.push(tensor),
            _ => {
                self.bytes = length;
                self.files.push(vec![tensor]);
            }
        }
        Ok(())
    }

    fn write(&self, folder: &Path) -> Result<(), TrainingError> {
        let count = self.files.len();
        let mut places = BTreeMap::new();
        for (n, file) in self.files.iter().enumerate() {
            let name = match count {
                1 => String::from("model.safetensors"),
                _ => format!("model-{:05}-of-{count:05}.safetensors", n + 1),
            };
            // One key only: the order of several would differ from run to run.
            let metadata = HashMap::from([(String::from("format"), String::from("pt"))]);
            let tensors: BTreeMap<&str, &Encoded> =
                file.iter().map(|one| (one.name.as_str(), one)).collect();
            places.extend(file.iter().map(|one| (one.name.clone(), name.clone())));
            replace(&folder.join(name), |path| {
                safetensors::serialize_to_file(tensors, Some(metadata), path)
                    .map_err(|error| io(path)(std::io::Error::other(error)))
            })?;
        }
        if count > 1 {
            let index = json!({"metadata": {"total_size": self.total}, "weight_map": places});
            write_json(&folder.join("model.safetensors.index.json"), &index)?;
        }
        Ok(())
    }
}
