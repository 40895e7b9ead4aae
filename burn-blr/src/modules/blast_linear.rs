use burn::config::Config;
use burn::module::{Content, DisplaySettings, Module, ModuleDisplay, Param};
use burn::tensor::{Device, Tensor};
use cubecl_kernels::{Activation, Merge};

use super::factor::{bias_param, expect_shape};
use crate::{BlrError, Structure, init, ops};

/// Configuration of a [`BlastLinear`] layer.
#[derive(Config, Debug)]
pub struct BlastLinearConfig {
    /// Width of the input, a multiple of `blocks`.
    pub in_features: usize,
    /// Width of the output, a multiple of `blocks`.
    pub out_features: usize,
    /// Blocks per side.
    pub blocks: usize,
    /// Inner width.
    pub rank: usize,
    /// Whether a bias is added.
    #[config(default = true)]
    pub bias: bool,
}

/// BLAST (block-level adaptive structured) linear layer: `y_j = U_j Σ_i S_ji ∘ (V_i x_i) + bias`
/// ([Lee et al. 2024](https://arxiv.org/abs/2410.21262), section 2).
///
/// Block (j, i) of the weight, `[out/b, in/b]`, is `U_j diag(S_ji) V_i`: all blocks of a row share
/// `U_j`, all of a column `V_i`. Holds `r (in + out + b²)` weights. Create it with
/// [`BlastLinearConfig`] or from factors.
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct BlastLinear {
    /// Factors next to the output, `[b, out/b, r]`; normal with variance `1/(3 r)`.
    pub u: Param<Tensor<3>>,
    /// Couplings, `[b (out), b (in), r]`; uniform in `[0, 2]`.
    pub s: Param<Tensor<3>>,
    /// Factors next to the input, `[b, r, in/b]`; normal with variance `3/(4 in)`.
    pub v: Param<Tensor<3>>,
    /// Added to the output where present, `[out]`; uniform in `±1/√in`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl BlastLinearConfig {
    /// Makes the layer with the initial distributions given at its fields.
    ///
    /// # Errors
    ///
    /// [`BlrError`] if a number is zero, the blocks do not divide the features, or the rank is
    /// above the smaller width.
    pub fn init(&self, device: &Device) -> Result<BlastLinear, BlrError> {
        let (inputs, outputs) = (self.in_features, self.out_features);
        let (blocks, rank) = (self.blocks, self.rank);
        Structure::Blast { blocks, rank }.validate(inputs, outputs)?;
        Ok(BlastLinear {
            u: init::last(rank).init([blocks, outputs / blocks, rank], device),
            s: init::blast_couplings().init([blocks, blocks, rank], device),
            v: init::blast_first(inputs).init([blocks, rank, inputs / blocks], device),
            bias: init::bias(self.bias, inputs, outputs, device),
        })
    }
}

impl BlastLinear {
    /// Makes the layer from `u [b, out/b, r]`, `s [b, b, r]`, `v [b, r, in/b]` and a bias `[out]`.
    ///
    /// # Errors
    ///
    /// [`BlrError`] if the shapes do not fit together.
    pub fn from_factors(
        u: Tensor<3>,
        s: Tensor<3>,
        v: Tensor<3>,
        bias: Option<Tensor<1>>,
    ) -> Result<Self, BlrError> {
        let [blocks, block_out, rank] = u.dims();
        let [_, _, block_in] = v.dims();
        expect_shape("s", &s, [blocks, blocks, rank])?;
        expect_shape("v", &v, [blocks, rank, block_in])?;
        Structure::Blast { blocks, rank }.validate(blocks * block_in, blocks * block_out)?;
        let bias = bias_param(bias, blocks * block_out)?;
        Ok(Self {
            u: init::parameter(u),
            s: init::parameter(s),
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
        let (u, s, v) = (self.u.val(), self.s.val(), self.v.val());
        if self.layers() > 1 && u.device().is_autodiff() {
            // The joined product has no gradient.
            let part = |([u, s, v], bias): ([Tensor<3>; 3], Option<Tensor<1>>)| {
                let epilogue = ops::Epilogue::default().with_bias(bias);
                ops::blast_linear(input.clone(), u, s, v, epilogue)
            };
            let outputs: Vec<_> = self.parts().into_iter().map(part).collect();
            let output = ops::concatenate(outputs, D - 1);
            if epilogue.gated {
                let [gate, other] = [0, 1].map(|half| {
                    let width = output.dims()[D - 1] / 2;
                    output.clone().narrow(D - 1, half * width, width)
                });
                return ops::activate(gate, epilogue.activation) * other;
            }
            let output = ops::activate(output, epilogue.activation);
            return match epilogue.merged {
                None => output,
                Some((Merge::Times, other)) => output * other,
                Some((Merge::Plus, other)) => output + other,
            };
        }
        let epilogue = epilogue.with_bias(self.bias.as_ref().map(Param::val));
        ops::blast_linear(input, u, s, v, epilogue)
    }

    /// The dense weight, `[out, in]`.
    pub fn to_dense(&self) -> Tensor<2> {
        let parts = self.parts().into_iter();
        Tensor::cat(parts.map(|(factors, _)| dense(factors)).collect(), 0)
    }

    /// The structure, without widths; that of each layer that this one is joined of.
    pub fn structure(&self) -> Structure {
        let ([_, _, rank], [blocks, _, _]) = (self.u.dims(), self.v.dims());
        Structure::Blast { blocks, rank }
    }

    /// Widths of input and output.
    pub fn features(&self) -> (usize, usize) {
        let ([outputs, block_out, _], [blocks, _, block_in]) = (self.u.dims(), self.v.dims());
        (blocks * block_in, outputs * block_out)
    }
}

/// The dense weight `[out, in]` of factors `u`, `s`, `v`.
fn dense([u, s, v]: [Tensor<3>; 3]) -> Tensor<2> {
    let ([blocks, block_out, rank], [_, _, block_in]) = (u.dims(), v.dims());
    let v = v.swap_dims(0, 1); // [r, i, in/b]
    let rows = (0..blocks)
        .map(|j| {
            let s = s.clone().narrow(0, j, 1).reshape([blocks, rank]);
            let s = s.swap_dims(0, 1).reshape([rank, blocks, 1]);
            let coupled = (v.clone() * s).reshape([rank, blocks * block_in]);
            let u = u.clone().narrow(0, j, 1).reshape([block_out, rank]);
            u.matmul(coupled)
        })
        .collect();
    Tensor::cat(rows, 0)
}

impl ModuleDisplay for BlastLinear {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new()
            .with_new_line_after_attribute(false)
            .optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        let (in_features, out_features) = self.features();
        let structure = self.structure();
        content
            .add("in_features", &in_features)
            .add("out_features", &out_features)
            .add("blocks", &structure.blocks())
            .add("rank", &structure.rank().unwrap_or_default())
            .add("bias", &self.bias.is_some())
            .optional()
    }
}
