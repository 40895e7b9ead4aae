//! Passes at fixed shapes, captured once and replayed with one launch.

mod forward;
mod inputs;
mod pass;

pub(crate) use forward::DIT_INPUTS;
pub use forward::{CapturedForward, DitInputs};
pub use inputs::PassInputs;
pub use pass::CapturedPass;
pub(crate) use pass::{inputs_not_written, no_capture};
