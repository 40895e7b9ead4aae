//! Layer normalization in `f32`, whatever the dtype of the model.

use burn::nn::LayerNorm;
use burn::tensor::{FloatDType, Tensor};

/// Applies `norm` in `f32` and returns the dtype of `x`.
///
/// The sum of squares of a hidden state leaves the range of `f16`, and `bf16` keeps 8 bits of it.
/// Burn widens `f16` alone; here the scale and shift are stored in `f32` as well, so that nothing
/// but the two casts of `x` is done at run time, and those disappear in `f32`.
///
/// # Shapes
///
/// - `x`, output: `[batch, tokens, features]`
pub(crate) fn norm_in_f32(norm: &LayerNorm, x: Tensor<3>) -> Tensor<3> {
    let dtype: FloatDType = x.dtype().into();
    norm.forward(x.cast(FloatDType::F32)).cast(dtype)
}
