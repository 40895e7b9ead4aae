//! Operations of a backend as custom operations of a fusion stream.

use core::fmt::Debug;
use core::marker::PhantomData;

use burn::backend::ir::{CustomOpIr, HandleContainer, OperationIr, TensorIr};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::Shape;
use burn_fusion::stream::{Operation, StreamId};
use burn_fusion::{Fusion, FusionBackend, FusionRuntime};

/// An operation of `B` with everything but its tensors.
pub(crate) trait Recordable<B: FusionBackend>: Copy + Debug + Send + Sync + 'static {
    /// Name in a fusion stream; calls that compute different things of the same operands have
    /// different names.
    fn name(self) -> String;

    /// Runs it.
    fn run(self, floats: Vec<FloatTensor<B>>, integers: Vec<IntTensor<B>>) -> Vec<FloatTensor<B>>;
}

/// Appends `call` to the stream of the calling thread; its results, of these shapes and of the dtype
/// of the first operand, exist once it has run.
pub(crate) fn register<B: FusionBackend, C: Recordable<B>, const N: usize>(
    call: C,
    floats: Vec<FloatTensor<Fusion<B>>>,
    integers: Vec<IntTensor<Fusion<B>>>,
    shapes: Vec<Shape>,
) -> [FloatTensor<Fusion<B>>; N] {
    let client = floats[0].client.clone();
    let dtype = floats[0].dtype;
    let floating = floats.len();
    let outputs: Vec<TensorIr> = shapes
        .into_iter()
        .map(|shape| TensorIr::uninit(client.create_empty_handle(), shape, dtype))
        .collect();
    let inputs: Vec<TensorIr> = floats
        .into_iter()
        .chain(integers)
        .map(|operand| operand.into_ir())
        .collect();
    let desc = CustomOpIr {
        id: call.name(),
        inputs,
        outputs,
        scalars: Vec::new(),
    };
    let operation = Recorded::<B, C> {
        desc: desc.clone(),
        floating,
        call,
        backend: PhantomData,
    };
    let outputs = client.register(StreamId::current(), OperationIr::Custom(desc), operation);
    let Ok(outputs) = <[FloatTensor<Fusion<B>>; N]>::try_from(outputs) else {
        unreachable!("{call:?} has {N} results");
    };
    outputs
}

#[derive(Debug, Clone)]
struct Recorded<B, C> {
    desc: CustomOpIr,
    /// Operands that are floats; the others are integers.
    floating: usize,
    call: C,
    backend: PhantomData<B>,
}

impl<B: FusionBackend, C: Recordable<B>> Operation<B::FusionRuntime> for Recorded<B, C> {
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
        let results = self.call.run(floats, integers);
        for (output, result) in self.desc.outputs.iter().zip(results) {
            handles.register_float_tensor::<B>(&output.id, result);
        }
    }
}
