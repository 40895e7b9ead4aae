//! What all launches of one call have in common.

use cubecl::prelude::*;

use crate::device;
use crate::error::KernelError;
use crate::operand::{axis_size, check_input, check_output, elements_reached};
use crate::strategy::Strategy;

/// Client, element type and strategy of one call.
pub(crate) struct Context<'a, R: Runtime> {
    pub client: &'a ComputeClient<R>,
    pub dtype: ElemType,
    /// Bytes of one element.
    pub element_bytes: usize,
    pub strategy: &'a Strategy,
    /// Elements that the largest operand reaches.
    largest: usize,
}

impl<'a, R: Runtime> Context<'a, R> {
    /// Checks the element type.
    pub fn new(
        client: &'a ComputeClient<R>,
        dtype: ElemType,
        strategy: &'a Strategy,
    ) -> Result<Self, KernelError> {
        let element_bytes = device::element_bytes(client, dtype)?;
        Ok(Self {
            client,
            dtype,
            element_bytes,
            strategy,
            largest: 0,
        })
    }

    /// Checks a tensor that is read.
    pub fn input(
        &mut self,
        operand: &'static str,
        binding: &TensorBinding<R>,
        shape: &[usize],
    ) -> Result<(), KernelError> {
        check_input(operand, binding, shape, self.element_bytes)?;
        self.largest = self.largest.max(elements_reached(binding));
        Ok(())
    }

    /// Checks a tensor that is written.
    pub fn output(
        &mut self,
        operand: &'static str,
        binding: &TensorBinding<R>,
        shape: &[usize],
    ) -> Result<(), KernelError> {
        check_output(operand, binding, shape, self.element_bytes)?;
        self.largest = self.largest.max(elements_reached(binding));
        Ok(())
    }

    /// Address type that reaches every element of every checked operand, and counts `work`.
    pub fn address_type(&self, work: usize) -> Result<AddressType, KernelError> {
        device::address_type(self.client, self.largest.max(work))
    }
}

/// Tokens of a tensor `[tokens, features]`.
///
/// A tensor of another rank has none; the shape check that follows says so.
pub(crate) fn tokens_of<R: Runtime>(binding: &TensorBinding<R>) -> usize {
    axis_size(binding, 0)
}

/// Runs of at most `most` tokens, as (first, number).
pub(crate) fn runs(tokens: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..tokens)
        .step_by(most)
        .map(move |first| (first, most.min(tokens - first)))
}

/// Tokens that scratch holds at a time: those along `axis` of its tensor, but no more than `tokens`.
pub(crate) fn held_tokens<R: Runtime>(
    scratch: &TensorBinding<R>,
    axis: usize,
    tokens: usize,
) -> usize {
    // Scratch without room is of the wrong shape, as the check that follows says.
    match axis_size(scratch, axis) {
        0 => tokens,
        held => held.min(tokens),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_cover_all_tokens_once() {
        let found = |tokens, most| runs(tokens, most).collect::<Vec<_>>();
        assert_eq!(found(5, 2), [(0, 2), (2, 2), (4, 1)]);
        assert_eq!(found(4, 4), [(0, 4)]);
        assert_eq!(found(0, 3), []);
    }
}
