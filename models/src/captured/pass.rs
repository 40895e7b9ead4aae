//! One captured pass: the mechanism behind [`crate::CapturedForward`] and [`crate::Decoder`].

use burn::tensor::{Device, Tensor};
use burn_blr::cuda::overwrite_with_nan;
use burn_blr::graph::{CapturedGraph, GraphError};

use crate::ModelError;

/// A pass through a model that was captured: the same kernels on the same buffers every time.
///
/// [`crate::CapturedForward`] and [`crate::Decoder`] make it and use it; what is public here is for
/// measurements.
pub struct CapturedPass<'a, I, const D: usize> {
    graph: CapturedGraph<'a, Tensor<D>>,
    inputs: I,
}

impl<'a, I, const D: usize> CapturedPass<'a, I, D> {
    /// Captures `pass`, which reads `inputs`. The outer error is one of the pass, the inner one says
    /// why it is not captured.
    ///
    /// # Safety
    ///
    /// As for [`CapturedGraph::capture`]; `pass` holds `inputs`.
    pub(crate) unsafe fn capture(
        device: &Device,
        inputs: I,
        pass: impl FnMut() -> Result<Tensor<D>, ModelError> + 'a,
    ) -> Result<Result<Self, GraphError>, ModelError> {
        // SAFETY: the caller's promise.
        Ok(match unsafe { CapturedGraph::capture(device, pass) } {
            Ok(graph) => Ok(Self {
                graph: graph.transpose()?,
                inputs,
            }),
            Err(error) => Err(error),
        })
    }

    /// The tensors that the pass reads.
    pub(crate) fn inputs(&self) -> &I {
        &self.inputs
    }

    /// Enqueues the pass on the inputs that it has.
    ///
    /// # Errors
    ///
    /// [`ModelError::Graph`] if the device does not take it.
    pub fn replay(&self) -> Result<(), ModelError> {
        Ok(self.graph.replay()?)
    }

    /// The tensor that every replay overwrites, as the last one left it.
    pub fn output(&self) -> &Tensor<D> {
        self.graph.results()
    }

    /// Fills the output with NaN in place, so that what a replay writes can be told from what was
    /// there; returns whether that could be done.
    pub fn spoil_output(&self) -> bool {
        overwrite_with_nan(self.output().clone())
    }
}

/// The error where the inputs of a captured pass could not be written.
pub(crate) fn inputs_not_written() -> ModelError {
    ModelError::Graph(GraphError {
        reason: "its inputs cannot be written".to_string(),
    })
}

/// Why there is no captured pass, where a capture that was tried gave this reason.
pub(crate) fn no_capture(reason: Option<String>) -> GraphError {
    GraphError {
        reason: reason.unwrap_or_else(|| "the device captures no graphs".to_string()),
    }
}
