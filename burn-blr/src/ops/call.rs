//! A product as data, so that `Fusion` and `Autodiff` are written once for all of them.

use burn::backend::tensor::FloatTensor;
use burn::tensor::Shape;
use cubecl_kernels::{Activation, Merge, OutputOrder};

use super::{Bias, BlrBackend, Merged};

/// One operation of [`BlrBackend`] with everything but its tensors.
///
/// Operands come in the order of the trait's arguments, then the bias and what is merged, where
/// there are such.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    #[cfg_attr(
        not(feature = "fusion"),
        allow(dead_code, reason = "only fusion records it")
    )]
    Dense {
        finish: Finish,
    },
    LowRank {
        finish: Finish,
    },
    LowRankBackward,
    Monarch {
        order: OutputOrder,
        finish: Finish,
    },
    MonarchBackward {
        order: OutputOrder,
    },
    Blast {
        finish: Finish,
    },
    BlastBackward,
    #[cfg_attr(
        not(feature = "fusion"),
        allow(dead_code, reason = "only fusion records it")
    )]
    ExactProduct,
}

/// What follows the product of a forward call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Finish {
    pub biased: bool,
    pub activation: Activation,
    pub merge: Option<Merge>,
    pub gated: bool,
}

impl Finish {
    /// Features of the output, of so many of the product.
    #[cfg(feature = "fusion")]
    fn features(self, product: usize) -> usize {
        if self.gated { product / 2 } else { product }
    }
}

impl Call {
    /// Name in a fusion stream; calls that compute different things have different names.
    #[cfg(feature = "fusion")]
    pub(super) fn name(self) -> String {
        let (name, finish) = match self {
            Call::Dense { finish } => ("dense_linear", Some(finish)),
            Call::LowRank { finish } => ("low_rank_linear", Some(finish)),
            Call::LowRankBackward => ("low_rank_linear_backward", None),
            Call::Monarch { finish, .. } => ("monarch_linear", Some(finish)),
            Call::MonarchBackward { .. } => ("monarch_linear_backward", None),
            Call::Blast { finish } => ("blast_linear", Some(finish)),
            Call::BlastBackward => ("blast_linear_backward", None),
            Call::ExactProduct => ("exact_product", None),
        };
        let order = match self {
            Call::Monarch { order, .. } | Call::MonarchBackward { order } => Some(order),
            _ => None,
        };
        format!("blr::{name} {order:?} {finish:?}")
    }

    /// Shapes of the results, from those of the operands.
    #[cfg(feature = "fusion")]
    pub(super) fn output_shapes(self, operands: &[Shape]) -> Vec<Shape> {
        match self {
            Call::Dense { finish } => {
                vec![Shape::new([
                    operands[0][0],
                    finish.features(operands[1][1]),
                ])]
            }
            Call::LowRank { finish } => {
                vec![Shape::new([
                    operands[0][0],
                    finish.features(operands[1][0]),
                ])]
            }
            Call::Monarch { finish, .. } => {
                let left = &operands[2];
                let features = finish.features(left[0] * left[1]);
                vec![Shape::new([operands[0][0], features])]
            }
            Call::Blast { finish } => {
                let u = &operands[1];
                let features = finish.features(u[0] * u[1]);
                vec![Shape::new([operands[0][0], features])]
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
            Call::LowRank { finish } | Call::Monarch { finish, .. } | Call::Blast { finish } => {
                std::mem::take(&mut finish.activation)
            }
            _ => Activation::None,
        };
        (linear, activation)
    }

    /// The call that computes the gradients of this one, and whether a bias is its last operand.
    #[cfg(feature = "autodiff")]
    pub(super) fn backward(self) -> (Call, bool) {
        match self {
            Call::LowRank { finish } => (Call::LowRankBackward, finish.biased),
            Call::Monarch { order, finish } => (Call::MonarchBackward { order }, finish.biased),
            Call::Blast { finish } => (Call::BlastBackward, finish.biased),
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
            Call::Dense { finish } => {
                let ([input, weight], bias, merged) = finished::<B, 2>(self, operands, finish);
                let activation = finish.activation;
                vec![B::dense_linear(input, weight, bias, activation, merged)]
            }
            Call::LowRank { finish } => {
                let ([input, u, v], bias, merged) = finished::<B, 3>(self, operands, finish);
                let activation = finish.activation;
                vec![B::low_rank_linear(input, u, v, bias, activation, merged)]
            }
            Call::LowRankBackward => {
                let [grad, input, u, v] = exactly(self, operands);
                let (input, u, v) = B::low_rank_linear_backward(grad, input, u, v);
                vec![input, u, v]
            }
            Call::Monarch { order, finish } => {
                let ([input, right, left], bias, merged) = finished::<B, 3>(self, operands, finish);
                vec![B::monarch_linear(
                    input,
                    right,
                    left,
                    bias,
                    order,
                    finish.activation,
                    merged,
                )]
            }
            Call::MonarchBackward { order } => {
                let [grad, input, right, left] = exactly(self, operands);
                let (input, right, left) =
                    B::monarch_linear_backward(grad, input, right, left, order);
                vec![input, right, left]
            }
            Call::Blast { finish } => {
                let ([input, u, s, v], bias, merged) = finished::<B, 4>(self, operands, finish);
                let activation = finish.activation;
                vec![B::blast_linear(input, u, s, v, bias, activation, merged)]
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

/// Operands of a forward call, and what follows its product.
fn finished<B: BlrBackend, const N: usize>(
    call: Call,
    mut operands: Vec<FloatTensor<B>>,
    finish: Finish,
) -> ([FloatTensor<B>; N], Bias<B>, Merged<B>) {
    let merged = finish.merge.and_then(|merge| {
        let other = operands.pop()?;
        Some(match merge {
            Merge::Times => Merged::Times(other),
            Merge::Plus => Merged::Plus(other),
        })
    });
    let bias = if finish.biased { operands.pop() } else { None };
    let alone = if finish.gated {
        Merged::Gated
    } else {
        Merged::Alone
    };
    (
        exactly(call, operands),
        bias.map_or(Bias::Absent, Bias::Added),
        merged.unwrap_or(alone),
    )
}

fn exactly<T, const N: usize>(call: Call, operands: Vec<T>) -> [T; N] {
    let found = operands.len();
    let Ok(operands) = <[T; N]>::try_from(operands) else {
        unreachable!("{call:?} takes {N} operands and was recorded with {found}");
    };
    operands
}
