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
    if burn_blr::cuda::device_count() == 0 {
        // Past the capture of the test harness, so that a skip never looks like a pass.
        SAID.call_once(|| {
            let _ = writeln!(stderr(), "SKIPPED CUDA: no driver, NVRTC or device answers");
        });
        return None;
    }
    #[cfg(feature = "cuda")]
    return Some(Device::cuda(0));
    #[cfg(not(feature = "cuda"))]
    None
}
