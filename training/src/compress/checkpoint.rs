//! A dense checkpoint to a compressed one.

use std::time::Instant;

use burn::tensor::Tensor;
use burn_blr::Structure;
use models::{BlrLayer, LinearLayer, linear_layers};
use safetensors::Dtype;

use super::Calibration;
use super::factorize::{factorize, output_error, relative_error};
use super::factors::Factors;
use super::pipeline::{self, Pipeline};
use super::ranks::spread_ranks;
use super::record::{MadeBy, Record};
use super::request::{CompressEvent, CompressRequest, LayerReport, Ranks};
use super::run_folder::{FinishedLayer, LayerFile, RunFolder, finished_run};
use super::settings::Settings;
use super::source::{check_finite, check_shapes};
use super::write::{self, Extent, Replacement};
use crate::TrainingError;

/// A layer and what it becomes.
type Chosen = (LinearLayer, Structure);

/// Compresses a checkpoint into `request.out` and reports on every layer.
///
/// With a `calibration`, the error of the layers' outputs on its samples is minimised instead of that
/// of their weights, layer after layer: each sees what the compressed layers before it make of the
/// samples.
///
/// Every finished layer is kept in the folder `OUT.partial`, which becomes `OUT` at the end, so a
/// run that is killed loses the layer in work and the one being written, and nothing else. Host
/// memory is bounded by three layers, one being read, one in work and one being written: other
/// tensors are copied piece by piece from the files of the source.
///
/// # Errors
///
/// [`TrainingError`]; a plan that does not fit, a weight that is not finite or an output that
/// exists is found before anything is written; for a part, a weight that is not finite when its
/// layer is read.
pub fn compress(
    request: &CompressRequest<'_>,
    calibration: Option<Calibration>,
    on_event: &mut dyn FnMut(CompressEvent<'_>),
) -> Result<Vec<LayerReport>, TrainingError> {
    let source = request.source;
    if request.out.exists() && !request.resume {
        return Err(TrainingError::OutputExists {
            path: request.out.to_path_buf(),
        });
    }
    source.expect_whole()?;
    let layers = linear_layers(source)?;
    let chosen = request.plan.resolve(&layers)?;
    check_shapes(source, &layers)?;
    let sees = calibration.as_ref().map(Calibration::description);
    let settings = Settings::new(request, &chosen, sees);
    if request.out.exists() {
        return finished_run(request.out, &settings);
    }
    // Of a part, the layers are checked as they are read, and nothing else is looked at.
    if request.extent() == Extent::Whole {
        check_finite(source)?;
    }
    let folder = RunFolder::open(request.out, &settings, request.resume)?;
    let chosen = match request.ranks {
        Ranks::Planned => chosen,
        Ranks::ByError => {
            let calibration = calibration.as_ref().ok_or(TrainingError::NoSamples)?;
            let plan = folder.plan(|| {
                let mut on_layer = |index, count| on_event(CompressEvent::Rank { index, count });
                let (plan, device) = (request.plan, request.device);
                spread_ranks(source, plan, calibration, device, &mut on_layer)
            })?;
            plan.resolve(&layers)?
        }
    };
    let finished = chosen
        .iter()
        .enumerate()
        .map(|(index, (layer, _))| folder.finished(index, layer))
        .collect::<Result<Vec<_>, _>>()?;
    let left = chosen.iter().zip(&finished);
    let left: Vec<&LinearLayer> = left
        .filter(|(_, finished)| finished.is_none())
        .map(|((layer, _), _)| layer)
        .collect();
    let reports = pipeline::run(source, &left, &folder, |pipeline| {
        let run = Run {
            request,
            chosen: &chosen,
            finished,
            folder: &folder,
            pipeline,
        };
        run.layers(calibration, on_event)
    })?;
    on_event(CompressEvent::Writing);
    put_together(request, &chosen, &reports, &folder)?;
    let record = Record {
        made_by: MadeBy::Compress(settings),
        layers: reports,
    };
    record.write(folder.path())?;
    folder.finish(request.out)?;
    Ok(record.layers)
}

/// Writes the checkpoint from the files of the finished layers.
fn put_together(
    request: &CompressRequest<'_>,
    chosen: &[Chosen],
    reports: &[LayerReport],
    folder: &RunFolder,
) -> Result<(), TrainingError> {
    let files: Vec<LayerFile> = (0..chosen.len())
        .map(|index| folder.layer_file(index))
        .collect::<Result<_, _>>()?;
    let replacements: Vec<Replacement<'_>> = chosen
        .iter()
        .zip(reports)
        .zip(&files)
        .filter_map(|(((layer, structure), report), file)| {
            Some(Replacement {
                layer,
                entry: BlrLayer::new(structure, Some(report.relative_error))?,
                factors: file.entries(),
            })
        })
        .collect();
    write::checkpoint(
        request.source,
        &replacements,
        request.extent(),
        folder.path(),
    )
}

/// A run that is under way.
struct Run<'a> {
    request: &'a CompressRequest<'a>,
    chosen: &'a [Chosen],
    /// What earlier runs finished.
    finished: Vec<Option<LayerReport>>,
    folder: &'a RunFolder,
    pipeline: Pipeline<'a>,
}

