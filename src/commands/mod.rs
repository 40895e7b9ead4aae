//! One file per subcommand: parse, call the libraries, print.

pub mod bench;
pub mod classify;
pub mod compress;
mod compress_report;
pub mod demo;
mod demo_report;
pub mod eval;
mod eval_images;
mod eval_report;
pub mod finetune;
pub mod forward;
pub mod generate;
pub mod import;
pub mod inspect;
mod learn;
pub mod merge;
pub mod roofline;
pub mod sample;
pub mod train;
