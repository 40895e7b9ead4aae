//! The devices a test runs on.

use std::io::{Write, stderr};
use std::sync::Once;

use burn::tensor::Device;

/// The CPU, and the first CUDA device where one answers.
pub fn devices() -> Vec<Device> {
    let mut devices = vec![Device::flex()];
    devices.extend(cuda());
    devices
}

/// The first CUDA device, or nothing and a line that says so.
pub fn cuda() -> Option<Device> {
    static SAID: Once = Once::new();
    let device = burn_blr::cuda::first_device();
    if device.is_none() {
        // Past the capture of the test harness, so that a skip never looks like a pass.
        SAID.call_once(|| {
            let _ = writeln!(stderr(), "SKIPPED CUDA: no driver, NVRTC or device answers");
        });
    }
    device
}
