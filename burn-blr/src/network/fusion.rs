//! Attention and the append as custom operations of a fusion stream.

use core::marker::PhantomData;

use burn::backend::ir::{CustomOpIr, HandleContainer, OperationIr, TensorIr};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::{DType, Shape};
use burn_fusion::stream::{Operation, StreamId};
use burn_fusion::{Fusion, FusionBackend, FusionRuntime};

use super::{NetworkBackend, Visible, plain};

impl<B: FusionBackend + NetworkBackend> NetworkBackend for Fusion<B> {
    fn multi_head_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        visible: Visible<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        let [batch, heads, tokens, width] = query.shape.dims();
        // Where no kernel will serve it, fusion does better with the single operations.
        if query.dtype == DType::F32 && tokens > 1 {
            return plain::attention::<Self>(query, key, value, visible, scale);
        }
        let call = Call::Attention {
            causal: matches!(visible, Visible::Causal { .. }),
            scale,
        };
        let integers = match visible {
            Visible::All => Vec::new(),
            Visible::Causal { queries, keys } => vec![queries, keys],
            Visible::Except(_) => {
                return plain::attention::<Self>(query, key, value, visible, scale);
            }
        };
        let shape = Shape::new([batch, tokens, heads, width]);
        register::<B>(call, vec![query, key, value], integers, shape)
    }

    fn append_rows(
        cache: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        position: IntTensor<Self>,
        slots: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let shape = cache.shape.clone();
        register::<B>(
            Call::AppendRows,
            vec![cache, rows],
            vec![position, slots],
            shape,
        )
    }
}

/// One operation of [`NetworkBackend`] with everything but its tensors.
#[derive(Debug, Clone, Copy)]
enum Call {
    Attention { causal: bool, scale: f64 },
    AppendRows,
}

impl Call {
    /// Name in a fusion stream; calls that compute different things have different names.
    fn name(self) -> &'static str {
        match self {
            Call::Attention { causal: true, .. } => "blr::causal_attention",
            Call::Attention { causal: false, .. } => "blr::attention",
            Call::AppendRows => "blr::append_rows",
        }
    }

    fn run<B: NetworkBackend>(
        self,
        floats: Vec<FloatTensor<B>>,
        integers: Vec<IntTensor<B>>,
    ) -> FloatTensor<B> {
        let (mut floats, mut integers) = (floats.into_iter(), integers.into_iter());
        let mut float = || floats.next().unwrap_or_else(|| unreachable!("{self:?}"));
        let mut integer = || integers.next().unwrap_or_else(|| unreachable!("{self:?}"));
        match self {
            Call::Attention { causal, scale } => {
                let (query, key, value) = (float(), float(), float());
                let visible = if causal {
                    let (queries, keys) = (integer(), integer());
                    Visible::Causal { queries, keys }
                } else {
                    Visible::All
                };
                B::multi_head_attention(query, key, value, visible, scale)
            }
            Call::AppendRows => {
                let (cache, rows) = (float(), float());
                B::append_rows(cache, rows, integer(), integer())
            }
        }
    }
}

/// Appends `call` to the stream of the calling thread; its result exists once it has run.
fn register<B: FusionBackend + NetworkBackend>(
    call: Call,
    floats: Vec<FloatTensor<Fusion<B>>>,
    integers: Vec<IntTensor<Fusion<B>>>,
    shape: Shape,
) -> FloatTensor<Fusion<B>> {
    let client = floats[0].client.clone();
    let dtype = floats[0].dtype;
    let floating = floats.len();
    let output = TensorIr::uninit(client.create_empty_handle(), shape, dtype);
    let inputs: Vec<TensorIr> = floats
        .into_iter()
        .chain(integers)
        .map(|operand| operand.into_ir())
        .collect();
    let desc = CustomOpIr::new(call.name(), &inputs, &[output]);
    let operation = Recorded::<B> {
        desc: desc.clone(),
        floating,
        call,
        backend: PhantomData,
    };
    let outputs = client.register(StreamId::current(), OperationIr::Custom(desc), operation);
    let Ok([output]) = <[FloatTensor<Fusion<B>>; 1]>::try_from(outputs) else {
        unreachable!("{call:?} has one result");
    };
    output
}

#[derive(Debug, Clone)]
struct Recorded<B> {
    desc: CustomOpIr,
    /// Operands that are floats; the others are integers.
    floating: usize,
    call: Call,
    backend: PhantomData<B>,
}

impl<B: FusionBackend + NetworkBackend> Operation<B::FusionRuntime> for Recorded<B> {
    fn execute(
        &self,
        handles: &mut HandleContainer<<B::FusionRuntime as FusionRuntime>::FusionHandle>,
    ) {
        let (floats, integers) = self.desc.inputs.split_at(self.floating);
        let floats = floats
            .iter()
            .map(|input| handles.get_float_tensor::<B>(input))
            .collect();
        let integers = integers
            .iter()
            .map(|input| handles.get_int_tensor::<B>(input))
            .collect();
        let result = self.call.run::<B>(floats, integers);
        for output in &self.desc.outputs {
            handles.register_float_tensor::<B>(&output.id, result.clone());
        }
    }
}
