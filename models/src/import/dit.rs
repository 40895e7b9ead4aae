//! The `.pt` files of the official DiT code.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, TensorData};
use burn_store::bridge;
use burn_store::pytorch::PytorchReader;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::dit::TIMESTEP_FEATURES;
use crate::{DitConfig, ModelError};

/// Side of an image over the side of its latent, for the models of the paper.
const LATENT_SCALE: usize = 8;

/// What the file does not say.
#[derive(Debug, Clone, Copy, Default)]
pub struct ImportDitOptions {
    /// Side of the images, to check the positions of the file against: 256 or 512 for the published
    /// models.
    pub image_size: Option<usize>,
    /// Attention heads; those of the model of the paper that has the same width if not set.
    pub num_heads: Option<usize>,
}

/// Tensors by name.
type Tensors = BTreeMap<String, TensorData>;

/// Turns `file`, a state dict or a checkpoint of the official `train.py`, whose averaged weights are
/// taken, into the checkpoint directory `out`, and returns its configuration.
///
/// The configuration is read off the shapes. The last row of the labels is taken for the null class,
/// which the official code always trains.
///
/// # Errors
///
/// [`ModelError::OutputExists`]; [`ModelError::Io`] and [`ModelError::NotPytorch`] for a file that
/// cannot be read; [`ModelError::MissingTensor`], [`ModelError::TensorShape`],
/// [`ModelError::UnusedTensor`] and [`ModelError::NotReadAsFloat`] for one that holds another model;
/// [`ModelError::InvalidOption`] for options that do not fit it. Nothing is left behind then.
pub fn import_dit(
    file: &Path,
    out: &Path,
    options: ImportDitOptions,
) -> Result<DitConfig, ModelError> {
    if out.exists() {
        return Err(ModelError::OutputExists {
            path: out.to_path_buf(),
        });
    }
    let tensors = read(file)?;
    let config = configuration(file, &tensors, options)?;
    check(file, &tensors, &config)?;
    write(out, &tensors, &config)?;
    Ok(config)
}

/// Reads every tensor of the file as `F32`, `F16` or `BF16`.
fn read(file: &Path) -> Result<Tensors, ModelError> {
    let io = |source| ModelError::Io {
        path: file.to_path_buf(),
        source,
    };
    // The reader below tries one format after the other, and what the last one says of a file that
    // is not there is no help.
    fs::File::open(file).map_err(io)?;
    let not_pytorch = |reason: String| ModelError::NotPytorch {
        path: file.to_path_buf(),
        reason: reason.split_whitespace().collect::<Vec<_>>().join(" "),
    };
    let stored = PytorchReader::new(file).map_err(|error| not_pytorch(error.to_string()))?;
    let stored = stored.into_tensors();
    if stored.is_empty() {
        return Err(not_pytorch(String::from("no tensors in it")));
    }
    // `train.py` saves the weights of the last step as `model` beside their average as `ema`.
    let averaged = stored.keys().any(|name| name.starts_with("ema."));
    let mut tensors = Tensors::new();
    for (name, tensor) in stored {
        let name = match averaged {
            false => name,
            true => match name.strip_prefix("ema.") {
                Some(name) => name.to_string(),
                None => continue,
            },
        };
        let data = bridge::into_data(tensor).map_err(|error| not_pytorch(error.to_string()))?;
        let data = match data.dtype {
            DType::F32 | DType::F16 | DType::BF16 => data,
            DType::F64 => data.convert::<f32>(),
            found => {
                return Err(ModelError::NotReadAsFloat {
                    path: file.to_path_buf(),
                    tensor: name,
                    found: found.name(),
                });
            }
        };
        tensors.insert(name, data);
    }
    Ok(tensors)
}

/// The configuration that the shapes and the options say.
fn configuration(
    file: &Path,
    tensors: &Tensors,
    options: ImportDitOptions,
) -> Result<DitConfig, ModelError> {
    let shape = |name: &str| -> Vec<usize> {
        let found = tensors.get(name).map(|data| data.shape.to_vec());
        found.unwrap_or_default()
    };
    // A shape that is not there gives zeros, which `check` names by its tensor.
    let axis = |shape: &[usize], n: usize| shape.get(n).copied().unwrap_or_default();
    let patches = shape("x_embedder.proj.weight");
    let (hidden_size, in_channels) = (axis(&patches, 0), axis(&patches, 1));
    let patch_size = axis(&patches, 2);
    for (name, rank) in [
        ("x_embedder.proj.weight", 4),
        ("pos_embed", 3),
        ("y_embedder.embedding_table.weight", 2),
        ("blocks.0.mlp.fc1.weight", 2),
        ("final_layer.linear.bias", 1),
    ] {
        let found = shape(name);
        if found.len() != rank || found.contains(&0) {
            return Err(ModelError::NotADit {
                path: file.to_path_buf(),
                tensor: name.to_string(),
                found: tensors.get(name).map(|_| found),
                rank,
            });
        }
    }
    let tokens = axis(&shape("pos_embed"), 1);
    let side = tokens.isqrt();
    let input_size = side * patch_size;
    let pixels = patch_size * patch_size * in_channels;
    let depth = (0..)
        .take_while(|n| tensors.contains_key(&format!("blocks.{n}.attn.qkv.weight")))
        .count();
    let image_size = match in_channels {
        4 => input_size * LATENT_SCALE,
        _ => input_size,
    };
    if let Some(found) = options.image_size.filter(|&found| found != image_size) {
        let expected = format!("{image_size}: the file has positions for {side} x {side} patches");
        return Err(ModelError::invalid_option("image-size", found, expected));
    }
    let heads = options
        .num_heads
        .or_else(|| DitConfig::published_heads(hidden_size));
    let Some(num_heads) = heads else {
        let expected = format!("a number: no model of the paper has the width {hidden_size}");
        return Err(ModelError::invalid_option("heads", "not given", expected));
    };
    if num_heads == 0 || !hidden_size.is_multiple_of(num_heads) {
        let expected = format!("a divisor of the width {hidden_size}");
        return Err(ModelError::invalid_option("heads", num_heads, expected));
    }
    Ok(DitConfig {
        input_size,
        patch_size,
        in_channels,
        hidden_size,
        depth,
        num_heads,
        mlp_ratio: axis(&shape("blocks.0.mlp.fc1.weight"), 0) as f64 / hidden_size as f64,
        num_classes: axis(&shape("y_embedder.embedding_table.weight"), 0) - 1,
        learn_sigma: axis(&shape("final_layer.linear.bias"), 0) == 2 * pixels,
        ..DitConfig::dit_xl_2()
    })
}

