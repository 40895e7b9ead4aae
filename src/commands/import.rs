//! `blr import`.

use models::{ImportDitOptions, import_dit};
use serde::Serialize;

use crate::arguments::{Common, ImportArguments, ImportDitArguments, ImportSubcommand};
use crate::error::CommandError;
use crate::output;

#[derive(Serialize)]
struct Report<'a> {
    out: &'a std::path::Path,
    config: serde_json::Value,
}

pub fn run(common: &Common, arguments: &ImportArguments) -> Result<(), CommandError> {
    match &arguments.what {
        ImportSubcommand::Dit(arguments) => dit(common, arguments),
    }
}

fn dit(common: &Common, arguments: &ImportDitArguments) -> Result<(), CommandError> {
    let options = ImportDitOptions {
        image_size: arguments.image_size,
        num_heads: arguments.heads,
    };
    let config = import_dit(&arguments.file, &arguments.out, options)?;
    output::line(format_args!(
        "DiT of {} blocks, width {}, {} heads, patches of {}, {} channels of {} x {}, {} classes",
        config.depth,
        config.hidden_size,
        config.num_heads,
        config.patch_size,
        config.in_channels,
        config.input_size,
        config.input_size,
        config.num_classes,
    ));
    output::line(format_args!("written to {}", arguments.out.display()));
    let report = Report {
        out: &arguments.out,
        config: config.to_json(),
    };
    output::write_json(common.json.as_deref(), &report)
}
