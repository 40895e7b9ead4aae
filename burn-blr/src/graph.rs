//! Work on a device that is captured once and replayed with one launch.

use burn::backend::{Backend, BackendGraph, Dispatch};
use burn::tensor::Device;
use thiserror::Error;

/// Rounds of the work before a capture. They compile kernels; with fusion the first of them makes the
/// plan that later ones follow, and may allocate what those do not.
const ROUNDS_BEFORE_CAPTURE: usize = 2;

/// Why work was not captured, or not replayed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{reason}")]
pub struct GraphError {
    /// What the backend says.
    pub reason: String,
}

impl GraphError {
    fn new(error: impl core::fmt::Display) -> Self {
        Self {
            reason: error.to_string(),
        }
    }
}

/// Whether `device` captures graphs at all: a CUDA device without autodiff.
pub fn captures(device: &Device) -> bool {
    #[cfg(feature = "cuda")]
    {
        use burn::backend::DispatchDevice;
        matches!(device.as_dispatch(), DispatchDevice::Cuda(_))
    }
    #[cfg(not(feature = "cuda"))]
    {
        let _ = device;
        false
    }
}

/// Operations on a device, captured in a graph.
///
/// Enqueuing an operation costs the host about as long as a small kernel takes; a replay costs it
/// one launch, however many kernels are in the graph. Every replay reads the operands' buffers of
/// the capture and writes the same results.
pub struct CapturedGraph<'a, R> {
    device: Device,
    graph: BackendGraph<Dispatch>,
    results: R,
    /// Holds what the kernels read and write.
    _work: Box<dyn Held + 'a>,
}

/// Anything that is only kept.
trait Held {}

impl<T> Held for T {}

impl<'a, R> CapturedGraph<'a, R> {
    /// Captures what `work` enqueues on `device`.
    ///
    /// `work` is called four times: the first calls compile kernels and let fusion make its plans,
    /// and the one before the capture shows the allocator what it takes, since the driver allocates
    /// nothing while it captures. Nothing in it may wait for the device or copy from the host.
    ///
    /// # Errors
    ///
    /// [`GraphError`] if the backend captures no graphs, or not these operations. The device can be
    /// used as before then.
    ///
    /// # Safety
    ///
    /// No other thread may use the device until this returns: CubeCL captures in the driver's global
    /// mode, in which calls of other threads fail. Every buffer that the operations read or write
    /// must live as long as the graph: `work`, which the graph keeps, has to hold the tensors, and may
    /// only put others in their place that live in the same buffers.
    pub unsafe fn capture(
        device: &Device,
        mut work: impl FnMut() -> R + 'a,
    ) -> Result<Self, GraphError> {
        let dispatch = device.as_dispatch();
        let captured = (|| {
            for _ in 0..ROUNDS_BEFORE_CAPTURE {
                rehearse(device, &mut work)?;
            }
            Dispatch::graph_prepare(dispatch).map_err(GraphError::new)?;
            rehearse(device, &mut work)?;
            Dispatch::graph_start_capture(dispatch).map_err(GraphError::new)?;
            let results = work();
            let graph = Dispatch::graph_stop_capture(dispatch).map_err(GraphError::new)?;
            Ok((graph, results))
        })();
        match captured {
            Ok((graph, results)) => Ok(Self {
                device: device.clone(),
                graph,
                results,
                _work: Box::new(work),
            }),
            Err(error) => {
                // What the failed capture left in the queue of errors is its reason, not that of
                // whatever comes next.
                let _ = device.sync();
                Err(error)
            }
        }
    }

    /// Enqueues all captured operations.
    ///
    /// # Errors
    ///
    /// [`GraphError`] if the backend does not take them. Errors of the operations themselves show
    /// at the next synchronisation.
    pub fn replay(&self) -> Result<(), GraphError> {
        // SAFETY: the caller of `capture` has promised that the buffers live as long as `_work`.
        unsafe { Dispatch::graph_replay(self.device.as_dispatch(), &self.graph) }
            .map_err(GraphError::new)
    }

    /// What `work` returned in the capture: tensors whose buffers every replay overwrites.
    pub fn results(&self) -> &R {
        &self.results
    }

    /// Ends the graph and keeps the results.
    pub fn into_results(self) -> R {
        self.results
    }
}

impl<'a, R, E> CapturedGraph<'a, Result<R, E>> {
    /// The graph of work that made results.
    ///
    /// # Errors
    ///
    /// That of the work, which was the same every time that it was called.
    pub fn transpose(self) -> Result<CapturedGraph<'a, R>, E> {
        Ok(CapturedGraph {
            device: self.device,
            graph: self.graph,
            results: self.results?,
            _work: self._work,
        })
    }
}

/// Does the work and waits for it, with its results held: fusion leaves out what is dropped before it
/// ran.
fn rehearse<R>(device: &Device, work: &mut impl FnMut() -> R) -> Result<(), GraphError> {
    let results = work();
    let done = device.sync();
    drop(results);
    done.map_err(GraphError::new)
}