/// Checks that the file holds what the configuration needs, and nothing else.
fn check(file: &Path, tensors: &Tensors, config: &DitConfig) -> Result<(), ModelError> {
    let needed = needed(config);
    for (name, expected) in &needed {
        let Some(data) = tensors.get(name) else {
            return Err(ModelError::MissingTensor {
                path: file.to_path_buf(),
                tensor: name.clone(),
                expected: expected.clone(),
            });
        };
        if data.shape.to_vec() != *expected {
            return Err(ModelError::TensorShape {
                path: file.to_path_buf(),
                tensor: name.clone(),
                found: data.shape.to_vec(),
                expected: expected.clone(),
            });
        }
    }
    let mut unused = tensors
        .iter()
        .filter(|(name, _)| !needed.contains_key(*name));
    match unused.next() {
        None => Ok(()),
        Some((tensor, data)) => Err(ModelError::UnusedTensor {
            path: file.to_path_buf(),
            tensor: tensor.clone(),
            found: data.shape.to_vec(),
            more: unused.count(),
        }),
    }
}

/// Every tensor of a model with its shape: the table of [`crate::loader::dit`].
fn needed(config: &DitConfig) -> BTreeMap<String, Vec<usize>> {
    let (hidden, patch, channels) = (config.hidden_size, config.patch_size, config.in_channels);
    let pixels = patch * patch * config.out_channels();
    let mut found = BTreeMap::new();
    let mut linear = |name: &str, weight: Vec<usize>| {
        let outputs = weight.first().copied().unwrap_or_default();
        found.insert(format!("{name}.weight"), weight);
        found.insert(format!("{name}.bias"), vec![outputs]);
    };
    for layer in config.linear_layers() {
        linear(&layer.name, layer.weight_shape().to_vec());
    }
    linear("x_embedder.proj", vec![hidden, channels, patch, patch]);
    linear("t_embedder.mlp.0", vec![hidden, TIMESTEP_FEATURES]);
    linear("t_embedder.mlp.2", vec![hidden, hidden]);
    linear("final_layer.adaLN_modulation.1", vec![2 * hidden, hidden]);
    linear("final_layer.linear", vec![pixels, hidden]);
    let labels = vec![config.labels(), hidden];
    found.insert(String::from("y_embedder.embedding_table.weight"), labels);
    let positions = vec![1, config.side() * config.side(), hidden];
    found.insert(String::from("pos_embed"), positions);
    found
}

/// Writes the directory beside its place and renames it, so that it is whole or not there.
fn write(out: &Path, tensors: &Tensors, config: &DitConfig) -> Result<(), ModelError> {
    let mut name = out.file_name().unwrap_or_default().to_os_string();
    name.push(".partial");
    let partial: PathBuf = out.with_file_name(name);
    let io = |source| ModelError::Io {
        path: partial.clone(),
        source,
    };
    fs::create_dir(&partial).map_err(io)?;
    let written =
        fill(&partial, tensors, config).and_then(|()| fs::rename(&partial, out).map_err(io));
    if written.is_err() {
        // What the caller is told is why writing failed, not whether this did.
        let _ = fs::remove_dir_all(&partial);
    }
    written
}

fn fill(dir: &Path, tensors: &Tensors, config: &DitConfig) -> Result<(), ModelError> {
    let io = |source| ModelError::Io {
        path: dir.to_path_buf(),
        source,
    };
    let text = format!("{:#}\n", config.to_json());
    fs::write(dir.join("config.json"), text).map_err(io)?;
    let mut views = Vec::with_capacity(tensors.len());
    for (name, data) in tensors {
        let dtype = match data.dtype {
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            _ => Dtype::F32, // `read` leaves no other
        };
        let view = TensorView::new(dtype, data.shape.to_vec(), data.as_bytes());
        let view = view.map_err(|error| io(std::io::Error::other(error)))?;
        views.push((name.as_str(), view));
    }
    safetensors::serialize_to_file(views, None, &dir.join("model.safetensors"))
        .map_err(|error| io(std::io::Error::other(error)))
}
