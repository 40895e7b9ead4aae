use burn::config::Config;
use burn::module::{Content, DisplaySettings, Module, ModuleDisplay, Param};
use burn::tensor::{Device, Tensor};
use cubecl_kernels::{Activation, Merge, OutputOrder};

use super::factor::{bias_param, expect_shape};
use crate::{BlrError, Structure, init, ops};

/// Configuration of a [`MonarchLinear`] layer.
#[derive(Config, Debug)]
pub struct MonarchLinearConfig {
    /// Width of the input, a multiple of `blocks`.
    pub in_features: usize,
    /// Width of the output, a multiple of `blocks`.
    pub out_features: usize,
    /// Blocks per side.
    pub blocks: usize,
    /// Inner width of a factor, a multiple of `blocks`.
    pub rank: usize,
    /// Whether output feature o comes from block o mod b, as in the paper, or block by block.
    #[config(default = false)]
    pub interleaved: bool,
    /// Whether a bias is added.
    #[config(default = true)]
    pub bias: bool,
}

/// Monarch linear layer: two block-diagonal factors with a permutation between
/// ([Dao et al. 2022](https://arxiv.org/abs/2204.00595)).
///
/// Block (j, i) of the weight, `[out/b, in/b]`, is `left_j[:, part i] · right_i[part j, :]`, each
/// part `r/b` wide. Holds `r (in + out)` weights. Create it with [`MonarchLinearConfig`] or from
/// factors.
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct MonarchLinear {
    /// Factor next to the input, `[b, r, in/b]`; normal with variance `b/in`.
    pub right: Param<Tensor<3>>,
    /// Factor next to the output, `[b, out/b, r]`; normal with variance `1/(3 r)`.
    pub left: Param<Tensor<3>>,
    /// Added to the output where present, `[out]`; uniform in `±1/√in`.
    pub bias: Option<Param<Tensor<1>>>,
    /// Where the output features of a block go.
    #[module(skip)]
    pub order: OutputOrder,
}

impl MonarchLinearConfig {
    /// Makes the layer with the initial distributions given at its fields.
    ///
    /// # Errors
    ///
    /// [`BlrError`] if a number is zero, the blocks do not divide features and rank, or the rank is
    /// above the smaller width.
    pub fn init(&self, device: &Device) -> Result<MonarchLinear, BlrError> {
        let (inputs, outputs) = (self.in_features, self.out_features);
        let (blocks, rank) = (self.blocks, self.rank);
        let order = if self.interleaved {
            OutputOrder::Interleaved
        } else {
            OutputOrder::Contiguous
        };
        Structure::Monarch {
            blocks,
            rank,
            order,
        }
        .validate(inputs, outputs)?;
        Ok(MonarchLinear {
            right: init::first(inputs / blocks).init([blocks, rank, inputs / blocks], device),
            left: init::last(rank).init([blocks, outputs / blocks, rank], device),
            bias: init::bias(self.bias, inputs, outputs, device),
            order,
        })
    }
}

impl MonarchLinear {
    /// Makes the layer from `right [b, r, in/b]`, `left [b, out/b, r]` and a bias `[out]`.
    ///
    /// # Errors
    ///
    /// [`BlrError`] if the shapes do not fit together.
    pub fn from_factors(
        right: Tensor<3>,
        left: Tensor<3>,
        order: OutputOrder,
        bias: Option<Tensor<1>>,
    ) -> Result<Self, BlrError> {
        let [blocks, rank, block_in] = right.dims();
        let [_, block_out, _] = left.dims();
        expect_shape("left", &left, [blocks, block_out, rank])?;
        Structure::Monarch {
            blocks,
            rank,
            order,
        }
        .validate(blocks * block_in, blocks * block_out)?;
        let bias = bias_param(bias, blocks * block_out)?;
        Ok(Self {
            right: init::parameter(right),
            left: init::parameter(left),
            bias,
            order,
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
        let (right, left) = (self.right.val(), self.left.val());
        ops::monarch_linear(input, right, left, self.order, epilogue)
    }

    /// The dense weight, `[out, in]`.
    pub fn to_dense(&self) -> Tensor<2> {
        let [blocks, _, block_in] = self.right.dims();
        let [outputs, block_out, rank] = self.left.dims();
        let part = rank / blocks;
        // Block (j, i) is one product of left_j[:, part i] and right_i[part j, :].
        let left = self.left.val().reshape([outputs, block_out, blocks, part]);
        let left = left.permute([0, 2, 1, 3]); // [j, i, out/b, part]
        let right = self.right.val();
        let right = right.reshape([blocks, outputs, part, block_in]);
        let right = right.permute([1, 0, 2, 3]); // [j, i, part, in/b]
        let weight = left.matmul(right); // [j, i, out/b, in/b]
        let weight = match self.order {
            OutputOrder::Contiguous => weight.permute([0, 2, 1, 3]),
            OutputOrder::Interleaved => weight.permute([2, 0, 1, 3]),
        };
        weight.reshape([outputs * block_out, blocks * block_in])
    }

    /// The structure, without widths; that of each layer that this one is joined of.
    pub fn structure(&self) -> Structure {
        let ([blocks, _, _], [_, _, rank]) = (self.right.dims(), self.left.dims());
        Structure::Monarch {
            blocks,
            rank,
            order: self.order,
        }
    }

    /// Widths of input and output.
    pub fn features(&self) -> (usize, usize) {
        let ([blocks, _, block_in], [outputs, block_out, _]) =
            (self.right.dims(), self.left.dims());
        (blocks * block_in, outputs * block_out)
    }
}

impl ModuleDisplay for MonarchLinear {
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
