//! What a captured pass reads.

use burn::tensor::{Int, Tensor};
use burn_blr::cuda::{copy_int_into, copy_into};

/// Tensors that a pass reads: one, or three.
pub trait PassInputs: Clone {
    /// The shapes of the tensors, in their order.
    fn shapes(&self) -> Vec<Vec<usize>>;

    /// Copies `values` of the same shapes into the buffers of these tensors; returns whether that could
    /// be done, which is between tensors of one CUDA device only.
    fn overwrite(&self, values: Self) -> bool;
}

impl<const D: usize> PassInputs for Tensor<D> {
    fn shapes(&self) -> Vec<Vec<usize>> {
        vec![self.dims().to_vec()]
    }

    fn overwrite(&self, values: Self) -> bool {
        copy_into(self, values)
    }
}

impl<const D: usize> PassInputs for Tensor<D, Int> {
    fn shapes(&self) -> Vec<Vec<usize>> {
        vec![self.dims().to_vec()]
    }

    fn overwrite(&self, values: Self) -> bool {
        copy_int_into(self, values)
    }
}

impl<A: PassInputs, B: PassInputs, C: PassInputs> PassInputs for (A, B, C) {
    fn shapes(&self) -> Vec<Vec<usize>> {
        [self.0.shapes(), self.1.shapes(), self.2.shapes()].concat()
    }

    fn overwrite(&self, values: Self) -> bool {
        self.0.overwrite(values.0) && self.1.overwrite(values.1) && self.2.overwrite(values.2)
    }
}
