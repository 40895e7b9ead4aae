//! The products as custom operations of a fusion stream.

use core::marker::PhantomData;

use burn::backend::ir::{CustomOpIr, HandleContainer, OperationIr, TensorIr};
use burn::backend::tensor::FloatTensor;
use burn::tensor::DType;
use burn_fusion::stream::{Operation, StreamId};
use burn_fusion::{Fusion, FusionBackend, FusionRuntime};
use cubecl_kernels::{Activation, Merge, OutputOrder};

use super::call::{Call, Finish};
use super::{Bias, BlrBackend, Merged, plain};

impl<B: FusionBackend + BlrBackend> BlrBackend for Fusion<B> {
    fn dense_linear(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Bias<Self>,
        activation: Activation,
        merged: Merged<Self>,
    ) -> FloatTensor<Self> {
        // Burn's products of f32 use tensor cores, in tf32, and ours do not.
        if input.dtype == DType::F32 {
            let output = plain::dense_linear::<Self>(input, weight, bias);
            return plain::finish::<Self>(output, activation, merged);
        }
        let (operands, finish) = finished::<B>(vec![input, weight], bias, activation, merged);
        let [output] = register::<B, 1>(Call::Dense { finish }, operands);
        output
    }

    fn low_rank_linear(
        input: FloatTensor<Self>,
        u: FloatTensor<Self>,
        v: FloatTensor<Self>,
        bias: Bias<Self>,
        activation: Activation,
        merged: Merged<Self>,
    ) -> FloatTensor<Self> {
        let (operands, finish) = finished::<B>(vec![input, u, v], bias, activation, merged);
        let [output] = register::<B, 1>(Call::LowRank { finish }, operands);
        output
    }

    fn low_rank_linear_backward(
        grad: FloatTensor<Self>,
        input: FloatTensor<Self>,
        u: FloatTensor<Self>,
        v: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        register::<B, 3>(Call::LowRankBackward, vec![grad, input, u, v]).into()
    }

    fn monarch_linear(
        input: FloatTensor<Self>,
        right: FloatTensor<Self>,
        left: FloatTensor<Self>,
        bias: Bias<Self>,
        order: OutputOrder,
        activation: Activation,
        merged: Merged<Self>,
    ) -> FloatTensor<Self> {
        let (operands, finish) = finished::<B>(vec![input, right, left], bias, activation, merged);
        let [output] = register::<B, 1>(Call::Monarch { order, finish }, operands);
        output
    }

    fn monarch_linear_backward(
        grad: FloatTensor<Self>,
        input: FloatTensor<Self>,
        right: FloatTensor<Self>,
        left: FloatTensor<Self>,
        order: OutputOrder,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let call = Call::MonarchBackward { order };
        register::<B, 3>(call, vec![grad, input, right, left]).into()
    }

    fn blast_linear(
        input: FloatTensor<Self>,
        u: FloatTensor<Self>,
        s: FloatTensor<Self>,
        v: FloatTensor<Self>,
        bias: Bias<Self>,
        activation: Activation,
        merged: Merged<Self>,
    ) -> FloatTensor<Self> {
        let (operands, finish) = finished::<B>(vec![input, u, s, v], bias, activation, merged);
        let [output] = register::<B, 1>(Call::Blast { finish }, operands);
        output
    }

    fn blast_linear_backward(
        grad: FloatTensor<Self>,
        input: FloatTensor<Self>,
        u: FloatTensor<Self>,
        s: FloatTensor<Self>,
        v: FloatTensor<Self>,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    ) {
        register::<B, 4>(Call::BlastBackward, vec![grad, input, u, s, v]).into()
    }

    fn exact_product(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        let [output] = register::<B, 1>(Call::ExactProduct, vec![lhs, rhs]);
        output
    }
}

/// All operands of a forward call, and what follows its product.
fn finished<B: FusionBackend>(
    mut operands: Vec<FloatTensor<Fusion<B>>>,
    bias: Bias<Fusion<B>>,
    activation: Activation,
    merged: Merged<Fusion<B>>,
) -> (Vec<FloatTensor<Fusion<B>>>, Finish) {
    let mut finish = Finish {
        biased: false,
        activation,
        merge: None,
    };
    if let Bias::Added(bias) = bias {
        operands.push(bias);
        finish.biased = true;
    }
    match merged {
        Merged::Alone => {}
        Merged::Times(other) => {
            operands.push(other);
            finish.merge = Some(Merge::Times);
        }
        Merged::Plus(other) => {
            operands.push(other);
            finish.merge = Some(Merge::Plus);
        }
    }
    (operands, finish)
}

/// Appends `call` to the stream of the calling thread; its `N` results exist once it has run.
fn register<B: FusionBackend + BlrBackend, const N: usize>(
    call: Call,
    operands: Vec<FloatTensor<Fusion<B>>>,
) -> [FloatTensor<Fusion<B>>; N] {
    let client = operands[0].client.clone();
    let dtype = operands[0].dtype;
    let shapes: Vec<_> = operands
        .iter()
        .map(|operand| operand.shape.clone())
        .collect();
    let outputs: Vec<TensorIr> = call
        .output_shapes(&shapes)
        .into_iter()
        .map(|shape| TensorIr::uninit(client.create_empty_handle(), shape, dtype))
        .collect();
    let inputs: Vec<TensorIr> = operands
        .into_iter()
        .map(|operand| operand.into_ir())
        .collect();
    let desc = CustomOpIr {
        id: call.name(),
        inputs,
        outputs,
        scalars: Vec::new(),
    };
    let operation = Recorded::<B> {
        desc: desc.clone(),
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
struct Recorded<B> {
    desc: CustomOpIr,
    call: Call,
    backend: PhantomData<B>,
}

impl<B: FusionBackend + BlrBackend> Operation<B::FusionRuntime> for Recorded<B> {
    fn execute(
        &self,
        handles: &mut HandleContainer<<B::FusionRuntime as FusionRuntime>::FusionHandle>,
    ) {
        let operands = self
            .desc
            .inputs
            .iter()
            .map(|input| handles.get_float_tensor::<B>(input))
            .collect();
        let results = self.call.run::<B>(operands);
        for (output, result) in self.desc.outputs.iter().zip(results) {
            handles.register_float_tensor::<B>(&output.id, result);
        }
    }
}
