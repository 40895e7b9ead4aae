//! When plans are measured, and where the results are found again.
//!
//! One test in a process of its own: it counts measurements and moves CubeCL's cache.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(
    unused_macros,
    reason = "the harness is shared with tests that use more of it"
)]

#[path = "../harness/mod.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "shared with tests that use more of it"
)]
mod harness;

use std::path::Path;

use cubecl::prelude::*;
use cubecl_kernels::low_rank::{self, LowRankForward, reference};
use cubecl_kernels::{Epilogue, LowRankDims, Strategy, tuning};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::harness::blocks::Blocks;
use crate::harness::clients;
use crate::harness::dtype::Dtype;
use crate::harness::tensors::{DeviceTensor, Layout};

/// Products in a low-rank layer.
const PRODUCTS: usize = 2;

/// Runs a layer with measured plans; returns how many measurements that took.
fn measured_by<R: Runtime>(client: &ComputeClient<R>, tokens: usize) -> usize {
    let dims = LowRankDims::new(24, 48, 80).unwrap();
    let rng = &mut StdRng::seed_from_u64(1);
    let mut random = |rows, columns| Blocks::random([1, rows, columns], Dtype::F32, rng).values;
    let (x, u, v) = (random(tokens, 48), random(80, 24), random(24, 48));
    let input = |shape: &[usize], values: &[f64]| {
        DeviceTensor::with_values(client, shape, Layout::Contiguous, Dtype::F32, values).binding()
    };
    let output =
        |shape: &[usize]| DeviceTensor::junk(client, shape, Layout::Contiguous, Dtype::F32);
    let result = output(&[tokens, 80]);
    let operands = LowRankForward {
        input: input(&[tokens, 48], &x),
        u: input(&dims.u_shape(), &u),
        v: input(&dims.v_shape(), &v),
        epilogue: Epilogue::default(),
        inner: output(&dims.scratch_shape(tokens)).binding(),
        output: result.binding(),
    };
    let before = tuning::measured();
    let dtype = Dtype::F32.elem();
    low_rank::forward(client, operands, &dims, dtype, &Strategy::Tuned).unwrap();
    let measured = tuning::measured() - before;
    let expected = reference::forward(&dims, tokens, &x, &u, &v, None);
    for (found, expected) in result.read(client).iter().zip(expected) {
        assert!((found - expected).abs() < 1e-4, "{found} for {expected}");
    }
    measured
}

fn results_are_found_again<R: Runtime>(client: &ComputeClient<R>) {
    assert_eq!(measured_by(client, 100), PRODUCTS, "nothing is known");
    assert_eq!(measured_by(client, 100), 0, "the same shapes");
    assert_eq!(
        measured_by(client, 109),
        0,
        "the same class of token counts"
    );
    assert_eq!(measured_by(client, 113), PRODUCTS, "the next class");

    // As in another process.
    tuning::forget();
    assert_eq!(measured_by(client, 97), 0, "in the persistent cache");
    assert_eq!(measured_by(client, 127), 0, "in the persistent cache");
}

/// Before a capture, the caller has made the stream ready for it; a measurement would take that
/// away.
fn nothing_is_measured_while_the_caller_prepares_a_capture<R: Runtime>(client: &ComputeClient<R>) {
    client.graph_prepare().unwrap();
    assert_eq!(measured_by(client, 200), 0);
    client.start_capture().unwrap();
    client.stop_capture().unwrap();
    assert_eq!(measured_by(client, 200), PRODUCTS, "afterwards it is");
}

fn check<R: Runtime>(client: &ComputeClient<R>, cache: &Path) {
    // After the client, whose configuration names a folder of its own.
    cubecl::environment::set_root(cache);
    results_are_found_again(client);
    nothing_is_measured_while_the_caller_prepares_a_capture(client);
}

#[test]
fn plans_are_measured_once_for_each_class_of_shapes() {
    let folder = tempfile::tempdir().unwrap();
    if let Some(client) = clients::vulkan() {
        check(&client, folder.path());
    }
    if let Some(client) = clients::cuda() {
        check(&client, folder.path());
    }
}
