//! `blr inspect`.

use models::{Checkpoint, LinearLayer};
use serde::{Deserialize, Serialize};

use crate::arguments::{Common, InspectArguments};
use crate::error::CommandError;
use crate::html::{self, Look};
use crate::output::{self, Table};

/// What a checkpoint holds.
#[derive(Serialize, Deserialize)]
pub struct Report {
    family: String,
    pub layers: Vec<LayerRow>,
    other_parameters: usize,
    pub other_bytes: usize,
    pub parameters: usize,
    pub bytes: usize,
    pub dense_parameters: usize,
    pub dense_bytes: usize,
}

/// One linear layer of it.
#[derive(Serialize, Deserialize)]
pub struct LayerRow {
    pub layer: String,
    pub structure: String,
    in_features: usize,
    out_features: usize,
    pub dense_parameters: usize,
    pub parameters: usize,
    dense_bytes: usize,
    bytes: usize,
    pub relative_error: Option<f64>,
}

pub fn run(common: &Common, arguments: &InspectArguments) -> Result<(), CommandError> {
    let checkpoint = Checkpoint::open(&arguments.checkpoint)?;
    let report = inspect(&checkpoint)?;
    output::print(table(&report).text());
    output::write_json(common.json.as_deref(), &report)
}

impl Report {
    /// The model as plots show it.
    pub fn as_model(&self, name: String) -> html::Model {
        let looks = self.layers.iter();
        let looks = looks.map(|row| Look::of_structure(&row.structure));
        html::Model {
            name,
            look: Look::of_all(looks),
            parameters: self.parameters,
            layer_bytes: self.bytes - self.other_bytes,
            other_bytes: self.other_bytes,
        }
    }
}

/// Looks at a checkpoint.
pub fn inspect(checkpoint: &Checkpoint) -> Result<Report, CommandError> {
    checkpoint.expect_whole()?;
    let layers: Vec<LayerRow> = models::linear_layers(checkpoint)?
        .iter()
        .map(|layer| layer_row(checkpoint, layer))
        .collect::<Result<_, _>>()?;
    let (parameters, bytes) = totals(checkpoint);
    let sum = |value: fn(&LayerRow) -> usize| layers.iter().map(value).sum::<usize>();
    let (layer_parameters, layer_bytes) = (sum(|row| row.parameters), sum(|row| row.bytes));
    let other_parameters = parameters - layer_parameters;
    let other_bytes = bytes - layer_bytes;
    Ok(Report {
        family: checkpoint.family().model_type().to_string(),
        other_parameters,
        other_bytes,
        parameters,
        bytes,
        dense_parameters: other_parameters + sum(|row| row.dense_parameters),
        dense_bytes: other_bytes + sum(|row| row.dense_bytes),
        layers,
    })
}

/// Elements and bytes of all tensors of a checkpoint.
pub fn totals(checkpoint: &Checkpoint) -> (usize, usize) {
    let entries = checkpoint.names().filter_map(|name| checkpoint.entry(name));
    entries.fold((0, 0), |(parameters, bytes), entry| {
        (
            parameters + entry.shape.iter().product::<usize>(),
            bytes + entry.bytes.len(),
        )
    })
}

fn layer_row(checkpoint: &Checkpoint, layer: &LinearLayer) -> Result<LayerRow, CommandError> {
    let mut bytes = 0;
    for (name, shape) in layer.weight_tensors(&layer.structure) {
        let entry = checkpoint
            .entry(&name)
            .ok_or_else(|| models::ModelError::MissingTensor {
                path: checkpoint.dir().to_path_buf(),
                tensor: name,
                expected: shape,
            })?;
        bytes += entry.bytes.len();
    }
    let (parameters, dense_parameters) = (layer.parameters(), layer.dense_parameters());
    let recorded = checkpoint.blr().layers.get(&layer.name);
    Ok(LayerRow {
        layer: layer.name.clone(),
        structure: layer.structure.to_string(),
        in_features: layer.in_features,
        out_features: layer.out_features,
        dense_parameters,
        parameters,
        // Factors have the number format that the dense weight had.
        dense_bytes: bytes / parameters * dense_parameters,
        bytes,
        relative_error: recorded.and_then(|recorded| recorded.relative_error),
    })
}

fn table(report: &Report) -> Table {
    let mut table = Table::new([
        "layer",
        "structure",
        "in -> out",
        "dense",
        "now",
        "kept",
        "bytes",
        "error",
    ]);
    let kept = |now: usize, dense: usize| format!("{:.3}", now as f64 / dense as f64);
    for row in &report.layers {
        table.row([
            row.layer.clone(),
            row.structure.clone(),
            format!("{} -> {}", row.in_features, row.out_features),
            row.dense_parameters.to_string(),
            row.parameters.to_string(),
            kept(row.parameters, row.dense_parameters),
            output::bytes(row.bytes),
            row.relative_error
                .map_or_else(String::new, |error| format!("{error:.4}")),
        ]);
    }
    let other = report.other_parameters.to_string();
    table.row([
        "everything else".to_string(),
        String::new(),
        String::new(),
        other.clone(),
        other,
        String::new(),
        output::bytes(report.other_bytes),
        String::new(),
    ]);
    table.row([
        format!("total ({})", report.family),
        String::new(),
        String::new(),
        report.dense_parameters.to_string(),
        report.parameters.to_string(),
        kept(report.parameters, report.dense_parameters),
        output::bytes(report.bytes),
        String::new(),
    ]);
    table
}
