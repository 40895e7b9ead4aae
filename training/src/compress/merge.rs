//! One checkpoint from parts of it that were compressed apart.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use models::{BlrLayer, Checkpoint, LinearLayer, linear_layers};
use serde_json::Value;

use super::record::{MadeBy, RECORD, Record};
use super::request::LayerReport;
use super::run_folder::RunFolder;
use super::source::{check_shapes, checksum};
use super::write::{self, Extent, Replacement};
use crate::TrainingError;

/// What to put together.
#[derive(Debug)]
pub struct MergeRequest<'a> {
    /// Checkpoints of one model, each with some of its layers compressed: parts, which hold nothing
    /// but these layers, or whole ones.
    pub parts: &'a [Checkpoint],
    /// The checkpoint that all were made from, for the weights that none compressed. The first part
    /// has them where it is a whole checkpoint.
    pub source: Option<&'a Checkpoint>,
    /// The directory to make; it must not exist.
    pub out: &'a Path,
}

/// A compressed layer and the part that it is from.
struct Found<'a> {
    part: &'a Checkpoint,
    layer: LinearLayer,
    entry: BlrLayer,
    report: LayerReport,
}

/// Puts the compressed layers of all parts into one checkpoint, `request.out`, with the weights of
/// the source for all else, and reports on the layers in their order. `on_layer` hears of each that
/// is checked, by its place and their number.
///
/// A layer that several parts have must be the same in all of them, and each must have been made
/// from the weight that the source has. No more than a piece of a tensor is held in memory.
///
/// # Errors
///
/// [`TrainingError::OtherModel`], [`TrainingError::OtherWeight`] and
/// [`TrainingError::Contradiction`] for parts that do not belong together;
/// [`TrainingError::NothingToMerge`] for parts without layers; [`models::ModelError::Part`] where the weights
/// that no part compressed are nowhere; [`models::ModelError::MissingTensor`] and
/// [`models::ModelError::TensorShape`] for parts that lack what they should have.
pub fn merge(
    request: &MergeRequest<'_>,
    on_layer: &mut dyn FnMut(usize, usize),
) -> Result<Vec<LayerReport>, TrainingError> {
    if request.out.exists() {
        return Err(TrainingError::OutputExists {
            path: request.out.to_path_buf(),
        });
    }
    let base = request.source.or(request.parts.first());
    let base = base.ok_or(TrainingError::NothingToMerge)?;
    base.expect_whole()?;
    let layers = linear_layers(base)?;
    check_shapes(base, &layers)?;
    let mut found: Vec<Found<'_>> = vec![];
    for part in request.parts {
        same_model(base, part)?;
        gather(base, part, &mut found)?;
    }
    if found.is_empty() {
        return Err(TrainingError::NothingToMerge);
    }
    let place = |found: &Found<'_>| {
        let first = found.layer.stored_names().into_iter().next();
        layers
            .iter()
            .position(|layer| Some(&layer.name) == first.as_ref())
    };
    found.sort_by_key(place);
    // What the base has compressed stays where it is.
    let others: Vec<&Found<'_>> = found
        .iter()
        .filter(|found| !std::ptr::eq(found.part, base))
        .collect();
    check_overlap(&others)?;
    for (index, found) in others.iter().enumerate() {
        on_layer(index, others.len());
        check_weight(base, found)?;
    }

    let folder = RunFolder::start_over(request.out)?;
    let tensors: Vec<Vec<String>> = others.iter().map(|found| found.factors()).collect();
    let replacements: Vec<Replacement<'_>> = others
        .iter()
        .zip(&tensors)
        .map(|(found, tensors)| Replacement {
            layer: &found.layer,
            entry: found.entry.clone(),
            factors: tensors
                .iter()
                .filter_map(|tensor| found.part.entry(tensor))
                .collect(),
        })
        .collect();
    write::checkpoint(base, &replacements, Extent::Whole, folder.path())?;
    let parts = request.parts.iter();
    let record = Record {
        made_by: MadeBy::Merge(parts.map(|part| part.dir().display().to_string()).collect()),
        layers: found.into_iter().map(|found| found.report).collect(),
    };
    record.write(folder.path())?;
    folder.finish(request.out)?;
    Ok(record.layers)
}

impl Found<'_> {
    /// The names of its factors.
    fn factors(&self) -> Vec<String> {
        let tensors = self.layer.weight_tensors(&self.layer.structure).into_iter();
        tensors.map(|(name, _)| name).collect()
    }
}

