use burn::config::Config;
use burn::module::{Content, DisplaySettings, Module, ModuleDisplay, Param};
use burn::tensor::{Device, Tensor};
use cubecl_kernels::{Activation, Merge};

use super::factor::{bias_param, expect_shape};
use crate::{BlrError, Structure, init, ops};

/// Configuration of a [`LowRankLinear`] layer.
#[derive(Config, Debug)]
pub struct LowRankLinearConfig {
    /// Width of the input.
    pub in_features: usize,
    /// Width of the output.
    pub out_features: usize,
    /// Inner width, at most the smaller of the two widths.
    pub rank: usize,
    /// Whether a bias is added.
    #[config(default = true)]
    pub bias: bool,
}

/// Low-rank linear layer: `y = (x Vᵀ) Uᵀ + bias`.
///
/// Holds `r (in + out)` weights. Create it with [`LowRankLinearConfig`] or from factors.
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct LowRankLinear {
    /// Factor next to the output, `[out, r]`; normal with variance `1/(3 r)`.
    pub u: Param<Tensor<2>>,
    /// Factor next to the input, `[r, in]`; normal with variance `1/in`.
    pub v: Param<Tensor<2>>,
    /// Added to the output where present, `[out]`; uniform in `±1/√in`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl LowRankLinearConfig {
    /// Makes the layer with the initial distributions given at its fields.
    ///
    /// # Errors
    ///
    /// [`BlrError`] if a number is zero or the rank is above the smaller width.
    pub fn init(&self, device: &Device) -> Result<LowRankLinear, BlrError> {
        let (inputs, outputs, rank) = (self.in_features, self.out_features, self.rank);
        Structure::LowRank { rank }.validate(inputs, outputs)?;
        Ok(LowRankLinear {
            u: init::last(rank).init([outputs, rank], device),
            v: init::first(inputs).init([rank, inputs], device),
            bias: init::bias(self.bias, inputs, outputs, device),
        })
    }
}

impl LowRankLinear {
    /// Makes the layer from its factors `u [out, r]`, `v [r, in]` and a bias `[out]`.
    ///
    /// # Errors
    ///
    /// [`BlrError`] if the shapes do not fit together.
    pub fn from_factors(
        u: Tensor<2>,
        v: Tensor<2>,
        bias: Option<Tensor<1>>,
    ) -> Result<Self, BlrError> {
        let [out_features, rank] = u.dims();
        let [_, in_features] = v.dims();
        expect_shape("v", &v, [rank, in_features])?;
        Structure::LowRank { rank }.validate(in_features, out_features)?;
        let bias = bias_param(bias, out_features)?;
        Ok(Self {
            u: init::parameter(u),
            v: init::parameter(v),
            bias,
        })
    }

    /// Applies the layer.
    ///
    /// # Shapes
    ///
    /// - input: `[..., in]`
    /// - output: `[..., out]`
    pub fn forward<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        self.forward_with(input, Activation::None, None)
    }

    /// Applies the layer, then `activation`, then merges the output with a tensor of its shape; in one
    /// operation where gradients are not tracked.
    ///
    /// # Shapes
    ///
    /// - input: `[..., in]`
    /// - `merged`, output: `[..., out]`
    pub fn forward_with<const D: usize>(
        &self,
        input: Tensor<D>,
        activation: Activation,
        merged: Option<(Merge, Tensor<D>)>,
    ) -> Tensor<D> {
        self.apply(input, ops::Epilogue::new(activation, merged))
    }

    /// Applies the layer, then the epilogue after its own bias.
    pub(super) fn apply<const D: usize>(
        &self,
        input: Tensor<D>,
        epilogue: ops::Epilogue<D>,
    ) -> Tensor<D> {
        let epilogue = epilogue.with_bias(self.bias.as_ref().map(Param::val));
        ops::low_rank_linear(input, self.u.val(), self.v.val(), epilogue)
    }

    /// The dense weight `U V`, `[out, in]`.
    pub fn to_dense(&self) -> Tensor<2> {
        self.u.val().matmul(self.v.val())
    }

    /// The structure, without widths.
    pub fn structure(&self) -> Structure {
        let [_, rank] = self.u.dims();
        Structure::LowRank { rank }
    }

    /// Widths of input and output.
    pub fn features(&self) -> (usize, usize) {
        let ([out_features, _], [_, in_features]) = (self.u.dims(), self.v.dims());
        (in_features, out_features)
    }
}

impl ModuleDisplay for LowRankLinear {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new()
            .with_new_line_after_attribute(false)
            .optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        let (in_features, out_features) = self.features();
        content
            .add("in_features", &in_features)
            .add("out_features", &out_features)
            .add("rank", &self.structure().rank().unwrap_or_default())
            .add("bias", &self.bias.is_some())
            .optional()
    }
}
