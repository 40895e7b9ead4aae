//! What is applied to an output before it is stored.

use cubecl::prelude::*;

/// A function of each output, applied after the bias and before rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `y`.
    #[default]
    None,
    /// `y Φ(y)`, with the error function.
    Gelu,
    /// GELU by its tanh formula, as GPT-2 has it.
    GeluTanh,
    /// `y / (1 + e⁻ʸ)`.
    Silu,
}

/// Applies `activation` to `y`.
#[cube]
pub(crate) fn activate(y: f32, #[comptime] activation: Activation) -> f32 {
    match comptime!(activation) {
        Activation::None => y,
        Activation::Gelu => 0.5f32 * y * (1.0f32 + Erf::erf(y * 0.707_106_77f32)),
        Activation::GeluTanh => {
            let inner = 0.797_884_6f32 * (y + 0.044_715f32 * y * y * y);
            0.5f32 * y * (1.0f32 + inner.tanh())
        }
        Activation::Silu => y / (1.0f32 + (-y).exp()),
    }
}
