//! The command `blr`: block-low-rank layers for dense checkpoints.

mod arguments;
mod commands;
mod device;
mod device_timing;
mod error;
mod html;
mod output;
mod picture;
mod roofline;
mod svg;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Subcommand};
use error::CommandError;

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&error);
            ExitCode::from(2)
        }
    }
}

fn run(arguments: Arguments) -> Result<(), CommandError> {
    let common = arguments.common;
    match arguments.subcommand {
        Subcommand::Demo(arguments) => commands::demo::run(&common, &arguments),
        Subcommand::Compress(arguments) => commands::compress::run(&common, &arguments),
        Subcommand::Merge(arguments) => commands::merge::run(&common, &arguments),
        Subcommand::Finetune(arguments) => commands::finetune::run(&common, &arguments),
        Subcommand::Train(arguments) => commands::train::run(&common, &arguments),
        Subcommand::Eval(arguments) => commands::eval::run(&common, &arguments),
        Subcommand::Generate(arguments) => commands::generate::run(&common, &arguments),
        Subcommand::Classify(arguments) => commands::classify::run(&common, &arguments),
        Subcommand::Sample(arguments) => commands::sample::run(&common, &arguments),
        Subcommand::Import(arguments) => commands::import::run(&common, &arguments),
        Subcommand::Forward(arguments) => commands::forward::run(&common, &arguments),
        Subcommand::Inspect(arguments) => commands::inspect::run(&common, &arguments),
        Subcommand::Bench(arguments) => commands::bench::run(&common, &arguments),
        Subcommand::Roofline(arguments) => commands::roofline::run(&common, &arguments),
    }
}
