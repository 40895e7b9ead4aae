//! Which kernels the layers of this process run on.
//!
//! [`Strategy::Auto`] unless said otherwise. The others are for measurements and tests: where a kernel
//! does not serve an operation, plain ones take its place, and [`unserved`] counts that.

use std::sync::atomic::{AtomicUsize, Ordering};

pub use cubecl_kernels::Strategy;

/// The strategies by their numbers in [`CHOSEN`].
const ALL: [Strategy; 7] = [
    Strategy::Auto,
    Strategy::Tuned,
    Strategy::Naive,
    Strategy::Tiled,
    Strategy::TensorCores,
    Strategy::Hopper,
    Strategy::Fused,
];

static CHOSEN: AtomicUsize = AtomicUsize::new(0);
static UNSERVED: AtomicUsize = AtomicUsize::new(0);

/// Has all products of this process run by `strategy` from now on.
pub fn choose(strategy: Strategy) {
    let number = ALL.iter().position(|other| *other == strategy);
    CHOSEN.store(number.unwrap_or(0), Ordering::Relaxed);
}

/// What products run by.
pub fn chosen() -> Strategy {
    let chosen = ALL.get(CHOSEN.load(Ordering::Relaxed));
    chosen.copied().unwrap_or_default()
}

/// Operations of this process so far that no kernel served: products by the strategy, attention and
/// norms by any.
pub fn unserved() -> usize {
    UNSERVED.load(Ordering::Relaxed)
}

/// Counts an operation that no kernel serves.
#[cfg(feature = "cubecl")]
pub(crate) fn count_unserved() {
    UNSERVED.fetch_add(1, Ordering::Relaxed);
}
