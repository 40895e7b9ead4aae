//! What a BLAST product costs.

use crate::couple::couple_flops;
use crate::format::BlastDims;
use crate::product::product_flops;

/// Floating point operations of a forward pass over `tokens` tokens, without the bias.
///
/// A multiply-add counts as two.
pub fn forward_flops(dims: &BlastDims, tokens: usize) -> u64 {
    let outputs = dims.count() * dims.blocks();
    product_flops(dims.blocks(), tokens, dims.ranks(), dims.block_in())
        + couple_flops(dims.blocks(), tokens, dims.ranks())
        + product_flops(outputs, tokens, dims.block_out(), dims.rank())
}

/// Bytes that a forward pass has to move: input, factors and output once each.
///
/// The intermediates are not counted; a fused kernel would keep them on chip.
pub fn forward_bytes(dims: &BlastDims, tokens: usize, element_bytes: usize) -> u64 {
    let features = dims.in_features() + dims.out_features();
    ((tokens * features + dims.parameters()) * element_bytes) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flops_are_twice_the_weights_per_token() -> Result<(), crate::KernelError> {
        let dims = BlastDims::new(2, 3, 6, 10)?;
        assert_eq!(forward_flops(&dims, 11), 2 * 11 * dims.parameters() as u64);
        assert_eq!(forward_bytes(&dims, 11, 2), 2 * (11 * 16 + 60));
        Ok(())
    }
}
