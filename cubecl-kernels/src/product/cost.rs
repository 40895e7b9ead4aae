//! What a batched product costs.

/// Floating point operations of `batches` products of `[rows, depth]` by `[depth, columns]`.
///
/// A multiply-add counts as two.
pub(crate) fn product_flops(batches: usize, rows: usize, columns: usize, depth: usize) -> u64 {
    2 * batches as u64 * rows as u64 * columns as u64 * depth as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_multiply_add_counts_as_two() {
        assert_eq!(product_flops(2, 3, 5, 7), 2 * 2 * 3 * 5 * 7);
    }
}
