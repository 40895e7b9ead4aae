//! `blr bench`.

mod captured;
pub mod catalogue;
mod compress;
mod layers;
mod memory;
pub mod methods;
mod model;
mod networks;
mod operands;
mod passes;
mod reference;
mod report;

pub use networks::{Family, Phase};

use crate::arguments::{BenchArguments, BenchSubcommand, Common};
use crate::error::CommandError;

pub fn run(common: &Common, arguments: &BenchArguments) -> Result<(), CommandError> {
    match &arguments.what {
        BenchSubcommand::Layers(arguments) => layers::run(common, arguments),
        BenchSubcommand::Model(arguments) => model::run(common, arguments),
        BenchSubcommand::Report(arguments) => report::run(common, arguments),
        BenchSubcommand::Compress(arguments) => compress::run(common, arguments),
    }
}
