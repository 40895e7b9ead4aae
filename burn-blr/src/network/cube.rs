//! What a network does between its layers on CubeCL backends, by the kernels of [`cubecl_kernels`].

use burn::backend::cubecl::dtype_to_elem_type;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeRuntime};
use cubecl::prelude::{ElemType, TensorBinding};
use cubecl_kernels::attention::{
    self, Angles, AppendKeyValue, Attention, OwnTokens, RotateRows, TurnedQuery, scratch_elements,
};
use cubecl_kernels::norm::{self, AddNorm, Norm, Residual};
use cubecl_kernels::{KernelError, Strategy};

use super::backend::append_then_attend;
use super::{Added, Affine, NetworkBackend, NewRows, Turned, Visible, plain};
use crate::ops::{empty_of, served};

/// Bytes that the widest access of a kernel is aligned to on CUDA.
const WIDEST_ACCESS: u64 = 16;

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
        let attended = attend([&query, &key, &value], (seen, position), None, scale);
        match served(attended) {
            Some(output) => output,
            None => plain::attention::<Self>(query, key, value, visible, scale),
        }
    }

    fn append_key_value(
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        position: IntTensor<Self>,
        slots: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !(keys.can_mut() && values.can_mut()) {
            return plain::append_key_value::<Self>(keys, values, key, value, position, slots);
        }
        let operands = AppendKeyValue {
            key: key.clone().binding(),
            value: value.clone().binding(),
            turned: None,
            position: first(&position),
            keys: keys.clone().binding(),
            values: values.clone().binding(),
        };
        let dtype = dtype_to_elem_type(keys.dtype);
        match served(attention::append_key_value(&keys.client, operands, dtype)) {
            Some(()) => (keys, values),
            None => plain::append_key_value::<Self>(keys, values, key, value, position, slots),
        }
    }

    fn append_turned(
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        new: Turned<Self>,
        position: IntTensor<Self>,
        slots: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if !(keys.can_mut() && values.can_mut()) {
            return plain::append_turned::<Self>(keys, values, new, position, slots);
        }
        let output = turned_output(&new.query);
        let operands = AppendKeyValue {
            key: new.key.clone().binding(),
            value: new.value.clone().binding(),
            turned: Some(TurnedQuery {
                query: new.query.clone().binding(),
                angles: angles(&new.cos, &new.sin),
                output: output.clone().binding(),
            }),
            position: first(&position),
            keys: keys.clone().binding(),
            values: values.clone().binding(),
        };
        let dtype = dtype_to_elem_type(keys.dtype);
        match served(attention::append_key_value(&keys.client, operands, dtype)) {
            Some(()) => (keys, values, output),
            None => plain::append_turned::<Self>(keys, values, new, position, slots),
        }
    }

    fn append_and_attend(
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        new: NewRows<Self>,
        position: IntTensor<Self>,
        slots: IntTensor<Self>,
        visible: Visible<Self>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let launch = || {
            let (query, key, value, turns) = match &new {
                NewRows::Still { query, key, value } => (query, key, value, None),
                NewRows::Turned(new) => {
                    let turns = angles(&new.cos, &new.sin);
                    (&new.query, &new.key, &new.value, Some(turns))
                }
            };
            let own = OwnTokens {
                key: key.clone().binding(),
                value: value.clone().binding(),
                angles: turns,
            };
            let seen = (attention::Visible::Causal, Some(first(&position)));
            attend([query, &keys, &values], seen, Some(own), scale)
        };
        let one = matches!(visible, Visible::Causal { .. }) && new.may_be_one_launch();
        let served = match one && keys.can_mut() && values.can_mut() {
            true => served(launch()),
            false => None,
        };
        match served {
            Some(attended) => (keys, values, attended),
            None => append_then_attend::<Self>(keys, values, new, position, slots, visible, scale),
        }
    }

    fn narrow(
        tensor: FloatTensor<Self>,
        axis: usize,
        start: usize,
        length: usize,
    ) -> FloatTensor<Self> {
        let stride = tensor.meta.strides()[axis];
        let bytes = |elements: usize| (elements * stride * tensor.dtype.size()) as u64;
        let behind = tensor.meta.shape()[axis] - start - length;
        let client = &tensor.client;
        let aligned = |offset: u64| match R::name(client) {
            "cuda" => offset.is_multiple_of(WIDEST_ACCESS),
            _ => offset.is_multiple_of(client.properties().memory.alignment),
        };
        if !(aligned(bytes(start)) && aligned(bytes(behind))) {
            return plain::narrow::<Self>(tensor, axis, start, length);
        }
        let (first, last) = (bytes(start), bytes(behind));
        let mut part = tensor;
        part.handle = part.handle.offset_start(first).offset_end(last);
        part.meta.shape[axis] = length;
        part
    }

    fn rotate(
        rows: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let launch = || -> Result<CubeTensor<R>, KernelError> {
            let output = turned_output(&rows);
            let operands = RotateRows {
                rows: rows.clone().binding(),
                angles: angles(&cos, &sin),
                output: output.clone().binding(),
            };
            let dtype = dtype_to_elem_type(rows.dtype);
            attention::rotate_rows(&rows.client, operands, dtype)?;
            Ok(output)
        };
        match served(launch()) {
            Some(output) => output,
            None => plain::rotate::<Self>(rows, cos, sin),
        }
    }

    fn add_norm(
        input: FloatTensor<Self>,
        added: Added<Self>,
        affine: Affine<Self>,
        norm_kind: Norm,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let launch = || -> Result<(CubeTensor<R>, CubeTensor<R>), KernelError> {
            let shape = input.meta.shape().dims::<3>();
            let output = empty_of(&input, shape, input.dtype);
            let sum = match &added {
                Added::Nothing => input.clone(),
                _ => empty_of(&input, shape, input.dtype),
            };
            let residual = match &added {
                Added::Nothing => None,
                Added::Residual(residual) => Some((residual, None)),
                Added::Gated { residual, gate } => Some((residual, Some(of_batch(gate)))),
            };
            let binding = |tensor: &CubeTensor<R>| tensor.clone().binding();
            let operands = AddNorm {
                input: binding(&input),
                residual: residual.map(|(residual, gate)| Residual {
                    residual: binding(residual),
                    gate,
                    sum: binding(&sum),
                }),
                affine: match &affine {
                    Affine::Nothing => norm::Affine::Features {
                        scale: None,
                        shift: None,
                    },
                    Affine::Scaled(scale) => norm::Affine::Features {
                        scale: Some(binding(scale)),
                        shift: None,
                    },
                    Affine::Shifted { scale, shift } => norm::Affine::Features {
                        scale: Some(binding(scale)),
                        shift: Some(binding(shift)),
                    },
                    Affine::Modulated { scale, shift } => norm::Affine::Modulated {
                        scale: of_batch(scale),
                        shift: of_batch(shift),
                    },
                },
                output: binding(&output),
            };
            let dtype = dtype_to_elem_type(input.dtype);
            norm::add_norm(&input.client, operands, norm_kind, epsilon, dtype)?;
            Ok((sum, output))
        };
        match served(launch()) {
            Some(results) => results,
            None => plain::add_norm::<Self>(input, added, affine, norm_kind, epsilon),
        }
    }
}

