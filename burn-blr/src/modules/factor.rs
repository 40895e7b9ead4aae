//! Checks of the factors and biases that callers give to the layers.

use burn::module::Param;
use burn::tensor::Tensor;

use crate::{BlrError, init};

/// Checks that a factor has the shape the others ask for.
pub(super) fn expect_shape<const D: usize>(
    factor: &'static str,
    tensor: &Tensor<D>,
    expected: [usize; D],
) -> Result<(), BlrError> {
    let actual = tensor.dims();
    if actual == expected {
        return Ok(());
    }
    Err(BlrError::FactorShape {
        factor,
        expected: expected.into(),
        actual: actual.into(),
    })
}

/// Checks the bias and makes it a parameter.
pub(super) fn bias_param(
    bias: Option<Tensor<1>>,
    out_features: usize,
) -> Result<Option<Param<Tensor<1>>>, BlrError> {
    match bias {
        None => Ok(None),
        Some(bias) => {
            expect_shape("bias", &bias, [out_features])?;
            Ok(Some(init::parameter(bias)))
        }
    }
}