impl Run<'_> {
    /// Compresses the layers that are left.
    fn layers(
        self,
        mut calibration: Option<Calibration>,
        on_event: &mut dyn FnMut(CompressEvent<'_>),
    ) -> Result<Vec<LayerReport>, TrainingError> {
        let device = self.request.device;
        let mut reports: Vec<LayerReport> = Vec::with_capacity(self.chosen.len());
        // Layers that see the same are done before they change what others see.
        let groups: Vec<&[Chosen]> = match &calibration {
            None => self.chosen.chunks(1).collect(),
            Some(calibration) => {
                let same =
                    |one: &Chosen, other: &Chosen| calibration.see_the_same(&one.0, &other.0);
                self.chosen.chunk_by(same).collect()
            }
        };
        let mut earlier = self.finished.iter();
        for group in groups {
            let finished: Vec<_> = earlier.by_ref().take(group.len()).collect();
            let moment = match (&mut calibration, group) {
                (Some(calibration), [(layer, _), ..]) if finished.iter().any(|it| it.is_none()) => {
                    Some(calibration.moment(layer)?)
                }
                _ => None,
            };
            let mut replacements = vec![];
            for ((layer, structure), finished) in group.iter().zip(finished) {
                let index = reports.len();
                on_event(CompressEvent::Layer {
                    index,
                    count: self.chosen.len(),
                    name: &layer.name,
                    structure: *structure,
                });
                let report = match finished {
                    Some(report) => {
                        if calibration.is_some() {
                            let file = self.folder.layer_file(index)?;
                            replacements.push(file.layer(layer, structure, device)?);
                        }
                        report.clone()
                    }
                    None => {
                        let done = self.compress(layer, *structure, moment.as_ref(), on_event)?;
                        if calibration.is_some() {
                            replacements.push(done.factors.decode(device)?);
                        }
                        let report = done.report.clone();
                        self.pipeline.keep(index, done)?;
                        report
                    }
                };
                on_event(CompressEvent::Done {
                    report: &report,
                    resumed: finished.is_some(),
                });
                reports.push(report);
            }
            if let Some(calibration) = &mut calibration {
                for ((layer, _), replacement) in group.iter().zip(replacements) {
                    calibration.replace(layer, replacement)?;
                }
            }
        }
        Ok(reports)
    }

    /// Compresses the next layer of the pipeline.
    fn compress(
        &self,
        layer: &LinearLayer,
        structure: Structure,
        moment: Option<&Tensor<2>>,
        on_event: &mut dyn FnMut(CompressEvent<'_>),
    ) -> Result<FinishedLayer, TrainingError> {
        let device = self.request.device;
        let read = self.pipeline.next()?;
        let (dtype, weight_checksum) = (read.dtype, read.checksum.clone());
        let started = Instant::now();
        let weight = read.upload(device);
        let found = factorize(
            weight.clone(),
            structure,
            &self.request.blast,
            moment,
            &mut |step, relative_error| {
                on_event(CompressEvent::Step {
                    step,
                    relative_error,
                })
            },
        )?;
        let factors = Factors::encode(layer, &found.layer, dtype)?;
        // What is stored may be rounded; the errors stated are those of the stored factors.
        let (stored, relative_error) = match dtype {
            Dtype::F32 => (found.layer, found.relative_error),
            _ => {
                let stored = factors.decode(device)?;
                let error = relative_error(&weight, &stored)?;
                (stored, error)
            }
        };
        let output_error = moment
            .map(|moment| output_error(&weight, &stored, moment))
            .transpose()?;
        Ok(FinishedLayer {
            report: LayerReport {
                layer: layer.name.clone(),
                in_features: layer.in_features,
                out_features: layer.out_features,
                structure: structure.to_string(),
                dense_parameters: layer.dense_parameters(),
                parameters: structure.parameters(layer.in_features, layer.out_features),
                relative_error: exactly_read(relative_error),
                output_error: output_error.map(exactly_read),
                steps: found.history.len() - 1,
                seconds: exactly_read(started.elapsed().as_secs_f64()),
                weight_checksum,
            },
            factors,
        })
    }
}

/// `number` to nine digits. With all 17, `serde_json` read one number in six back as its neighbour,
/// and what a resumed run writes would differ from what an uninterrupted one does.
fn exactly_read(number: f64) -> f64 {
    format!("{number:.8e}").parse().unwrap_or(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_reports_are_read_back_as_they_were() -> Result<(), serde_json::Error> {
        let read = |number: f64| -> Result<f64, serde_json::Error> {
            serde_json::from_str(&serde_json::to_string(&number)?)
        };
        for k in 1..5000 {
            let number = f64::from(k) / 7919.3;
            for number in [number, number * 1e-7, number * 1e4] {
                let rounded = exactly_read(number);
                assert_eq!(read(rounded)?, rounded);
                assert!((rounded - number).abs() <= 1e-8 * number);
            }
        }
        Ok(())
    }
}
