//! How much memory the layers of this process take between their products.
//!
//! Without a limit, a layer takes what all its tokens need: `tokens · r` elements for low-rank,
//! `b · tokens · r` for BLAST and for Monarch, unless one kernel does both products. With less, it does
//! as many tokens at a time as there is room for, and takes longer.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Tokens that are never divided: a tile of the kernels.
pub const LEAST_TOKENS: usize = 128;

static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Has each layer take at most `bytes` between its products from now on, or what [`LEAST_TOKENS`] need
/// if that is more; no limit with `None`. Gradients are computed without a limit.
pub fn limit(bytes: Option<usize>) {
    LIMIT.store(bytes.unwrap_or(usize::MAX), Ordering::Relaxed);
}

/// Tokens of `tokens` to do at a time, where each takes `bytes`.
#[cfg(any(feature = "cubecl", test))]
pub(crate) fn tokens_at_a_time(tokens: usize, bytes: usize) -> usize {
    let room = LIMIT.load(Ordering::Relaxed) / bytes.max(1);
    let whole = room - room % LEAST_TOKENS;
    whole.max(LEAST_TOKENS).min(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_fit_the_limit_in_whole_tiles() {
        assert_eq!(tokens_at_a_time(1000, 64), 1000);
        limit(Some(64 * 300));
        assert_eq!(tokens_at_a_time(1000, 64), 256);
        assert_eq!(tokens_at_a_time(100, 64), 100);
        assert_eq!(tokens_at_a_time(1000, 6400), LEAST_TOKENS);
        limit(None);
        assert_eq!(tokens_at_a_time(1000, 64), 1000);
    }
}
