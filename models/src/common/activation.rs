//! The activation functions that a configuration can name.

use burn::tensor::{Tensor, activation};

/// A pointwise activation function, named as in the `ACT2FN` table of `transformers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activation {
    /// `x Φ(x)` with the error function: `gelu`, `gelu_python`.
    Gelu,
    /// `x Φ(x)` cut off below -10 and above 10: `gelu_10`.
    ClippedGelu,
    /// `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`: `gelu_new`, `gelu_pytorch_tanh`, `gelu_fast`,
    /// `gelu_python_tanh`, `gelu_accurate`. The names differ in how they round, not in the formula.
    GeluTanh,
    /// `x σ(1.702 x)`: `quick_gelu`.
    QuickGelu,
    /// `max(x, 0)`: `relu`.
    Relu,
    /// `min(max(x, 0), 6)`: `relu6`.
    Relu6,
    /// `max(x, 0)²`: `relu2`.
    ReluSquared,
    /// `x` for `x ≥ 0`, else `x / 100`: `leaky_relu`.
    LeakyRelu,
    /// `x σ(x)`: `silu`, `swish`.
    Silu,
    /// `x min(max(x + 3, 0), 6) / 6`: `hardswish`.
    HardSwish,
    /// `tanh(x)`: `tanh`.
    Tanh,
    /// `σ(x) = 1 / (1 + exp(-x))`: `sigmoid`.
    Sigmoid,
    /// `x tanh(ln(1 + exp(x)))`: `mish`.
    Mish,
    /// `x`: `linear`.
    Linear,
}

/// The names in the order in which errors list them.
const NAMES: [(&str, Activation); 20] = [
    ("gelu", Activation::Gelu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu_accurate", Activation::GeluTanh),
    ("gelu_10", Activation::ClippedGelu),
    ("gelu_python", Activation::Gelu),
    ("gelu_python_tanh", Activation::GeluTanh),
    ("quick_gelu", Activation::QuickGelu),
    ("relu", Activation::Relu),
    ("relu2", Activation::ReluSquared),
    ("relu6", Activation::Relu6),
    ("leaky_relu", Activation::LeakyRelu),
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("hardswish", Activation::HardSwish),
    ("tanh", Activation::Tanh),
    ("sigmoid", Activation::Sigmoid),
    ("mish", Activation::Mish),
    ("linear", Activation::Linear),
];

impl Activation {
    /// The function that `name` stands for in a configuration, `None` if it is unknown.
    pub fn from_name(name: &str) -> Option<Self> {
        NAMES
            .iter()
            .find(|(known, _)| *known == name)
            .map(|&(_, activation)| activation)
    }

    /// Every name that [`Activation::from_name`] knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|&(name, _)| name)
    }

    /// The same function as layers apply it to their own output, where they can.
    pub(crate) fn of_layers(self) -> Option<burn_blr::Activation> {
        match self {
            Activation::Linear => Some(burn_blr::Activation::None),
            Activation::Gelu => Some(burn_blr::Activation::Gelu),
            Activation::GeluTanh => Some(burn_blr::Activation::GeluTanh),
            Activation::Silu => Some(burn_blr::Activation::Silu),
            _ => None,
        }
    }

    /// Applies the function to every element.
    ///
    /// # Shapes
    ///
    /// - `x`, output: any
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Activation::Gelu => activation::gelu(x),
            Activation::ClippedGelu => activation::gelu(x).clamp(-10.0, 10.0),
            Activation::GeluTanh => burn_blr::ops::activate(x, burn_blr::Activation::GeluTanh),
            Activation::QuickGelu => x.clone() * activation::sigmoid(x * 1.702),
            Activation::Relu => activation::relu(x),
            Activation::Relu6 => activation::relu6(x),
            Activation::ReluSquared => {
                let positive = activation::relu(x);
                positive.clone() * positive
            }
            Activation::LeakyRelu => activation::leaky_relu(x, 0.01),
            Activation::Silu => activation::silu(x),
            Activation::HardSwish => activation::hard_swish(x),
            Activation::Tanh => activation::tanh(x),
            Activation::Sigmoid => activation::sigmoid(x),
            Activation::Mish => activation::mish(x),
            Activation::Linear => x,
        }
    }
}
