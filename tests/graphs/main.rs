//! What captures graphs: in a process of its own, since no other thread may use a CUDA device
//! meanwhile.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot set itself up should fail where it stands"
)]

mod decoder;
#[path = "../harness/devices.rs"]
mod devices;
mod forward;
mod small_models;
