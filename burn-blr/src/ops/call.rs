//! A product as data, so that `Fusion` and `Autodiff` are written once for all of them.

use burn::backend::tensor::FloatTensor;
use burn::tensor::Shape;
use cubecl_kernels::{Activation, OutputOrder};

use super::{Bias, BlrBackend};

/// One operation of [`BlrBackend`] with everything but its tensors.
///
/// Operands come in the order of the trait's arguments, the bias last where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    #[cfg_attr(
        not(feature = "fusion"),
        allow(dead_code, reason = "only fusion records it")
    )]
    Dense {
        biased: bool,
        activation: Activation,
    },
    LowRank {
        biased: bool,
        activation: Activation,
    },
    LowRankBackward,
    Monarch {
        order: OutputOrder,
        biased: bool,
        activation: Activation,
    },
    MonarchBackward {
        order: OutputOrder,
    },
    Blast {
        biased: bool,
        activation: Activation,
    },
    BlastBackward,
    #[cfg_attr(
        not(feature = "fusion"),
        allow(dead_code, reason = "only fusion records it")
    )]
    ExactProduct,
}

/// A name with its activation.
#[cfg(feature = "fusion")]
macro_rules! named {
    ($name:literal, $activation:expr) => {
        match $activation {
            Activation::None => $name,
            Activation::Gelu => concat!($name, "_gelu"),
            Activation::GeluTanh => concat!($name, "_gelu_tanh"),
            Activation::Silu => concat!($name, "_silu"),
        }
    };
}

impl Call {
    /// Name in a fusion stream; calls that compute different things have different names.
    #[cfg(feature = "fusion")]
    pub(super) fn name(self) -> &'static str {
        match self {
            Call::Dense { activation, .. } => named!("blr::dense_linear", activation),
            Call::LowRank { activation, .. } => named!("blr::low_rank_linear", activation),
            Call::LowRankBackward => "blr::low_rank_linear_backward",
            Call::Monarch {
                order: OutputOrder::Contiguous,
                activation,
                ..
            } => named!("blr::monarch_linear", activation),
            Call::Monarch {
                order: OutputOrder::Interleaved,
                activation,
                ..
            } => named!("blr::monarch_linear_interleaved", activation),
            Call::MonarchBackward {
                order: OutputOrder::Contiguous,
            } => "blr::monarch_linear_backward",
            Call::MonarchBackward {
                order: OutputOrder::Interleaved,
            } => "blr::monarch_linear_interleaved_backward",
            Call::Blast { activation, .. } => named!("blr::blast_linear", activation),
            Call::BlastBackward => "blr::blast_linear_backward",
            Call::ExactProduct => "blr::exact_product",
        }
    }

    /// Shapes of the results, from those of the operands.
    #[cfg(feature = "fusion")]
    pub(super) fn output_shapes(self, operands: &[Shape]) -> Vec<Shape> {
        match self {
            Call::Dense { .. } => vec![Shape::new([operands[0][0], operands[1][1]])],
            Call::LowRank { .. } => vec![Shape::new([operands[0][0], operands[1][0]])],
            Call::Monarch { .. } => {
                let left = &operands[2];
                vec![Shape::new([operands[0][0], left[0] * left[1]])]
            }
            Call::Blast { .. } => {
                let u = &operands[1];
                vec![Shape::new([operands[0][0], u[0] * u[1]])]
            }
            // A gradient has the shape of what it belongs to; operand 0 is the output's.
            Call::LowRankBackward | Call::MonarchBackward { .. } | Call::BlastBackward => {
                operands[1..].to_vec()
            }
            Call::ExactProduct => {
                vec![Shape::new([operands[0][0], operands[0][1], operands[1][2]])]
            }
        }
    }

    /// The activation of a forward call, and the same call without it.
    #[cfg(feature = "autodiff")]
    pub(super) fn split(self) -> (Call, Activation) {
        let mut linear = self;
        let activation = match &mut linear {
            Call::LowRank { activation, .. }
            | Call::Monarch { activation, .. }
            | Call::Blast { activation, .. } => std::mem::take(activation),
            _ => Activation::None,
        };
        (linear, activation)
    }

    /// The call that computes the gradients of this one, and whether a bias is its last operand.
    #[cfg(feature = "autodiff")]
    pub(super) fn backward(self) -> (Call, bool) {
        match self {
            Call::LowRank { biased, .. } => (Call::LowRankBackward, biased),
            Call::Monarch { order, biased, .. } => (Call::MonarchBackward { order }, biased),
            Call::Blast { biased, .. } => (Call::BlastBackward, biased),
            Call::LowRankBackward
            | Call::MonarchBackward { .. }
            | Call::BlastBackward
            | Call::Dense { .. }
            | Call::ExactProduct => unreachable!("{self:?} is not recorded by autodiff"),
        }
    }

    /// Runs the operation on backend `B`.
    pub(super) fn run<B: BlrBackend>(self, operands: Vec<FloatTensor<B>>) -> Vec<FloatTensor<B>> {
        match self {
            Call::Dense { biased, activation } => {
                let ([input, weight], bias) = with_bias::<B, 2>(self, operands, biased);
                vec![B::dense_linear(input, weight, bias, activation)]
            }
            Call::LowRank { biased, activation } => {
                let ([input, u, v], bias) = with_bias::<B, 3>(self, operands, biased);
                vec![B::low_rank_linear(input, u, v, bias, activation)]
            }
            Call::LowRankBackward => {
                let [grad, input, u, v] = exactly(self, operands);
                let (input, u, v) = B::low_rank_linear_backward(grad, input, u, v);
                vec![input, u, v]
            }
            Call::Monarch {
                order,
                biased,
                activation,
            } => {
                let ([input, right, left], bias) = with_bias::<B, 3>(self, operands, biased);
                vec![B::monarch_linear(
                    input, right, left, bias, order, activation,
                )]
            }
            Call::MonarchBackward { order } => {
                let [grad, input, right, left] = exactly(self, operands);
                let (input, right, left) =
                    B::monarch_linear_backward(grad, input, right, left, order);
                vec![input, right, left]
            }
            Call::Blast { biased, activation } => {
                let ([input, u, s, v], bias) = with_bias::<B, 4>(self, operands, biased);
                vec![B::blast_linear(input, u, s, v, bias, activation)]
            }
            Call::BlastBackward => {
                let [grad, input, u, s, v] = exactly(self, operands);
                let (input, u, s, v) = B::blast_linear_backward(grad, input, u, s, v);
                vec![input, u, s, v]
            }
            Call::ExactProduct => {
                let [lhs, rhs] = exactly(self, operands);
                vec![B::exact_product(lhs, rhs)]
            }
        }
    }
}

fn with_bias<B: BlrBackend, const N: usize>(
    call: Call,
    mut operands: Vec<FloatTensor<B>>,
    biased: bool,
) -> ([FloatTensor<B>; N], Bias<B>) {
    let bias = if biased { operands.pop() } else { None };
    (
        exactly(call, operands),
        bias.map_or(Bias::Absent, Bias::Added),
    )
}

fn exactly<T, const N: usize>(call: Call, operands: Vec<T>) -> [T; N] {
    let found = operands.len();
    let Ok(operands) = <[T; N]>::try_from(operands) else {
        unreachable!("{call:?} takes {N} operands and was recorded with {found}");
    };
    operands
}
