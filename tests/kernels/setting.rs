//! What every operation is run with.

use cubecl::prelude::*;
use cubecl_kernels::{KernelError, Missing, Strategy};

use crate::harness::clients::skip;
use crate::harness::dtype::Dtype;
use crate::harness::tensors::{DeviceTensor, Layout};

/// Element type, strategy and layout of one run.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub dtype: Dtype,
    pub strategy: Strategy,
    /// Of the tensors that are read.
    pub read: Layout,
    /// Of the tensors that are written, scratch included.
    pub written: Layout,
}

impl Setting {
    /// Contiguous tensors.
    pub fn plain(dtype: Dtype, strategy: Strategy) -> Self {
        Self {
            dtype,
            strategy,
            read: Layout::Contiguous,
            written: Layout::Contiguous,
        }
    }

    /// Every element type with every strategy, contiguous.
    pub fn all() -> Vec<Self> {
        let strategies = [Strategy::Naive, Strategy::Tiled, Strategy::Auto];
        let dtypes = Dtype::ALL.into_iter();
        dtypes
            .flat_map(|dtype| strategies.map(|strategy| Self::plain(dtype, strategy)))
            .collect()
    }

    /// Both kernels with tensors that are not contiguous.
    pub fn strided() -> Vec<Self> {
        let layouts = [
            (Layout::Transposed, Layout::Contiguous),
            (Layout::Padded, Layout::Padded),
            (Layout::Contiguous, Layout::Transposed),
        ];
        let strategies = [Strategy::Naive, Strategy::Tiled].into_iter();
        let dtype = Dtype::F32;
        strategies
            .flat_map(|strategy| {
                layouts.map(|(read, written)| Self {
                    dtype,
                    strategy,
                    read,
                    written,
                })
            })
            .collect()
    }

    pub fn input<R: Runtime>(
        &self,
        client: &ComputeClient<R>,
        shape: &[usize],
        values: &[f64],
    ) -> TensorBinding<R> {
        DeviceTensor::with_values(client, shape, self.read, self.dtype, values).binding()
    }

    pub fn output<R: Runtime>(
        &self,
        client: &ComputeClient<R>,
        shape: &[usize],
    ) -> DeviceTensor<R> {
        DeviceTensor::junk(client, shape, self.written, self.dtype)
    }

    /// Whether an operation ran; a device without the element type is a skip that is seen.
    pub fn ran(&self, result: Result<(), KernelError>) -> bool {
        match result {
            Ok(()) => true,
            Err(KernelError::Unavailable(missing @ Missing::ElementType(_))) => {
                skip(&format!("{self:?}"), &missing.to_string());
                false
            }
            Err(error) => panic!("{self:?}: {error}"),
        }
    }
}
