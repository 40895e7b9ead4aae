//! The compressed checkpoint on disk.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor};
use burn_blr::{BlastLinear, BlrLinear, LowRankLinear, MonarchLinear, Structure};
use half::{bf16, f16};
use models::{BlrLayer, BlrSection, Checkpoint, LinearLayer};
use safetensors::{Dtype, View};
use serde_json::{Value, json};

use super::checkpoint::LayerReport;
use super::host::{entries, tensor};
use super::parts::{MappedPart, RunFolder, io, replace};
use crate::TrainingError;

/// The factors of one layer in the number format of the checkpoint.
pub(super) struct Factors {
    structure: Structure,
    dtype: Dtype,
    tensors: Vec<Stored>,
}

struct Stored {
    name: String,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Factors {
    /// Rounds the factors of `factors` to `dtype`.
    ///
    /// Fails if an entry is finite in `f32` and not in `dtype`.
    pub fn encode(
        layer: &LinearLayer,
        factors: &BlrLinear,
        dtype: Dtype,
    ) -> Result<Self, TrainingError> {
        let tensors = match factors {
            BlrLinear::Dense(_) => vec![],
            BlrLinear::LowRank(low_rank) => vec![
                Stored::encode(layer, "low_rank.u", low_rank.u.val(), dtype)?,
                Stored::encode(layer, "low_rank.v", low_rank.v.val(), dtype)?,
            ],
            BlrLinear::Monarch(monarch) => vec![
                Stored::encode(layer, "monarch.right", monarch.right.val(), dtype)?,
                Stored::encode(layer, "monarch.left", monarch.left.val(), dtype)?,
            ],
            BlrLinear::Blast(blast) => vec![
                Stored::encode(layer, "blast.u", blast.u.val(), dtype)?,
                Stored::encode(layer, "blast.s", blast.s.val(), dtype)?,
                Stored::encode(layer, "blast.v", blast.v.val(), dtype)?,
            ],
        };
        Ok(Factors {
            structure: factors.structure(),
            dtype,
            tensors,
        })
    }

    /// The layer that somebody gets who reads the stored factors, in `f32`.
    pub fn decode(&self, device: &Device) -> Result<BlrLinear, TrainingError> {
        let tensors: Vec<_> = self
            .tensors
            .iter()
            .map(|stored| (stored.shape.as_slice(), stored.bytes.as_slice()))
            .collect();
        decode_layer(self.structure, self.dtype, &tensors, device)
    }

    /// The tensors as safetensors writes them.
    pub fn views(&self) -> Vec<(String, Bytes<'_>)> {
        self.tensors
            .iter()
            .map(|stored| {
                let bytes = Bytes {
                    dtype: self.dtype,
                    shape: stored.shape.clone(),
                    bytes: &stored.bytes,
                };
                (stored.name.clone(), bytes)
            })
            .collect()
    }
}

impl Stored {
    fn encode<const D: usize>(
        layer: &LinearLayer,
        suffix: &str,
        factor: Tensor<D>,
        dtype: Dtype,
    ) -> Result<Self, TrainingError> {
        let shape = factor.dims().to_vec();
        let entries = entries(factor)?;
        let bytes: Vec<u8> = match dtype {
            Dtype::F16 => entries
                .iter()
                .flat_map(|&x| f16::from_f32(x).to_le_bytes())
                .collect(),
            Dtype::BF16 => entries
                .iter()
                .flat_map(|&x| bf16::from_f32(x).to_le_bytes())
                .collect(),
            _ => entries.iter().flat_map(|x| x.to_le_bytes()).collect(),
        };
        if !decode(&bytes, dtype).iter().all(|entry| entry.is_finite()) {
            return Err(TrainingError::Overflow {
                layer: layer.name.clone(),
                dtype: format!("{dtype:?}"),
            });
        }
        Ok(Stored {
            name: format!("{}.{suffix}", layer.name),
            shape,
            bytes,
        })
    }
}

/// A layer in `f32`, without bias, from shapes and bytes of its factors in the order in which
/// [`LinearLayer::weight_tensors`] names them.
pub(super) fn decode_layer(
    structure: Structure,
    dtype: Dtype,
    factors: &[(&[usize], &[u8])],
    device: &Device,
) -> Result<BlrLinear, TrainingError> {
    fn factor<const D: usize>(
        (found, bytes): &(&[usize], &[u8]),
        dtype: Dtype,
        device: &Device,
    ) -> Tensor<D> {
        let mut shape = [1; D];
        for (size, found) in shape.iter_mut().zip(*found) {
            *size = *found;
        }
        tensor(decode(bytes, dtype), shape, device)
    }
    Ok(match (structure, factors) {
        (Structure::LowRank { .. }, [u, v]) => BlrLinear::LowRank(LowRankLinear::from_factors(
            factor(u, dtype, device),
            factor(v, dtype, device),
            None,
        )?),
        (Structure::Monarch { order, .. }, [right, left]) => {
            BlrLinear::Monarch(MonarchLinear::from_factors(
                factor(right, dtype, device),
                factor(left, dtype, device),
                order,
                None,
            )?)
        }
        (Structure::Blast { .. }, [u, s, v]) => BlrLinear::Blast(BlastLinear::from_factors(
            factor(u, dtype, device),
            factor(s, dtype, device),
            factor(v, dtype, device),
            None,
        )?),
        (structure, factors) => unreachable!("{structure} with {} factors", factors.len()),
    })
}

fn decode(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    match dtype {
        Dtype::F16 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|bytes| f16::from_le_bytes(*bytes).to_f32())
            .collect(),
        Dtype::BF16 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|bytes| bf16::from_le_bytes(*bytes).to_f32())
            .collect(),
        _ => bytes
            .as_chunks()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect(),
    }
}

