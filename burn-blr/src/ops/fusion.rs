//! The products as custom operations of a fusion stream.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::DType;
use burn_fusion::{Fusion, FusionBackend};
use cubecl_kernels::{Activation, Merge, OutputOrder};

use super::call::{Call, Finish};
use super::{Bias, BlrBackend, Merged, plain};
use crate::recorded::{self, Recordable};

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
        gated: false,
    };
    if let Bias::Added(bias) = bias {
        operands.push(bias);
        finish.biased = true;
    }
    match merged {
        Merged::Alone => {}
        Merged::Gated => finish.gated = true,
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

/// Appends `call` to the stream of the calling thread.
fn register<B: FusionBackend + BlrBackend, const N: usize>(
    call: Call,
    operands: Vec<FloatTensor<Fusion<B>>>,
) -> [FloatTensor<Fusion<B>>; N] {
    let shapes: Vec<_> = operands
        .iter()
        .map(|operand| operand.shape.clone())
        .collect();
    let shapes = call.output_shapes(&shapes);
    recorded::register::<B, Call, N>(call, operands, Vec::new(), shapes)
}

impl<B: FusionBackend + BlrBackend> Recordable<B> for Call {
    fn name(self) -> String {
        Call::name(self)
    }

    fn run(self, floats: Vec<FloatTensor<B>>, _integers: Vec<IntTensor<B>>) -> Vec<FloatTensor<B>> {
        Call::run::<B>(self, floats)
    }
}
