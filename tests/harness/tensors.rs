//! Tensors on a device, in layouts that a kernel has to cope with.

use core::marker::PhantomData;

use cubecl::prelude::*;
use cubecl::server::Handle;

use super::dtype::Dtype;

/// How a tensor lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Row-major.
    Contiguous,
    /// The last two axes swapped.
    Transposed,
    /// Three unused elements after each row.
    Padded,
    /// One value everywhere, all strides zero. For tensors that are read.
    Broadcast,
}

/// A tensor on a device, all of whose memory starts as NaN.
pub struct DeviceTensor<R: Runtime> {
    handle: Handle,
    shape: Vec<usize>,
    strides: Vec<usize>,
    dtype: Dtype,
    runtime: PhantomData<R>,
}

fn strides(shape: &[usize], layout: Layout) -> Vec<usize> {
    let rank = shape.len();
    let mut sizes = shape.to_vec();
    match layout {
        Layout::Broadcast => return vec![0; rank],
        Layout::Padded => sizes[rank - 1] += 3,
        Layout::Transposed if rank > 1 => sizes.swap(rank - 1, rank - 2),
        Layout::Transposed | Layout::Contiguous => {}
    }
    let mut strides = vec![1; rank];
    for axis in (0..rank.saturating_sub(1)).rev() {
        strides[axis] = strides[axis + 1] * sizes[axis + 1].max(1);
    }
    if layout == Layout::Transposed && rank > 1 {
        strides.swap(rank - 1, rank - 2);
    }
    strides
}

/// Offsets of all elements, in row-major order.
fn offsets(shape: &[usize], strides: &[usize]) -> Vec<usize> {
    shape
        .iter()
        .zip(strides)
        .fold(vec![0], |offsets, (size, stride)| {
            let next = |offset: usize| (0..*size).map(move |i| offset + i * stride);
            offsets.into_iter().flat_map(next).collect()
        })
}

impl<R: Runtime> DeviceTensor<R> {
    fn new(
        client: &ComputeClient<R>,
        shape: &[usize],
        layout: Layout,
        dtype: Dtype,
        values: Option<&[f64]>,
    ) -> Self {
        let strides = strides(shape, layout);
        let offsets = offsets(shape, &strides);
        // Whole rows, so that what lies after the last one can be checked too.
        let length = offsets.iter().max().map_or(1, |last| last + 4);
        let mut memory = vec![f64::NAN; length];
        for (offset, value) in offsets.iter().zip(values.unwrap_or_default()) {
            memory[*offset] = *value;
        }
        let handle = client.create_from_slice(&dtype.encode(&memory));
        Self {
            handle,
            shape: shape.to_vec(),
            strides,
            dtype,
            runtime: PhantomData,
        }
    }

    /// A tensor that holds `values` (row-major).
    pub fn with_values(
        client: &ComputeClient<R>,
        shape: &[usize],
        layout: Layout,
        dtype: Dtype,
        values: &[f64],
    ) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        Self::new(client, shape, layout, dtype, Some(values))
    }

    /// A tensor to be written.
    pub fn junk(client: &ComputeClient<R>, shape: &[usize], layout: Layout, dtype: Dtype) -> Self {
        Self::new(client, shape, layout, dtype, None)
    }

    pub fn binding(&self) -> TensorBinding<R> {
        TensorBinding {
            handle: self.handle.clone().binding(),
            strides: self.strides.iter().copied().collect(),
            shape: self.shape.iter().copied().collect(),
            runtime: PhantomData,
        }
    }

    /// The elements in row-major order; asserts that nothing else has been written.
    pub fn read(&self, client: &ComputeClient<R>) -> Vec<f64> {
        let bytes = client.read_one(self.handle.clone()).unwrap();
        let mut memory = self.dtype.decode(&bytes);
        let values = offsets(&self.shape, &self.strides)
            .into_iter()
            .map(|offset| std::mem::replace(&mut memory[offset], f64::NAN))
            .collect();
        assert!(
            memory.iter().all(|value| value.is_nan()),
            "written outside of the tensor"
        );
        values
    }
}