/// Attends queries to keys and values by a kernel, with what comes with them to be appended;
/// `[batch, tokens, heads, width]`.
fn attend<R: CubeRuntime>(
    [query, key, value]: [&CubeTensor<R>; 3],
    (visible, position): (attention::Visible, Option<(TensorBinding<R>, ElemType)>),
    own: Option<OwnTokens<R>>,
    scale: f64,
) -> Result<CubeTensor<R>, KernelError> {
    let client = &query.client;
    let sizes @ [batch, heads, tokens, width] = query.meta.shape().dims();
    let output = empty_of(query, [batch, tokens, heads, width], query.dtype);
    let scratch = scratch_elements(client, sizes, key.meta.shape()[2]);
    let partial = (scratch > 0).then(|| empty_of(query, [scratch], DType::F32).binding());
    let operands = Attention {
        query: query.clone().binding(),
        key: key.clone().binding(),
        value: value.clone().binding(),
        position,
        own,
        partial,
        output: by_head(output.clone().binding()),
    };
    let dtype = dtype_to_elem_type(query.dtype);
    attention::attention(client, operands, visible, scale, dtype, &Strategy::Auto)?;
    Ok(output)
}

/// Where turned rows go: over themselves where nobody else holds them, since a unit reads both features
/// of its pairs before it writes them.
fn turned_output<R: CubeRuntime>(rows: &CubeTensor<R>) -> CubeTensor<R> {
    match rows.can_mut() {
        true => rows.clone(),
        false => empty_of(rows, rows.meta.shape().dims::<4>(), rows.dtype),
    }
}

fn angles<R: CubeRuntime>(cos: &CubeTensor<R>, sin: &CubeTensor<R>) -> Angles<R> {
    Angles {
        cos: cos.clone().binding(),
        sin: sin.clone().binding(),
    }
}

/// `[batch, 1, features]` as `[batch, features]`.
fn of_batch<R: CubeRuntime>(tensor: &CubeTensor<R>) -> TensorBinding<R> {
    let mut binding = tensor.clone().binding();
    binding.shape.remove(1);
    binding.strides.remove(1);
    binding
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
