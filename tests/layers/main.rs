//! The layers and operations of `burn-blr` on every device of this machine.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a test that cannot go on fails, and tests have no documentation"
)]

mod case;
mod cuda;
#[path = "../harness/devices.rs"]
mod devices;
mod forward;
mod gradients;
mod modules;
mod network;
mod sizes;
