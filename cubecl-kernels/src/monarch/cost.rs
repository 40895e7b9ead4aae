//! What a Monarch product costs.

use crate::format::MonarchDims;
use crate::product::product_flops;

/// Floating point operations of a forward pass over `tokens` tokens, without the bias.
///
/// A multiply-add counts as two.
pub fn forward_flops(dims: &MonarchDims, tokens: usize) -> u64 {
    product_flops(dims.blocks(), tokens, dims.right_rows(), dims.block_in())
        + product_flops(dims.left_blocks(), tokens, dims.block_out(), dims.rank())
}

/// Bytes that a forward pass has to move: input, factors and output once each.
///
/// The intermediate is not counted; a fused kernel would keep it on chip.
pub fn forward_bytes(dims: &MonarchDims, tokens: usize, element_bytes: usize) -> u64 {
    let features = dims.in_features() + dims.out_features();
    ((tokens * features + dims.parameters()) * element_bytes) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::OutputOrder;

    #[test]
    fn flops_are_twice_the_weights_per_token() -> Result<(), crate::KernelError> {
        let dims = MonarchDims::new(2, 4, 6, 10, OutputOrder::Contiguous)?;
        assert_eq!(forward_flops(&dims, 11), 2 * 11 * dims.parameters() as u64);
        assert_eq!(forward_bytes(&dims, 11, 2), 2 * (11 * 16 + 64));
        Ok(())
    }
}
