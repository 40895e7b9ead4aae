//! A dense checkpoint to a compressed one.

use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::{Device, Tensor};
use burn_blr::Structure;
use models::{Checkpoint, LinearLayer, ModelError, Plan, WeightLayout, linear_layers};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::factorize::{factorize, relative_error};
use super::host::tensor;
use super::parts::{Part, RunFolder, Settings};
use super::{BlastOptions, write};
use crate::TrainingError;

/// What to compress, and how.
#[derive(Debug)]
pub struct CompressRequest<'a> {
    /// The dense checkpoint.
    pub source: &'a Checkpoint,
    /// The directory to make; it must not exist.
    pub out: &'a Path,
    /// Which layers become what.
    pub plan: &'a Plan,
    /// How BLAST factors are found.
    pub blast: BlastOptions,
    /// Where the products run.
    pub device: &'a Device,
    /// Goes on with the unfinished run for the same output directory, if there is one.
    pub resume: bool,
}

/// What became of one layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerReport {
    /// Name of the layer in the checkpoint.
    pub layer: String,
    /// Width of the input.
    pub in_features: usize,
    /// Width of the output.
    pub out_features: usize,
    /// The structure, in words.
    pub structure: String,
    /// Weights of the dense layer, without bias.
    pub dense_parameters: usize,
    /// Weights now, without bias.
    pub parameters: usize,
    /// `‖W − Ŵ‖ / ‖W‖` in the Frobenius norm, of the factors as they are stored.
    pub relative_error: f64,
    /// Steps of the search for BLAST factors; 0 for the methods that need none.
    pub steps: usize,
    /// Wall time of the factorisation.
    pub seconds: f64,
}

/// Progress of [`compress`].
#[derive(Debug)]
pub enum CompressEvent<'a> {
    /// A layer is begun.
    Layer {
        /// Its place in the order of work, from 0.
        index: usize,
        /// Number of layers to do.
        count: usize,
        /// Its name.
        name: &'a str,
        /// What it becomes.
        structure: Structure,
    },
    /// A step of the search for BLAST factors is done; the start is step 0.
    Step {
        /// Its number.
        step: usize,
        /// Relative error after it, in the norm that is minimised.
        relative_error: f64,
    },
    /// A layer is done, now or by the run that this one resumes.
    Done {
        /// What became of it.
        report: &'a LayerReport,
        /// Whether an earlier run did it.
        resumed: bool,
    },
    /// All layers are done and the checkpoint is being written.
    Writing,
}

/// Compresses a checkpoint into `request.out` and reports on every layer.
///
/// Every finished layer is kept in the folder `OUT.partial`, which becomes `OUT` at the end, so a
/// run that is killed loses the layer in work and nothing else. Host memory is bounded by the
/// largest layer: other tensors are copied from the mapped files of the source.
///
/// # Errors
///
/// [`TrainingError`]; a plan that does not fit, a weight that is not finite or an output that
/// exists is found before anything is written.
pub fn compress(
    request: &CompressRequest<'_>,
    on_event: &mut dyn FnMut(CompressEvent<'_>),
) -> Result<Vec<LayerReport>, TrainingError> {
    let source = request.source;
    if request.out.exists() {
        return Err(TrainingError::OutputExists {
            path: request.out.to_path_buf(),
        });
    }
    let layers = linear_layers(source)?;
    let chosen = request.plan.resolve(&layers)?;
    check(source, &layers)?;
    let settings = Settings::new(source, &chosen, &request.blast, request.device);
    let folder = RunFolder::open(request.out, settings, request.resume)?;

    let mut reports = Vec::with_capacity(chosen.len());
    for (index, (layer, structure)) in chosen.iter().enumerate() {
        let (name, structure) = (layer.name.as_str(), *structure);
        on_event(CompressEvent::Layer {
            index,
            count: chosen.len(),
            name,
            structure,
        });
        let (report, resumed) = match folder.finished(index, layer)? {
            Some(report) => (report, true),
            None => {
                let part = compress_layer(request, layer, structure, on_event)?;
                folder.keep(index, &part)?;
                (part.report, false)
            }
        };
        on_event(CompressEvent::Done {
            report: &report,
            resumed,
        });
        reports.push(report);
    }
    on_event(CompressEvent::Writing);
    write::checkpoint(source, &chosen, &reports, &folder)?;
    folder.finish(request.out)?;
    Ok(reports)
}

/// Checks the layers of the model for missing and misshapen tensors, and every tensor of floating
/// point for NaN and infinity, before the first byte is written.
fn check(source: &Checkpoint, layers: &[LinearLayer]) -> Result<(), TrainingError> {
    for layer in layers {
        for (tensor, expected) in layer.weight_tensors(&layer.structure) {
            let path = source.dir().to_path_buf();
            let Some(entry) = source.entry(&tensor) else {
                return Err(ModelError::MissingTensor {
                    path,
                    tensor,
                    expected,
                }
                .into());
            };
            if entry.shape != expected {
                let (path, found) = (entry.path.to_path_buf(), entry.shape.to_vec());
                return Err(ModelError::TensorShape {
                    path,
                    tensor,
                    found,
                    expected,
                }
                .into());
            }
        }
    }
    for entry in source.names().filter_map(|name| source.entry(name)) {
        if matches!(entry.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            entry.floats()?;
        }
    }
    Ok(())
}

fn compress_layer(
    request: &CompressRequest<'_>,
    layer: &LinearLayer,
    structure: Structure,
    on_event: &mut dyn FnMut(CompressEvent<'_>),
) -> Result<Part, TrainingError> {
    let (entries, dtype) = dense_weight(request.source, layer)?;
    let started = Instant::now();
    let weight: Tensor<2> = tensor(entries, layer.weight_shape(), request.device);
    let weight = match layer.layout {
        WeightLayout::InOut => weight.transpose(),
        WeightLayout::OutIn | WeightLayout::QueryKeyValue => weight,
    };
    let found = factorize(
        weight.clone(),
        structure,
        &request.blast,
        None,
        &mut |step, relative_error| {
            on_event(CompressEvent::Step {
                step,
                relative_error,
            })
        },
    )?;
    let factors = write::Factors::encode(layer, &found.layer, dtype)?;
    // What is stored may be rounded; the error stated is that of the stored factors.
    let relative_error = match dtype {
        Dtype::F32 => found.relative_error,
        _ => relative_error(&weight, &factors.decode(request.device)?)?,
    };
    Ok(Part {
        report: LayerReport {
            layer: layer.name.clone(),
            in_features: layer.in_features,
            out_features: layer.out_features,
            structure: structure.to_string(),
            dense_parameters: layer.dense_parameters(),
            parameters: structure.parameters(layer.in_features, layer.out_features),
            relative_error,
            steps: found.history.len() - 1,
            seconds: started.elapsed().as_secs_f64(),
        },
        factors,
    })
}

/// The entries of a dense weight as it is stored, its parts one below the other, and the number
/// format of the first.
fn dense_weight(
    source: &Checkpoint,
    layer: &LinearLayer,
) -> Result<(Vec<f32>, Dtype), TrainingError> {
    let mut entries = Vec::new();
    let mut dtype = None;
    for (name, _) in layer.dense_tensors() {
        entries.extend(source.floats(&name)?);
        dtype = dtype.or(source.entry(&name).map(|entry| entry.dtype));
    }
    Ok((entries, dtype.unwrap_or(Dtype::F32)))
}

/// The folder in which a run for `out` keeps its work: `OUT.partial` beside it.
pub fn partial_path(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_os_string();
    name.push(".partial");
    out.with_file_name(name)
}
