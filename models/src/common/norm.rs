//! The norms before the layers, in `f32` whatever the dtype of the model.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn_blr::network::{Norm, Residual, ScaleShift, add_norm};

/// Normalizes each token over its features: `norm(x) · scale + shift`.
///
/// The sum of squares of a hidden state leaves the range of `f16`, and `bf16` keeps 8 bits of it, so
/// all of it is computed in `f32`, scale and shift are stored in it, and the result has the dtype of
/// the input.
#[derive(Module, Debug)]
pub struct TokenNorm {
    /// `[features]`, `f32`.
    pub scale: Param<Tensor<1>>,
    /// `[features]`, `f32`, where there is one.
    pub shift: Option<Param<Tensor<1>>>,
    #[module(skip)]
    kind: Norm,
    #[module(skip)]
    epsilon: f64,
}

impl TokenNorm {
    /// Layer normalization: mean zero and variance one, `epsilon` added to the variance.
    pub fn layer(scale: Param<Tensor<1>>, shift: Option<Param<Tensor<1>>>, epsilon: f64) -> Self {
        Self {
            scale,
            shift,
            kind: Norm::Layer,
            epsilon,
        }
    }

    /// Mean square one, `epsilon` added to it ([Zhang and Sennrich
    /// 2019](https://arxiv.org/abs/1910.07467)).
    pub fn rms(scale: Param<Tensor<1>>, epsilon: f64) -> Self {
        Self {
            scale,
            shift: None,
            kind: Norm::Rms,
            epsilon,
        }
    }

    /// Applies the norm.
    ///
    /// # Shapes
    ///
    /// - `x`, output: `[batch, tokens, features]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.after(x, None).1
    }

    /// `x` with the residual added, and that normalized.
    fn after(&self, x: Tensor<3>, residual: Option<Residual>) -> (Tensor<3>, Tensor<3>) {
        let scale_shift = ScaleShift::Features {
            scale: self.scale.val(),
            shift: self.shift.as_ref().map(Param::val),
        };
        add_norm(x, residual, scale_shift, self.kind, self.epsilon)
    }
}

/// The hidden state between blocks, `[batch, tokens, features]`, and what is still to be added to it:
/// the next norm does that on its way.
pub(crate) struct ResidualStream {
    sum: Tensor<3>,
    residual: Option<Residual>,
}

impl ResidualStream {
    /// A stream that holds `x`.
    pub(crate) fn new(x: Tensor<3>) -> Self {
        Self {
            sum: x,
            residual: None,
        }
    }

    /// The hidden state, normalized.
    pub(crate) fn normed(&mut self, norm: &TokenNorm) -> Tensor<3> {
        let (sum, normed) = norm.after(self.sum.clone(), self.residual.take());
        self.sum = sum;
        normed
    }

    /// The hidden state, normalized, then scaled and shifted by numbers of each row of the batch:
    /// `norm(x) · (1 + scale) + shift`.
    ///
    /// # Shapes
    ///
    /// - `shift`, `scale`: `[batch, 1, features]`
    pub(crate) fn modulated(
        &mut self,
        epsilon: f64,
        shift: Tensor<3>,
        scale: Tensor<3>,
    ) -> Tensor<3> {
        let scale_shift = ScaleShift::Modulated { scale, shift };
        let residual = self.residual.take();
        let (sum, normed) = add_norm(
            self.sum.clone(),
            residual,
            scale_shift,
            Norm::Layer,
            epsilon,
        );
        self.sum = sum;
        normed
    }

    /// Adds `residual`, multiplied with `gate [batch, 1, features]` where there is one.
    pub(crate) fn add(&mut self, residual: Tensor<3>, gate: Option<Tensor<3>>) {
        self.flush();
        self.residual = Some(Residual { residual, gate });
    }

    /// The hidden state.
    pub(crate) fn current(&mut self) -> Tensor<3> {
        self.flush();
        self.sum.clone()
    }

    /// The hidden state.
    pub(crate) fn finish(mut self) -> Tensor<3> {
        self.flush();
        self.sum
    }

    fn flush(&mut self) {
        if let Some(Residual { residual, gate }) = self.residual.take() {
            let residual = match gate {
                Some(gate) => residual * gate,
                None => residual,
            };
            self.sum = self.sum.clone() + residual;
        }
    }
}
