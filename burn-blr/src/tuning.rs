//! Whether the kernels of the layers are chosen by measurement.
//!
//! They are chosen by a cost model, which costs nothing. With [`set_wanted`], the first call of each
//! class of shapes on a GPU measures the few plans that the model thinks best and takes the fastest,
//! at the cost of compiling them: seconds for each class. Results stay in CubeCL's persistent cache.
//! See [`cubecl_kernels::tuning`] for what a class is, and what happens where a graph is captured.

use crate::strategy::{self, Strategy};

pub use cubecl_kernels::tuning::measured;

/// Says whether this process chooses kernels by measurement from now on.
pub fn set_wanted(wanted: bool) {
    strategy::choose(match wanted {
        true => Strategy::Tuned,
        false => Strategy::Auto,
    });
}

/// Whether this process chooses kernels by measurement.
pub fn is_wanted() -> bool {
    strategy::chosen() == Strategy::Tuned
}
