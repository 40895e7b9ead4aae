//! The products under autodiff, with backward passes of their own.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, TensorMetadata};
use burn::tensor::Shape;
use cubecl_kernels::{Activation, OutputOrder};

use super::call::{Call, Finish};
use super::{Bias, BlrBackend, Merged, plain};

impl<B: BlrBackend, C: CheckpointStrategy> BlrBackend for Autodiff<B, C> {
    fn low_rank_linear(
        input: FloatTensor<Self>,
        u: FloatTensor<Self>,
        v: FloatTensor<Self>,
        bias: Bias<Self>,
        activation: Activation,
        merged: Merged<Self>,
    ) -> FloatTensor<Self> {
        let (inside, after) = halves(activation, &merged);
        let call = |biased| Call::LowRank {
            finish: finish(biased, inside),
        };
        let output = match bias {
            Bias::Added(bias) => record::<B, C, 4>(call(true), [input, u, v, bias]),
            Bias::Absent => record::<B, C, 3>(call(false), [input, u, v]),
        };
        plain::finish::<Self>(output, after, merged)
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
        let (inside, after) = halves(activation, &merged);
        let call = |biased| Call::Monarch {
            order,
            finish: finish(biased, inside),
        };
        let output = match bias {
            Bias::Added(bias) => record::<B, C, 4>(call(true), [input, right, left, bias]),
            Bias::Absent => record::<B, C, 3>(call(false), [input, right, left]),
        };
        plain::finish::<Self>(output, after, merged)
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
        let (inside, after) = halves(activation, &merged);
        let call = |biased| Call::Blast {
            finish: finish(biased, inside),
        };
        let output = match bias {
            Bias::Added(bias) => record::<B, C, 5>(call(true), [input, u, s, v, bias]),
            Bias::Absent => record::<B, C, 4>(call(false), [input, u, s, v]),
        };
        plain::finish::<Self>(output, after, merged)
    }
}

/// What follows a product here: what is merged is an operation of its own, since its gradient needs
/// both sides.
fn finish(biased: bool, activation: Activation) -> Finish {
    Finish {
        biased,
        activation,
        merge: None,
        gated: false,
    }
}

/// The activation of the product itself, and the one after it: outputs of a gate are told from others
/// only there.
fn halves<B: BlrBackend>(activation: Activation, merged: &Merged<B>) -> (Activation, Activation) {
    match merged {
        Merged::Gated => (Activation::None, activation),
        _ => (activation, Activation::None),
    }
}

/// Runs `call`, and where an operand is tracked, records its backward step.
///
/// An activation is then an operation of its own, which keeps what it was applied to: its gradient
/// needs that, and computing it again would cost the second product of the layer once more.
fn record<B: BlrBackend, C: CheckpointStrategy, const N: usize>(
    call: Call,
    operands: [FloatTensor<Autodiff<B, C>>; N],
) -> FloatTensor<Autodiff<B, C>> {
    let nodes = operands.each_ref().map(|operand| operand.node.clone());
    // What no tensor refers to, the backward pass of another thread removes from the graph: operands
    // have to be referred to until the result is registered.
    let held = operands.each_ref().map(|operand| operand.rc.clone());
    match ProductBackward(call)
        .prepare::<C>(nodes)
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(mut prep) => {
            let (_, biased) = call.backward();
            let kept = if biased {
                &operands[..N - 1]
            } else {
                &operands[..]
            };
            // Neither the bias nor an intermediate is kept: the backward pass makes the
            // intermediates again from the input, which is r · in multiply-adds a token against
            // up to b times the input's memory.
            let saved = kept
                .iter()
                .map(|operand| prep.checkpoint(operand))
                .collect();
            let (linear, activation) = call.split();
            let output = run::<B>(linear, operands.map(|operand| operand.primitive).into());
            let output = prep.finish(saved, output);
            drop(held);
            plain::activate::<Autodiff<B, C>>(output, activation)
        }
        OpsKind::UnTracked(prep) => prep.finish(run::<B>(
            call,
            operands.map(|operand| operand.primitive).into(),
        )),
    }
}

fn run<B: BlrBackend>(call: Call, operands: Vec<FloatTensor<B>>) -> FloatTensor<B> {
    let Some(output) = call.run::<B>(operands).pop() else {
        unreachable!("{call:?} has one result");
    };
    output
}

#[derive(Debug)]
struct ProductBackward(Call);

impl<B: BlrBackend, const N: usize> Backward<B, N> for ProductBackward {
    /// Where the input and the factors are found again.
    type State = Vec<NodeId>;

    fn backward(
        self,
        ops: Ops<Vec<NodeId>, N>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        let (call, biased) = self.0.backward();
        if biased && let Some(Some(node)) = ops.parents.last() {
            let features = grad.shape()[1];
            let summed = B::float_sum_dim(grad.clone(), 0); // [1, out]
            grads.register::<B>(node.id, B::float_reshape(summed, Shape::new([features])));
        }
        let mut operands: Vec<FloatTensor<B>> = vec![grad];
        operands.extend(
            ops.state
                .into_iter()
                .map(|node| checkpointer.retrieve_node_output::<FloatTensor<B>>(node)),
        );
        for (parent, gradient) in ops.parents.iter().zip(call.run::<B>(operands)) {
            if let Some(node) = parent {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}
