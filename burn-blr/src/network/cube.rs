//! Attention and the append on CubeCL backends, by the kernels of [`cubecl_kernels::attention`].

use burn::backend::cubecl::dtype_to_elem_type;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::{DType, Shape};
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeRuntime};
use cubecl::prelude::{ElemType, TensorBinding};
use cubecl_kernels::attention::{self, AppendRows, Attention, scratch_elements};
use cubecl_kernels::{KernelError, Strategy};

use super::{NetworkBackend, Visible, plain};
use crate::ops::served;

impl<R: CubeRuntime> NetworkBackend for CubeBackend<R> {
    fn multi_head_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        visible: Visible<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        let (seen, position) = match &visible {
            Visible::All => (attention::Visible::All, None),
            Visible::Causal { queries, .. } => (attention::Visible::Causal, Some(first(queries))),
            Visible::Except(_) => {
                return plain::attention::<Self>(query, key, value, visible, scale);
            }
        };
        let launch = || -> Result<CubeTensor<R>, KernelError> {
            let [batch, heads, tokens, width] = query.meta.shape().dims();
            let keys = key.meta.shape()[2];
            let output = empty(&query, [batch, tokens, heads, width], query.dtype);
            let sizes = [batch, heads, tokens, width];
            let scratch = scratch_elements(&query.client, sizes, keys);
            let partial = (scratch > 0).then(|| empty(&query, [scratch], DType::F32).binding());
            let operands = Attention {
                query: query.clone().binding(),
                key: key.clone().binding(),
                value: value.clone().binding(),
                position,
                partial,
                output: by_head(output.clone().binding()),
            };
            let dtype = dtype_to_elem_type(query.dtype);
            attention::attention(&query.client, operands, seen, scale, dtype, &Strategy::Auto)?;
            Ok(output)
        };
        match served(launch()) {
            Some(output) => output,
            None => plain::attention::<Self>(query, key, value, visible, scale),
        }
    }

    fn append_rows(
        cache: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        position: IntTensor<Self>,
        slots: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        if !cache.can_mut() {
            return plain::append_rows::<Self>(cache, rows, position, slots);
        }
        let operands = AppendRows {
            rows: rows.clone().binding(),
            position: first(&position),
            cache: cache.clone().binding(),
        };
        let dtype = dtype_to_elem_type(cache.dtype);
        match served(attention::append_rows(&cache.client, operands, dtype)) {
            Some(()) => cache,
            None => plain::append_rows::<Self>(cache, rows, position, slots),
        }
    }
}

/// The first of some integers, and their type.
fn first<R: CubeRuntime>(integers: &CubeTensor<R>) -> (TensorBinding<R>, ElemType) {
    let mut binding = integers.clone().binding();
    binding.shape = [1].as_slice().into();
    binding.strides = [1].as_slice().into();
    (binding, dtype_to_elem_type(integers.dtype))
}

/// `[batch, tokens, heads, width]` as `[batch, heads, tokens, width]`.
fn by_head<R: CubeRuntime>(mut binding: TensorBinding<R>) -> TensorBinding<R> {
    binding.shape.swap(1, 2);
    binding.strides.swap(1, 2);
    binding
}

fn empty<R: CubeRuntime, const D: usize>(
    like: &CubeTensor<R>,
    shape: [usize; D],
    dtype: DType,
) -> CubeTensor<R> {
    let (client, device) = (like.client.clone(), like.device.clone());
    empty_device_contiguous_dtype(client, device, Shape::new(shape), dtype)
}
