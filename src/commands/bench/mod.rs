//! `blr bench`.

mod catalogue;
mod compress;
mod layers;
mod memory;
mod operands;
mod passes;
mod reference;
mod report;

use crate::arguments::{BenchArguments, BenchSubcommand, Common};
use crate::error::CommandError;

pub fn run(common: &Common, arguments: &BenchArguments) -> Result<(), CommandError> {
    match &arguments.what {
        BenchSubcommand::Layers(arguments) => layers::run(common, arguments),
        BenchSubcommand::Report(arguments) => report::run(common, arguments),
        BenchSubcommand::Compress(arguments) => compress::run(common, arguments),
    }
}