/// A tensor that lies somewhere else: in a mapped file or a buffer.
pub(super) struct Bytes<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: &'a [u8],
}

impl View for Bytes<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Puts the finished checkpoint together in the run's folder.
///
/// Every weight file keeps its name and the tensors it had, except that the factors of a layer
/// stand where its dense weight stood, or the first part of it.
pub(super) fn checkpoint(
    source: &Checkpoint,
    chosen: &[(LinearLayer, Structure)],
    reports: &[LayerReport],
    folder: &RunFolder,
) -> Result<(), TrainingError> {
    // The layer that a dense tensor belongs to, and which part of it that is.
    let replaced: HashMap<String, (usize, usize)> = chosen
        .iter()
        .enumerate()
        .flat_map(|(index, (layer, _))| {
            let parts = layer.dense_tensors().into_iter().enumerate();
            parts.map(move |(part, (name, _))| (name, (index, part)))
        })
        .collect();
    let parts: Vec<MappedPart> = (0..chosen.len())
        .map(|index| folder.part(index))
        .collect::<Result<_, _>>()?;
    let mut weight_map = BTreeMap::new();
    let mut total_size = 0;
    for file in source.files() {
        let file_name = file.path().file_name().unwrap_or_default();
        let mut tensors: BTreeMap<String, Bytes<'_>> = BTreeMap::new();
        let names = source.names().filter_map(|name| source.entry(name));
        for entry in names.filter(|entry| entry.path == file.path()) {
            match replaced.get(entry.name) {
                Some((_, 1..)) => {}
                Some(&(index, _)) => {
                    for (name, view) in parts[index].tensors()?.tensors() {
                        let (dtype, shape) = (view.dtype(), view.shape().to_vec());
                        tensors.insert(
                            name,
                            Bytes {
                                dtype,
                                shape,
                                bytes: view.data(),
                            },
                        );
                    }
                }
                None => {
                    let kept = Bytes {
                        dtype: entry.dtype,
                        shape: entry.shape.to_vec(),
                        bytes: entry.bytes,
                    };
                    tensors.insert(entry.name.to_string(), kept);
                }
            }
        }
        for (name, output) in &tensors {
            total_size += output.data_len();
            weight_map.insert(name.clone(), file_name.to_string_lossy().into_owned());
        }
        // One key only: the order of several would differ from run to run.
        let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
        replace(&folder.path().join(file_name), |path| {
            safetensors::serialize_to_file(tensors, Some(metadata), path)
                .map_err(|error| io(path)(std::io::Error::other(error)))
        })?;
    }
    if source.files().len() > 1 {
        let index = json!({"metadata": {"total_size": total_size}, "weight_map": weight_map});
        write_json(&folder.path().join("model.safetensors.index.json"), &index)?;
    }
    write_json(
        &folder.path().join("config.json"),
        &config(source, chosen, reports)?,
    )?;
    copy_other_files(source, folder.path())
}

/// The source's configuration with the `blr` section brought up to date.
fn config(
    source: &Checkpoint,
    chosen: &[(LinearLayer, Structure)],
    reports: &[LayerReport],
) -> Result<Value, TrainingError> {
    let mut section: BlrSection = source.blr().clone();
    for ((layer, structure), report) in chosen.iter().zip(reports) {
        if let Some(entry) = BlrLayer::new(structure, Some(report.relative_error)) {
            section.layers.insert(layer.name.clone(), entry);
        }
    }
    let mut config = source.config_json().clone();
    config["blr"] = serde_json::to_value(section)
        .map_err(|error| io(&source.config_path())(std::io::Error::other(error)))?;
    Ok(config)
}

fn write_json(path: &Path, value: &Value) -> Result<(), TrainingError> {
    replace(path, |path| {
        fs::write(path, format!("{value:#}\n")).map_err(io(path))
    })
}

/// Copies what lies beside the weights: tokenizer, generation settings, licence and the like.
fn copy_other_files(source: &Checkpoint, target: &Path) -> Result<(), TrainingError> {
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
    const WRITTEN: [&str; 3] = ["config.json", "model.safetensors.index.json", "report.html"];
    for entry in fs::read_dir(source.dir()).map_err(io(source.dir()))? {
        let path = entry.map_err(io(source.dir()))?.path();
        let name = path.file_name().unwrap_or_default();
        let extension = path.extension().unwrap_or_default();
        let skipped = !path.is_file()
            || WEIGHTS.iter().any(|&weights| extension == weights)
            || WRITTEN.iter().any(|&written| name == written);
        if !skipped {
            replace(&target.join(name), |to| {
                fs::copy(&path, to).map(drop).map_err(io(&path))
            })?;
        }
    }
    Ok(())
}
