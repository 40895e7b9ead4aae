//! Whether the kernels of the layers are chosen by measurement.
//!
//! They are chosen by a cost model, which costs nothing. With [`set_wanted`], the first call of each
//! class of shapes on a GPU measures the few plans that the model thinks best and takes the fastest,
//! at the cost of compiling them: seconds for each class. Results stay in CubeCL's persistent cache.
//! See [`cubecl_kernels::tuning`] for what a class is, and what happens where a graph is captured.

use std::sync::atomic::{AtomicBool, Ordering};

pub use cubecl_kernels::tuning::measured;

static WANTED: AtomicBool = AtomicBool::new(false);

/// Says whether this process chooses kernels by measurement from now on.
pub fn set_wanted(wanted: bool) {
    WANTED.store(wanted, Ordering::Relaxed);
}

/// Whether this process chooses kernels by measurement.
pub fn is_wanted() -> bool {
    WANTED.load(Ordering::Relaxed)
}
