//! What coupling costs.

/// Floating point operations of coupling `blocks` blocks of `[tokens, rank]`, or of the gradient
/// of the couplings. A multiply-add counts as two.
pub(crate) fn couple_flops(blocks: usize, tokens: usize, rank: usize) -> u64 {
    2 * (blocks * blocks) as u64 * tokens as u64 * rank as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_blocks_is_coupled() {
        assert_eq!(couple_flops(3, 5, 7), 2 * 9 * 5 * 7);
    }
}
