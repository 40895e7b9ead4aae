//! A dense checkpoint to a compressed one.

use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::{Device, Tensor};
use burn_blr::Structure;
use models::{Checkpoint, LinearLayer, ModelError, Plan, WeightLayout, linear_layers};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::factorize::{factorize, output_error, relative_error};
use super::host::tensor;
use super::parts::{Part, RunFolder, Settings};
use super::{BlastOptions, Calibration, write};
use crate::TrainingError;

/// A layer and what it becomes.
type Chosen = (LinearLayer, Structure);

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
    /// `‖(W − Ŵ) x‖ / ‖W x‖`, root mean squares over the inputs of the calibration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_error: Option<f64>,
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
/// With a `calibration`, the error of the layers' outputs on its samples is minimised instead of that
/// of their weights, layer after layer: each sees what the compressed layers before it make of the
/// samples.
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
    mut calibration: Option<Calibration>,
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
    let sees = calibration.as_ref().map(Calibration::description);
    let settings = Settings::new(source, &chosen, &request.blast, sees, request.device);
    let folder = RunFolder::open(request.out, settings, request.resume)?;

    let mut reports: Vec<LayerReport> = Vec::with_capacity(chosen.len());
    // Layers that see the same are done before they change what others see.
    let groups: Vec<&[Chosen]> = match &calibration {
        None => chosen.chunks(1).collect(),
        Some(calibration) => {
            let same = |one: &Chosen, other: &Chosen| calibration.see_the_same(&one.0, &other.0);
            chosen.chunk_by(same).collect()
        }
    };
    for group in groups {
        let first = reports.len();
        let mut finished = Vec::with_capacity(group.len());
        for (offset, (layer, _)) in group.iter().enumerate() {
            finished.push(folder.finished(first + offset, layer)?);
        }
        let moment = match (&mut calibration, group) {
            (Some(calibration), [(layer, _), ..]) if finished.iter().any(Option::is_none) => {
                Some(calibration.moment(layer)?)
            }
            _ => None,
        };
        for ((layer, structure), finished) in group.iter().zip(finished) {
            let index = reports.len();
            on_event(CompressEvent::Layer {
                index,
                count: chosen.len(),
                name: &layer.name,
                structure: *structure,
            });
            let resumed = finished.is_some();
            let report = match finished {
                Some(report) => report,
                None => {
                    let moment = moment.as_ref();
                    let part = compress_layer(request, layer, *structure, moment, on_event)?;
                    folder.keep(index, &part)?;
                    part.report
                }
            };
            on_event(CompressEvent::Done {
                report: &report,
                resumed,
            });
            reports.push(report);
        }
        if let Some(calibration) = &mut calibration {
            for (offset, (layer, structure)) in group.iter().enumerate() {
                let part = folder.part(first + offset)?;
                calibration.replace(layer, part.layer(layer, structure, request.device)?)?;
            }
        }
    }
    on_event(CompressEvent::Writing);
    write::checkpoint(source, &chosen, &reports, &folder)?;
    folder.finish(request.out)?;
    Ok(reports)
}

/// Checks the layers of the model for missing and misshapen tensors, and every tensor of floating
/// point for NaN and infinity, before the first byte is written.
pub(super) fn check(source: &Checkpoint, layers: &[LinearLayer]) -> Result<(), TrainingError> {
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
    moment: Option<&Tensor<2>>,
    on_event: &mut dyn FnMut(CompressEvent<'_>),
) -> Result<Part, TrainingError> {
    let started = Instant::now();
    let (weight, dtype) = out_in_weight(request.source, layer, request.device)?;
    let found = factorize(
        weight.clone(),
        structure,
        &request.blast,
        moment,
        &mut |step, relative_error| {
            on_event(CompressEvent::Step {
                step,
                relative_error,
            })
        },
    )?;
    let factors = write::Factors::encode(layer, &found.layer, dtype)?;
    // What is stored may be rounded; the errors stated are those of the stored factors.
    let (stored, relative_error) = match dtype {
        Dtype::F32 => (found.layer, found.relative_error),
        _ => {
            let stored = factors.decode(request.device)?;
            let error = relative_error(&weight, &stored)?;
            (stored, error)
        }
    };
    let output_error = moment
        .map(|moment| output_error(&weight, &stored, moment))
        .transpose()?;
    Ok(Part {
        report: LayerReport {
            layer: layer.name.clone(),
            in_features: layer.in_features,
            out_features: layer.out_features,
            structure: structure.to_string(),
            dense_parameters: layer.dense_parameters(),
            parameters: structure.parameters(layer.in_features, layer.out_features),
            relative_error,
            output_error,
            steps: found.history.len() - 1,
            seconds: started.elapsed().as_secs_f64(),
        },
        factors,
    })
}

/// A dense weight `[out, in]` in `f32`, its parts one below the other, and the number format of the
/// first.
pub(super) fn out_in_weight(
    source: &Checkpoint,
    layer: &LinearLayer,
    device: &Device,
) -> Result<(Tensor<2>, Dtype), TrainingError> {
    let mut entries = Vec::new();
    let mut dtype = None;
    for (name, _) in layer.dense_tensors() {
        entries.extend(source.floats(&name)?);
        dtype = dtype.or(source.entry(&name).map(|entry| entry.dtype));
    }
    let weight: Tensor<2> = tensor(entries, layer.weight_shape(), device);
    let weight = match layer.layout {
        WeightLayout::InOut => weight.transpose(),
        WeightLayout::OutIn | WeightLayout::QueryKeyValue => weight,
    };
    Ok((weight, dtype.unwrap_or(Dtype::F32)))
}

/// The folder in which a run for `out` keeps its work: `OUT.partial` beside it.
pub fn partial_path(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_os_string();
    name.push(".partial");
    out.with_file_name(name)
}