/// Checks that the configurations are the same but for what is compressed.
fn same_model(base: &Checkpoint, part: &Checkpoint) -> Result<(), TrainingError> {
    let (one, other) = (base.config_json(), part.config_json());
    let keys = |config: &Value| -> BTreeSet<String> {
        let keys = config
            .as_object()
            .into_iter()
            .flat_map(|object| object.keys());
        keys.filter(|&key| key != "blr").cloned().collect()
    };
    let text = |value: Option<&Value>| value.map_or("not set".to_string(), Value::to_string);
    match keys(one)
        .union(&keys(other))
        .find(|&key| one.get(key) != other.get(key))
    {
        None => Ok(()),
        Some(key) => Err(TrainingError::OtherModel {
            path: part.config_path(),
            key: key.clone(),
            found: text(other.get(key)),
            expected: text(one.get(key)),
            base: base.config_path(),
        }),
    }
}

/// Adds the compressed layers of `part` that are not there yet.
fn gather<'a>(
    base: &'a Checkpoint,
    part: &'a Checkpoint,
    found: &mut Vec<Found<'a>>,
) -> Result<(), TrainingError> {
    if part.blr().layers.is_empty() {
        return Ok(());
    }
    let mut reports: HashMap<String, LayerReport> = Record::read(part.dir())?
        .layers
        .into_iter()
        .map(|report| (report.layer.clone(), report))
        .collect();
    for layer in linear_layers(part)? {
        let Some(entry) = part.blr().layers.get(&layer.name).cloned() else {
            continue;
        };
        check_shapes(part, std::slice::from_ref(&layer))?;
        let earlier = found.iter().find(|found| found.layer.name == layer.name);
        let inherited = base.blr().layers.contains_key(&layer.name) && !std::ptr::eq(base, part);
        let other = earlier
            .map(|found| found.part)
            .or(inherited.then_some(base));
        if let Some(other) = other {
            same_layer(other, part, &layer, &entry)?;
            continue;
        }
        let report = reports.remove(&layer.name);
        let report = report.ok_or_else(|| TrainingError::BrokenRecord {
            path: part.dir().join(RECORD),
            reason: format!("it says nothing of layer `{}`", layer.name),
        })?;
        found.push(Found {
            part,
            layer,
            entry,
            report,
        });
    }
    Ok(())
}

/// Checks that two parts say the same of a layer.
fn same_layer(
    one: &Checkpoint,
    other: &Checkpoint,
    layer: &LinearLayer,
    entry: &BlrLayer,
) -> Result<(), TrainingError> {
    let tensors = layer.weight_tensors(&layer.structure);
    let same_bytes = tensors.iter().all(|(name, _)| {
        let pair = one.entry(name).zip(other.entry(name));
        pair.is_some_and(|(one, other)| {
            let same = one.dtype == other.dtype && one.bytes == other.bytes;
            one.forget();
            other.forget();
            same
        })
    });
    match one.blr().layers.get(&layer.name) == Some(entry) && same_bytes {
        true => Ok(()),
        false => Err(TrainingError::Contradiction {
            what: format!("layer `{}`", layer.name),
            first: one.dir().to_path_buf(),
            second: other.dir().to_path_buf(),
        }),
    }
}

/// Checks that no two layers take the place of the same tensor, as a joined one and a part of it do.
fn check_overlap(found: &[&Found<'_>]) -> Result<(), TrainingError> {
    let mut taken: HashMap<String, &Checkpoint> = HashMap::new();
    for found in found {
        for (tensor, _) in found.layer.dense_tensors() {
            if let Some(first) = taken.insert(tensor.clone(), found.part) {
                return Err(TrainingError::Contradiction {
                    what: format!("tensor `{tensor}`"),
                    first: first.dir().to_path_buf(),
                    second: found.part.dir().to_path_buf(),
                });
            }
        }
    }
    Ok(())
}

/// Checks that a layer was made from the weight that `base` has.
fn check_weight(base: &Checkpoint, found: &Found<'_>) -> Result<(), TrainingError> {
    match checksum(base, &found.layer) {
        Some(checksum) if checksum == found.report.weight_checksum => Ok(()),
        Some(_) => Err(TrainingError::OtherWeight {
            path: found.part.dir().to_path_buf(),
            layer: found.layer.name.clone(),
            base: base.dir().to_path_buf(),
        }),
        None => Err(TrainingError::Contradiction {
            what: format!("layer `{}`", found.layer.name),
            first: base.dir().to_path_buf(),
            second: found.part.dir().to_path_buf(),
        }),
    }
}
