use burn::module::{Module, Param, ParamId};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};

use super::factor::bias_param;
use super::{
    BlastLinear, BlastLinearConfig, LowRankLinear, LowRankLinearConfig, MonarchLinear,
    MonarchLinearConfig, observe::observe,
};
use crate::{Activation, BlrError, Merge, OutputOrder, Structure, init, ops};

/// A linear layer that is dense, low-rank, Monarch or BLAST, so that a model is written once.
#[derive(Module, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a model holds few layers, and boxes are no modules"
)]
pub enum BlrLinear {
    /// Burn's own layer, whose weight is `[in, out]`.
    Dense(Linear),
    /// `y = (x Vᵀ) Uᵀ + bias`.
    LowRank(LowRankLinear),
    /// Two block-diagonal factors with a permutation between.
    Monarch(MonarchLinear),
    /// Blocks `U_j diag(S_ji) V_i`.
    Blast(BlastLinear),
}

impl From<Linear> for BlrLinear {
    fn from(layer: Linear) -> Self {
        BlrLinear::Dense(layer)
    }
}

impl BlrLinear {
    /// Makes a layer of the given structure with its initial distributions.
    ///
    /// # Errors
    ///
    /// [`BlrError`] if the structure does not fit the widths.
    pub fn init(
        structure: Structure,
        in_features: usize,
        out_features: usize,
        bias: bool,
        device: &Device,
    ) -> Result<Self, BlrError> {
        Ok(match structure {
            Structure::Dense => {
                let config = LinearConfig::new(in_features, out_features).with_bias(bias);
                BlrLinear::Dense(config.init(device))
            }
            Structure::LowRank { rank } => BlrLinear::LowRank(
                LowRankLinearConfig::new(in_features, out_features, rank)
                    .with_bias(bias)
                    .init(device)?,
            ),
            Structure::Monarch {
                blocks,
                rank,
                order,
            } => BlrLinear::Monarch(
                MonarchLinearConfig::new(in_features, out_features, blocks, rank)
                    .with_interleaved(order == OutputOrder::Interleaved)
                    .with_bias(bias)
                    .init(device)?,
            ),
            Structure::Blast { blocks, rank } => BlrLinear::Blast(
                BlastLinearConfig::new(in_features, out_features, blocks, rank)
                    .with_bias(bias)
                    .init(device)?,
            ),
        })
    }

