//! One file per subcommand: parse, call the libraries, print.

pub mod bench;
pub mod classify;
pub mod compress;
pub mod demo;
pub mod eval;
mod eval_images;
pub mod finetune;
pub mod forward;
pub mod generate;
pub mod import;
pub mod inspect;
mod learn;
pub mod sample;
pub mod train;
