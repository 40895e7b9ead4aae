//! The feed-forward block, for every family.

use burn::module::Module;
use burn::tensor::Tensor;
use burn_blr::{BlrLinear, Merge};

use super::Activation;

/// Feed-forward block: `proj(activation(fc(x)))`, or with a gate
/// `proj(activation(gate(x)) · fc(x))` (SwiGLU where the activation is SiLU).
#[derive(Module, Debug)]
pub struct Mlp {
    /// From the hidden width to the inner width: what the activation multiplies, where there is one
    /// that is not joined with `fc`.
    pub gate: Option<BlrLinear>,
    /// From the hidden width to the inner width; with the gate before it in a model that is joined.
    pub fc: BlrLinear,
    /// Back to the hidden width.
    pub proj: BlrLinear,
    #[module(skip)]
    activation: Activation,
    /// Whether `fc` is the gate and what it multiplies.
    #[module(skip)]
    joined: bool,
}

impl Mlp {
    /// Joins the two layers of a block without a gate.
    pub fn new(fc: BlrLinear, proj: BlrLinear, activation: Activation) -> Self {
        Self {
            gate: None,
            fc,
            proj,
            activation,
            joined: false,
        }
    }

    /// Joins the three layers of a block with a gate.
    pub fn gated(gate: BlrLinear, fc: BlrLinear, proj: BlrLinear, activation: Activation) -> Self {
        Self {
            gate: Some(gate),
            fc,
            proj,
            activation,
            joined: false,
        }
    }

    /// Makes the gate and what it multiplies one layer, where that [can be done](BlrLinear::join) and the
    /// layer knows the activation.
    pub(crate) fn join(&mut self) {
        if let Some(gate) = &self.gate
            && self.activation.of_layers().is_some()
            && let Some(joined) = BlrLinear::join(&[gate, &self.fc])
        {
            self.fc = joined;
            self.gate = None;
            self.joined = true;
        }
    }

    /// Applies the block.
    ///
    /// # Shapes
    ///
    /// - `x`, output: `[batch, tokens, features]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        // [batch, tokens, features] -> [batch, tokens, inner]
        let inner = match (&self.gate, self.activation.of_layers()) {
            (None, Some(activation)) if self.joined => self.fc.forward_gated(x, activation),
            (None, _) => activated(&self.fc, x, self.activation, None),
            (Some(gate), _) => {
                let inner = self.fc.forward(x.clone());
                activated(gate, x, self.activation, Some(inner))
            }
        };
        self.proj.forward(inner)
    }
}

/// The layer, then the activation, then what it is multiplied with: one operation where the layer knows
/// the activation.
fn activated(
    layer: &BlrLinear,
    x: Tensor<3>,
    activation: Activation,
    times: Option<Tensor<3>>,
) -> Tensor<3> {
    if let Some(known) = activation.of_layers() {
        return layer.forward_with(x, known, times.map(|times| (Merge::Times, times)));
    }
    let output = activation.forward(layer.forward(x));
    match times {
        Some(times) => output * times,
        None => output,
    }
}
