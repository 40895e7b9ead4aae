//! `blr bench`.

mod captured;
pub mod catalogue;
mod compress;
mod layers;
mod memory;
pub mod methods;
mod model;
mod networks;
mod one_layer;
mod operands;
mod passes;
mod reference;
mod report;
pub mod rows;

pub use networks::{Family, Phase};
pub use one_layer::layer_us;

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
