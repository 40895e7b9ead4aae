//! `blr merge`.

use std::path::{Path, PathBuf};

use models::{Checkpoint, ModelError};
use serde::Serialize;
use training::{LayerReport, MergeRequest};

use super::compress::table;
use super::compress_report::{Compressed, name};
use crate::arguments::{Common, MergeArguments};
use crate::error::CommandError;
use crate::output;

#[derive(Serialize)]
struct Report<'a> {
    parts: &'a [PathBuf],
    out: &'a Path,
    layers: &'a [LayerReport],
}

pub fn run(common: &Common, arguments: &MergeArguments) -> Result<(), CommandError> {
    let parts = arguments.parts.iter().map(Checkpoint::open);
    let parts = parts.collect::<Result<Vec<_>, ModelError>>()?;
    let source = arguments
        .source
        .as_ref()
        .map(Checkpoint::open)
        .transpose()?;
    let request = MergeRequest {
        parts: &parts,
        source: source.as_ref(),
        out: &arguments.out,
    };
    let bar = output::progress(0);
    let layers = training::merge(&request, &mut |index, count| {
        bar.set_length(count as u64);
        bar.set_position(index as u64);
    })?;
    bar.finish_and_clear();
    let names: Vec<String> = arguments.parts.iter().map(|path| name(path)).collect();
    let compressed = Compressed {
        title: format!("Merge of {} parts", parts.len()),
        facts: vec![("parts", names.join(", "))],
        source: source.as_ref(),
        out: &arguments.out,
        layers: &layers,
    };
    compressed.write()?;
    output::print(table(&layers).text());
    output::line(format_args!("written to {}", arguments.out.display()));
    let report = Report {
        parts: &arguments.parts,
        out: &arguments.out,
        layers: &layers,
    };
    output::write_json(common.json.as_deref(), &report)
}