    /// A dense layer from a weight `[in, out]`, as Burn's layer holds it, and a bias `[out]`.
    pub fn dense(weight: Tensor<2>, bias: Option<Tensor<1>>) -> Self {
        BlrLinear::Dense(Linear {
            weight: init::parameter(weight),
            bias: bias.map(init::parameter),
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

    /// Of a layer that is [joined](BlrLinear::join) of two: the outputs of the first, activated, times
    /// those of the second, which is SwiGLU where the activation is SiLU
    /// ([Shazeer 2020](https://arxiv.org/abs/2002.05202)). With few tokens on CUDA that takes as many launches
    /// as one layer.
    ///
    /// # Shapes
    ///
    /// - input: `[..., in]`
    /// - output: `[..., out / 2]`
    ///
    /// # Panics
    ///
    /// If the layer has an odd number of outputs.
    pub fn forward_gated<const D: usize>(
        &self,
        input: Tensor<D>,
        activation: Activation,
    ) -> Tensor<D> {
        let epilogue = ops::Epilogue {
            activation,
            gated: true,
            ..ops::Epilogue::default()
        };
        self.apply(input, epilogue)
    }

    /// Applies the layer, then the epilogue after its own bias.
    fn apply<const D: usize>(&self, input: Tensor<D>, epilogue: ops::Epilogue<D>) -> Tensor<D> {
        observe(|| self.id(), &input);
        match self {
            BlrLinear::Dense(layer) => {
                let epilogue = epilogue.with_bias(layer.bias.as_ref().map(Param::val));
                ops::dense_linear(input, layer.weight.val(), epilogue)
            }
            BlrLinear::LowRank(layer) => layer.apply(input, epilogue),
            BlrLinear::Monarch(layer) => layer.apply(input, epilogue),
            BlrLinear::Blast(layer) => layer.apply(input, epilogue),
        }
    }

    /// The dense weight this layer stands for, `[out, in]`.
    pub fn to_dense(&self) -> Tensor<2> {
        match self {
            BlrLinear::Dense(layer) => layer.weight.val().transpose(),
            BlrLinear::LowRank(layer) => layer.to_dense(),
            BlrLinear::Monarch(layer) => layer.to_dense(),
            BlrLinear::Blast(layer) => layer.to_dense(),
        }
    }

    /// The structure, without widths; that of each layer that this one is [joined](BlrLinear::join) of.
    pub fn structure(&self) -> Structure {
        match self {
            BlrLinear::Dense(_) => Structure::Dense,
            BlrLinear::LowRank(layer) => layer.structure(),
            BlrLinear::Monarch(layer) => layer.structure(),
            BlrLinear::Blast(layer) => layer.structure(),
        }
    }

    /// Widths of input and output.
    pub fn features(&self) -> (usize, usize) {
        match self {
            BlrLinear::Dense(layer) => {
                let [in_features, out_features] = layer.weight.dims();
                (in_features, out_features)
            }
            BlrLinear::LowRank(layer) => layer.features(),
            BlrLinear::Monarch(layer) => layer.features(),
            BlrLinear::Blast(layer) => layer.features(),
        }
    }

    /// What tells this layer from others: the id of its weight, or of the factor next to the output.
    pub fn id(&self) -> ParamId {
        match self {
            BlrLinear::Dense(layer) => layer.weight.id,
            BlrLinear::LowRank(layer) => layer.u.id,
            BlrLinear::Monarch(layer) => layer.left.id,
            BlrLinear::Blast(layer) => layer.u.id,
        }
    }

    /// The ids of the factors, in the order low-rank `u`, `v`, Monarch `right`, `left`, BLAST `u`, `s`,
    /// `v`; that of the weight of a dense layer.
    pub fn factor_ids(&self) -> Vec<ParamId> {
        match self {
            BlrLinear::Dense(layer) => vec![layer.weight.id],
            BlrLinear::LowRank(layer) => vec![layer.u.id, layer.v.id],
            BlrLinear::Monarch(layer) => vec![layer.right.id, layer.left.id],
            BlrLinear::Blast(layer) => vec![layer.u.id, layer.s.id, layer.v.id],
        }
    }

    /// The id of the bias, where one is added.
    pub fn bias_id(&self) -> Option<ParamId> {
        self.bias_param().map(|bias| bias.id)
    }

    /// Whether a bias is added.
    pub fn has_bias(&self) -> bool {
        self.bias_param().is_some()
    }

    /// The bias, `[out]`, where one is added.
    pub fn bias(&self) -> Option<Tensor<1>> {
        self.bias_param().map(Param::val)
    }

    /// The same layer with the bias `[out]`, or with none.
    ///
    /// # Errors
    ///
    /// [`BlrError::FactorShape`] if the bias has another length.
    pub fn with_bias(mut self, bias: Option<Tensor<1>>) -> Result<Self, BlrError> {
        let (_, out_features) = self.features();
        let bias = bias_param(bias, out_features)?;
        match &mut self {
            BlrLinear::Dense(layer) => layer.bias = bias,
            BlrLinear::LowRank(layer) => layer.bias = bias,
            BlrLinear::Monarch(layer) => layer.bias = bias,
            BlrLinear::Blast(layer) => layer.bias = bias,
        }
        Ok(self)
    }

    fn bias_param(&self) -> Option<&Param<Tensor<1>>> {
        match self {
            BlrLinear::Dense(layer) => layer.bias.as_ref(),
            BlrLinear::LowRank(layer) => layer.bias.as_ref(),
            BlrLinear::Monarch(layer) => layer.bias.as_ref(),
            BlrLinear::Blast(layer) => layer.bias.as_ref(),
        }
    }

    /// Number of weights, the bias included.
    pub fn parameters(&self) -> usize {
        let (_, out_features) = self.features();
        let bias = if self.has_bias() { out_features } else { 0 };
        self.held() + bias
    }

    /// Number of weights, without bias.
    fn held(&self) -> usize {
        let (in_features, out_features) = self.features();
        let layers = self.layers();
        layers
            * self
                .structure()
                .parameters(in_features, out_features / layers)
    }

    /// Bytes of the weights in memory, the bias included.
    pub fn bytes(&self) -> usize {
        let dtype = match self {
            BlrLinear::Dense(layer) => layer.weight.val().dtype(),
            BlrLinear::LowRank(layer) => layer.u.val().dtype(),
            BlrLinear::Monarch(layer) => layer.left.val().dtype(),
            BlrLinear::Blast(layer) => layer.u.val().dtype(),
        };
        self.parameters() * dtype.size()
    }

    /// FLOPs for `tokens` rows of input, a multiply-add counted as two and the bias as one each.
    pub fn flops(&self, tokens: usize) -> usize {
        let (_, out_features) = self.features();
        let bias = if self.has_bias() {
            tokens * out_features
        } else {
            0
        };
        // Every row meets every weight once: see `Structure::flops`.
        2 * tokens * self.held() + bias
    }

    /// Weights of the dense layer over the weights held, both without bias; 1 for dense.
    pub fn compression_ratio(&self) -> f64 {
        let (in_features, out_features) = self.features();
        (in_features * out_features) as f64 / self.held() as f64
    }
}
