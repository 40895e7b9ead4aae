//! The command `blr` as its users run it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a test that cannot go on fails, and tests have no documentation"
)]

mod bad_input;
mod bench;
mod compress;
mod demo;
#[allow(
    dead_code,
    reason = "the command's tests only ask whether a GPU is there"
)]
#[path = "../harness/devices.rs"]
mod devices;
mod dit;
mod eval;
mod forward;
mod generate;
mod inspect;
mod learning;
mod llama;
mod merge;
mod report;
mod resume;
mod roofline;
mod run;
mod safetensors_by_hand;
mod vit;
