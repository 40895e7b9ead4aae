//! The CubeCL clients that kernels are tested on, and visible skips where one is missing.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::RwLock;

use cubecl::prelude::*;
use cubecl_cuda::CudaRuntime;
use cubecl_wgpu::WgpuRuntime;

/// Says on stderr that something was not tested.
///
/// Written past the capture of the test harness, so that a skip never looks like a pass.
pub fn skip(what: &str, reason: &str) {
    let mut stderr = std::io::stderr();
    let _ = writeln!(stderr, "SKIPPED {what}: {reason}");
}

/// A client of the software (or any other) Vulkan device.
pub fn vulkan() -> Option<ComputeClient<WgpuRuntime>> {
    // The runtime panics without an adapter, and offers no way to ask first.
    let client = catch_unwind(AssertUnwindSafe(
        || WgpuRuntime::client(&Default::default()),
    ));
    if client.is_err() {
        skip(
            "Vulkan",
            "no adapter (on Debian: apt-get install mesa-vulkan-drivers libvulkan1)",
        );
    }
    client.ok()
}

/// A client of the first CUDA device.
pub fn cuda() -> Option<ComputeClient<CudaRuntime>> {
    // The runtime panics where the driver or NVRTC is missing.
    if burn_blr::cuda::device_count() == 0 {
        skip("CUDA", "no driver, NVRTC or device answers");
        return None;
    }
    Some(CudaRuntime::client(&Default::default()))
}

/// Held by tests on the CUDA device: shared by most, alone by those that capture graphs, since the
/// driver refuses the calls of other threads while one captures.
pub static CUDA: RwLock<()> = RwLock::new(());

/// Runs bodies `fn(&ComputeClient<R>)`, generic over the runtime, as a test for each device; those
/// after `alone` with no other test of this kind on a CUDA device.
macro_rules! on_every_device {
    ($($name:ident)* $(; alone $($alone:ident)*)?) => {
        mod vulkan {
            $(#[test]
            fn $name() {
                if let Some(client) = crate::harness::clients::vulkan() {
                    super::$name(&client);
                }
            })*
            $($(#[test]
            fn $alone() {
                if let Some(client) = crate::harness::clients::vulkan() {
                    super::$alone(&client);
                }
            })*)?
        }
        mod cuda {
            use std::sync::PoisonError;
            use crate::harness::clients::CUDA;

            $(#[test]
            fn $name() {
                let _shared = CUDA.read().unwrap_or_else(PoisonError::into_inner);
                if let Some(client) = crate::harness::clients::cuda() {
                    super::$name(&client);
                }
            })*
            $($(#[test]
            fn $alone() {
                let _alone = CUDA.write().unwrap_or_else(PoisonError::into_inner);
                if let Some(client) = crate::harness::clients::cuda() {
                    super::$alone(&client);
                }
            })*)?
        }
    };
}
pub(crate) use on_every_device;
