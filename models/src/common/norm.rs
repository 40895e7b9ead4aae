//! Normalization in `f32`, whatever the dtype of the model.

use burn::nn::{LayerNorm, RmsNorm};
use burn::tensor::{FloatDType, Tensor};

/// A normalization over the last dimension whose weights are in `f32`.
pub(crate) trait Norm {
    /// Normalizes `x [batch, tokens, features]`.
    fn normalize(&self, x: Tensor<3>) -> Tensor<3>;
}

impl Norm for LayerNorm {
    fn normalize(&self, x: Tensor<3>) -> Tensor<3> {
        self.forward(x)
    }
}

impl Norm for RmsNorm {
    fn normalize(&self, x: Tensor<3>) -> Tensor<3> {
        self.forward(x)
    }
}

/// Applies `norm` in `f32` and returns the dtype of `x`.
///
/// The sum of squares of a hidden state leaves the range of `f16`, and `bf16` keeps 8 bits of it.
/// Burn widens some of the steps; here scale and shift are stored in `f32` as well, so that nothing
/// but the two casts of `x` is done at run time, and those disappear in `f32`.
///
/// # Shapes
///
/// - `x`, output: `[batch, tokens, features]`
pub(crate) fn norm_in_f32(norm: &impl Norm, x: Tensor<3>) -> Tensor<3> {
    let dtype: FloatDType = x.dtype().into();
    norm.normalize(x.cast(FloatDType::F32)).cast(dtype)
}
