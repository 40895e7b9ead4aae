//! Which layers become what: plans, their rules and presets.

mod file;
mod preset;
mod resolve;
mod rule;

pub use preset::PRESETS;
pub use resolve::Plan;
pub use rule::{Rule, default_blocks};
