//! DiT, a diffusion transformer, [Peebles and Xie 2022](https://arxiv.org/abs/2212.09748), as the
//! [official code](https://github.com/facebookresearch/DiT) computes it.

use std::path::Path;

use burn::module::Module;
use burn::nn::Embedding;
use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData, activation};
use burn_blr::network::{VisibleKeys, narrow};
use burn_blr::{BlrLinear, graph};
use serde_json::Value;

use crate::checkpoint::{ConfigKeys, MAX_LAYERS};
use crate::common::{ResidualStream, from_patches};
use crate::{
    Attention, Checkpoint, DitInputs, Heads, Mlp, ModelError, PatchEmbedding, Plan, loader,
};

/// Added to the variance in every norm; the official code has no other.
const NORM_EPSILON: f64 = 1e-6;

/// Width of what a timestep becomes before the MLP: a cosine and a sine of each frequency.
pub(crate) const TIMESTEP_FEATURES: usize = 256;

/// Longest period of the timestep's frequencies.
const MAX_PERIOD: f32 = 10_000.0;

/// The configuration of a DiT, with the names of the official constructor.
#[derive(Debug, Clone, PartialEq)]
pub struct DitConfig {
    /// Side of the images, or of the latents; a multiple of `patch_size`. 32 if not set.
    pub input_size: usize,
    /// Side of a patch, 2 if not set.
    pub patch_size: usize,
    /// Channels of the images, 4 if not set.
    pub in_channels: usize,
    /// Hidden width, a multiple of 4, 1152 if not set.
    pub hidden_size: usize,
    /// Number of blocks, 28 if not set.
    pub depth: usize,
    /// Attention heads, which divide `hidden_size`; 16 if not set.
    pub num_heads: usize,
    /// Inner width of the MLP over `hidden_size`, 4 if not set.
    pub mlp_ratio: f64,
    /// Share of the labels that training replaced by the null class, 0.1 if not set. Where it is
    /// zero there is no null class, and so no guidance.
    pub class_dropout_prob: f64,
    /// Number of classes, without the null class; 1000 if not set.
    pub num_classes: usize,
    /// Whether the model predicts a variance beside the noise; true if not set.
    pub learn_sigma: bool,
}

impl DitConfig {
    /// The sizes of the paper: name, hidden width, blocks, heads.
    const SIZES: [(&str, usize, usize, usize); 4] = [
        ("S", 384, 12, 6),
        ("B", 768, 12, 12),
        ("L", 1024, 24, 16),
        ("XL", 1152, 28, 16),
    ];

    /// The patch sizes of the paper.
    const PATCHES: [usize; 3] = [2, 4, 8];

    /// DiT-XL/2 for images of 256 x 256, whose latents are 32 x 32: the published model.
    pub fn dit_xl_2() -> Self {
        Self {
            input_size: 32,
            patch_size: 2,
            in_channels: 4,
            hidden_size: 1152,
            depth: 28,
            num_heads: 16,
            mlp_ratio: 4.0,
            class_dropout_prob: 0.1,
            num_classes: 1000,
            learn_sigma: true,
        }
    }

    /// A model of the paper by its name, `DiT-S/8` to `DiT-XL/2`, for latents of 32 x 32.
    ///
    /// # Errors
    ///
    /// [`ModelError::UnknownPreset`] if the paper has no such model.
    pub fn named(name: &str) -> Result<Self, ModelError> {
        for (size, hidden_size, depth, num_heads) in Self::SIZES {
            for patch_size in Self::PATCHES {
                if name == format!("DiT-{size}/{patch_size}") {
                    return Ok(Self {
                        patch_size,
                        hidden_size,
                        depth,
                        num_heads,
                        ..Self::dit_xl_2()
                    });
                }
            }
        }
        Err(ModelError::UnknownPreset {
            found: name.to_string(),
            available: String::from("DiT-S, DiT-B, DiT-L, DiT-XL, each with /2, /4 or /8"),
        })
    }

    /// Heads of the published model of this width, if there is one.
    pub(crate) fn published_heads(hidden_size: usize) -> Option<usize> {
        let size = Self::SIZES.iter().find(|size| size.1 == hidden_size);
        size.map(|&(_, _, _, heads)| heads)
    }

    /// Reads a `config.json`; `path` is where it came from, for the errors.
    ///
    /// # Errors
    ///
    /// [`ModelError::InvalidKey`] if a value has the wrong type, heads or patches do not divide, or
    /// there are too many blocks.
    pub fn from_json(json: &Value, path: &Path) -> Result<Self, ModelError> {
        let keys = ConfigKeys::new(path, json);
        let default = Self::dit_xl_2();
        let config = Self {
            input_size: keys.count("input_size", default.input_size)?,
            patch_size: keys.count("patch_size", default.patch_size)?,
            in_channels: keys.count("in_channels", default.in_channels)?,
            hidden_size: keys.count("hidden_size", default.hidden_size)?,
            depth: keys.count("depth", default.depth)?,
            num_heads: keys.count("num_heads", default.num_heads)?,
            mlp_ratio: keys.positive("mlp_ratio", default.mlp_ratio)?,
            class_dropout_prob: match keys.get("class_dropout_prob").map(Value::as_f64) {
                None => default.class_dropout_prob,
                Some(Some(share)) if (0.0..=1.0).contains(&share) => share,
                Some(_) => return Err(keys.invalid("class_dropout_prob", "a share from 0 to 1")),
            },
            num_classes: keys.count("num_classes", default.num_classes)?,
            learn_sigma: keys.flag("learn_sigma", default.learn_sigma)?,
        };
        let hidden = config.hidden_size;
        if !config.input_size.is_multiple_of(config.patch_size) {
            let expected = format!("a multiple of patch_size {}", config.patch_size);
            return Err(keys.invalid("input_size", expected));
        }
        if !hidden.is_multiple_of(4) {
            return Err(keys.invalid("hidden_size", "a multiple of 4"));
        }
        if !hidden.is_multiple_of(config.num_heads) {
            let expected = format!("a divisor of hidden_size {hidden}");
            return Err(keys.invalid("num_heads", expected));
        }
        if config.mlp_features() == 0 {
            return Err(keys.invalid("mlp_ratio", "a ratio that leaves the MLP a width"));
        }
        if config.depth > MAX_LAYERS {
            return Err(keys.invalid("depth", format!("at most {MAX_LAYERS}")));
        }
        Ok(config)
    }

    /// The configuration as a `config.json`, without the `blr` section.
    pub fn to_json(&self) -> Value {
        serde_json::json!({
            "model_type": "dit",
            "input_size": self.input_size,
            "patch_size": self.patch_size,
            "in_channels": self.in_channels,
            "hidden_size": self.hidden_size,
            "depth": self.depth,
            "num_heads": self.num_heads,
            "mlp_ratio": self.mlp_ratio,
            "class_dropout_prob": self.class_dropout_prob,
            "num_classes": self.num_classes,
            "learn_sigma": self.learn_sigma,
        })
    }

    /// The class that stands for none, where the model has it.
    pub fn null_class(&self) -> Option<usize> {
        (self.class_dropout_prob > 0.0).then_some(self.num_classes)
    }

    /// Rows of the label embedding.
    pub(crate) fn labels(&self) -> usize {
        self.num_classes + usize::from(self.null_class().is_some())
    }

    /// Channels of the output: the noise, and with it the variance where that is learned.
    pub fn out_channels(&self) -> usize {
        match self.learn_sigma {
            true => 2 * self.in_channels,
            false => self.in_channels,
        }
    }

    /// Patches along a side.
    pub(crate) fn side(&self) -> usize {
        self.input_size / self.patch_size
    }

    /// Inner width of the MLP.
    pub(crate) fn mlp_features(&self) -> usize {
        (self.hidden_size as f64 * self.mlp_ratio) as usize
    }

    /// Heads and their width.
    pub(crate) fn heads(&self) -> Heads {
        Heads {
            query: self.num_heads,
            key: self.num_heads,
            width: self.hidden_size / self.num_heads,
        }
    }

    /// The fixed positions: for each patch sines and cosines of its column, then of its row,
    /// `[side · side, hidden_size]`, row by row.
    pub(crate) fn positions(&self) -> Vec<f32> {
        let side = self.side();
        let quarter = self.hidden_size / 4;
        let frequencies: Vec<f64> = (0..quarter)
            .map(|n| 1.0 / 10_000f64.powf(n as f64 / quarter as f64))
            .collect();
        let mut values = Vec::with_capacity(side * side * self.hidden_size);
        for row in 0..side {
            for column in 0..side {
                for place in [column, row] {
                    let angles = frequencies.iter().map(|frequency| place as f64 * frequency);
                    values.extend(angles.clone().map(|angle| angle.sin() as f32));
                    values.extend(angles.map(|angle| angle.cos() as f32));
                }
            }
        }
        values
    }
}

/// Turns timesteps into vectors: cosines and sines of 128 frequencies, then two layers with SiLU
/// between them.
#[derive(Module, Debug)]
pub struct TimestepEmbedding {
    /// `[256] -> [hidden_size]`.
    pub fc1: BlrLinear,
    /// `[hidden_size] -> [hidden_size]`.
    pub fc2: BlrLinear,
    /// Radians per step, `[128]`, `f32`. Not a parameter.
    frequencies: Tensor<1>,
}

impl TimestepEmbedding {
    /// Joins the two layers.
    pub(crate) fn new(fc1: BlrLinear, fc2: BlrLinear, device: &Device) -> Self {
        let pairs = TIMESTEP_FEATURES / 2;
        // In f32 step by step as the official code has it, so that large timesteps agree.
        let frequencies: Vec<f32> = (0..pairs)
            .map(|n| (-MAX_PERIOD.ln() * n as f32 / pairs as f32).exp())
            .collect();
        let data = TensorData::new(frequencies, [pairs]);
        Self {
            fc1,
            fc2,
            frequencies: Tensor::from_data(data, (device, DType::F32)),
        }
    }

    /// # Shapes
    ///
    /// - `t`: `[batch]`
    /// - output: `[batch, hidden_size]`, of `dtype`
    fn forward(&self, t: Tensor<1, Int>, dtype: FloatDType) -> Tensor<2> {
        let [batch] = t.dims();
        let [pairs] = self.frequencies.dims();
        let t = t.cast(FloatDType::F32).reshape([batch, 1]);
        let angles = t * self.frequencies.clone().reshape([1, pairs]); // [batch, pairs]
        let features = Tensor::cat(vec![angles.clone().cos(), angles.sin()], 1); // [batch, 2 pairs]
        let inner = activation::silu(self.fc1.forward(features.cast(dtype)));
        self.fc2.forward(inner)
    }
}

/// One block: attention and MLP, each behind a norm whose scale and shift come from timestep and
/// class, and with a gate of the same origin (adaLN-Zero).
#[derive(Module, Debug)]
pub struct DitBlock {
    /// Self-attention of the patches.
    pub attention: Attention,
    /// Feed-forward block.
    pub mlp: Mlp,
    /// `[hidden_size] -> [6 · hidden_size]`: shift, scale and gate of attention, then of the MLP. Nothing
    /// where those of all blocks are [one layer](Dit::modulation).
    pub modulation: Option<BlrLinear>,
}

/// Shift, scale and gate of attention and MLP.
const MODULATIONS: usize = 6;

impl DitBlock {
    /// Applies the block to the stream.
    ///
    /// # Shapes
    ///
    /// - `part` of 0 to 5: `[batch, 1, hidden_size]`, the modulations
    fn forward(&self, stream: &mut ResidualStream, part: impl Fn(usize) -> Tensor<3>) {
        let normed = stream.modulated(NORM_EPSILON, part(0), part(1));
        let attended = self
            .attention
            .forward(normed, &VisibleKeys::All, None, None);
        stream.add(attended, Some(part(2)));
        let normed = stream.modulated(NORM_EPSILON, part(3), part(4));
        stream.add(self.mlp.forward(normed), Some(part(5)));
    }
}

/// The layer after the blocks: a norm with scale and shift from timestep and class, then a patch of
/// pixels for every token.
#[derive(Module, Debug)]
pub struct DitFinalLayer {
    /// `[hidden_size] -> [2 · hidden_size]`: shift and scale.
    pub modulation: BlrLinear,
    /// `[hidden_size] -> [patch · patch · out channels]`.
    pub proj: BlrLinear,
}

impl DitFinalLayer {
    /// # Shapes
    ///
    /// - the stream: `[batch, patches, hidden_size]`
    /// - `condition`: `[batch, hidden_size]`, behind its SiLU
    /// - output: `[batch, patches, patch · patch · out channels]`
    fn forward(&self, mut stream: ResidualStream, condition: Tensor<2>) -> Tensor<3> {
        let [batch, hidden] = condition.dims();
        let all = self.modulation.forward(condition);
        let all = all.reshape([batch, 2, hidden]); // [batch, 2 hidden] -> [batch, 2, hidden]
        let part = |n| narrow(all.clone(), 1, n, 1); // [batch, 1, hidden]
        let normed = stream.modulated(NORM_EPSILON, part(0), part(1));
        self.proj.forward(normed)
    }
}

/// DiT: what noise an image holds, given the timestep and the class. Load it with [`Dit::load`], or
/// make one with random weights with [`Dit::init`]; [`crate::sample_images`] draws with it.
///
/// Norms, softmax and the sines of the timestep are computed in `f32`, everything else in the dtype
/// of the weights.
#[derive(Module, Debug)]
pub struct Dit {
    /// Embedding of the patches.
    pub patch_embedding: PatchEmbedding,
    /// Makes a vector of the timestep.
    pub timestep: TimestepEmbedding,
    /// Makes a vector of the class, `[classes, hidden_size]`; the last row is the null class.
    pub labels: Embedding,
    /// The blocks, first to last.
    pub blocks: Vec<DitBlock>,
    /// The modulations of all blocks, one after the other, where they are one layer:
    /// `[hidden_size] -> [blocks · 6 · hidden_size]`.
    pub modulation: Option<BlrLinear>,
    /// The layer after the blocks.
    pub final_layer: DitFinalLayer,
    /// Added to the tokens, `[1, patches, hidden_size]`. Not a parameter.
    pub(crate) positions: Tensor<3>,
    #[module(skip)]
    pub(crate) config: DitConfig,
}

impl Dit {
    /// Loads a checkpoint onto `device` with weights of `dtype`, tensor by tensor.
    ///
    /// # Errors
    ///
    /// [`ModelError::MissingTensor`], [`ModelError::UnusedTensor`], [`ModelError::TensorShape`],
    /// [`ModelError::TensorDtype`] and [`ModelError::NonFiniteWeight`] for weights that are not
    /// those of the configuration; [`ModelError::InvalidKey`], [`ModelError::UnknownBlrLayer`] and
    /// [`ModelError::Structure`] for a configuration that cannot be used;
    /// [`ModelError::WrongFamily`] for another model; [`ModelError::UnsupportedDtype`] if the device
    /// cannot compute in `dtype`.
    pub fn load(
        checkpoint: &Checkpoint,
        device: &Device,
        dtype: FloatDType,
    ) -> Result<Self, ModelError> {
        let (model, _) = loader::dit::load(checkpoint, device, dtype)?;
        Ok(model)
    }

    /// Makes a model with random weights on `device`, its linear layers as `plan` says, or dense.
    ///
    /// The layers are named as in a checkpoint, `blocks.0.attn.qkv` and so on. No layer starts at
    /// zero: the zeros that training of a DiT starts from make every block the identity.
    ///
    /// ```
    /// use burn::tensor::{Device, FloatDType, Tensor};
    /// use burn_blr::Method;
    /// use models::{Dit, DitConfig, Plan};
    ///
    /// # fn main() -> Result<(), models::ModelError> {
    /// # let small = DitConfig { input_size: 8, hidden_size: 48, depth: 2, num_heads: 4,
    /// #     ..DitConfig::dit_xl_2() };
    /// let config = DitConfig::dit_xl_2();
    /// # let config = small;
    /// let plan = Plan::keep(Method::Blast, 0.5); // or Plan::preset("dit_xl", Method::Blast)?
    /// let model = Dit::init(&config, Some(&plan), &Device::flex(), FloatDType::F32)?;
    ///
    /// let side = config.input_size;
    /// let x = Tensor::ones([1, config.in_channels, side, side], &Device::flex());
    /// let output = model.forward(x, model.timesteps(&[999]), model.classes(&[207])?)?;
    /// assert_eq!(output.dims(), [1, config.out_channels(), side, side]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Plan::resolve`]; [`ModelError::UnsupportedDtype`] if the device cannot compute in
    /// `dtype`.
    pub fn init(
        config: &DitConfig,
        plan: Option<&Plan>,
        device: &Device,
        dtype: FloatDType,
    ) -> Result<Self, ModelError> {
        let (model, _) = loader::dit::init(config, plan, device, dtype)?;
        Ok(model)
    }

    /// The same model with the modulations of all blocks as one layer, where their structures are the
    /// same: all read the timestep and the class alone, so two launches take the place of two for each
    /// block. The outputs are the same.
    ///
    /// For inference: a joined model has other layers than its checkpoint, so it can be neither saved
    /// nor compressed.
    pub fn joined(mut self) -> Self {
        let layers: Option<Vec<_>> = self
            .blocks
            .iter()
            .map(|block| block.modulation.as_ref())
            .collect();
        if let Some(joined) = layers.as_deref().and_then(BlrLinear::join) {
            self.modulation = Some(joined);
            for block in &mut self.blocks {
                block.modulation = None;
            }
        }
        self
    }

    /// The same model with fewer launches on devices where those count: see [`Dit::joined`].
    ///
    /// It can be neither saved nor compressed then.
    pub fn for_inference(self) -> Self {
        if graph::captures(&self.device()) {
            self.joined()
        } else {
            self
        }
    }

    /// The configuration.
    pub fn config(&self) -> &DitConfig {
        &self.config
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.labels.weight.device()
    }

    /// Makes timesteps a tensor on the device of the model, `[batch]`.
    pub fn timesteps(&self, t: &[i64]) -> Tensor<1, Int> {
        Tensor::from_data(TensorData::new(t.to_vec(), [t.len()]), &self.device())
    }

    /// Makes classes a tensor on the device of the model, `[batch]`, after checking them. The null
    /// class is [`DitConfig::null_class`].
    ///
    /// # Errors
    ///
    /// [`ModelError::ClassOutOfRange`] for a class that the model does not have.
    pub fn classes(&self, classes: &[i64]) -> Result<Tensor<1, Int>, ModelError> {
        check_classes(classes, self.config.labels())?;
        let data = TensorData::new(classes.to_vec(), [classes.len()]);
        Ok(Tensor::from_data(data, &self.device()))
    }

    /// Inputs of a batch of [`Dit::forward`] that hold nothing yet, `x` in the dtype of the weights.
    pub(crate) fn blank_inputs(&self, batch: usize) -> Result<DitInputs, ModelError> {
        let config = &self.config;
        let size = config.input_size;
        let shape = [batch, config.in_channels, size, size];
        check_shape("x", &shape, &[batch.max(1), config.in_channels, size, size])?;
        let zeros = vec![0; batch];
        let x = Tensor::zeros(shape, (&self.device(), self.labels.weight.dtype()));
        Ok((x, self.timesteps(&zeros), self.classes(&zeros)?))
    }

    /// The noise in `x` at the timesteps `t` given the classes `y`, and where the variance is learned
    /// its place between the bounds in as many channels more.
    ///
    /// `x` is cast to the dtype of the weights, which is that of the output. The classes must be
    /// those of the model: to have them checked, make them a tensor with [`Self::classes`].
    ///
    /// # Shapes
    ///
    /// - `x`: `[batch, in channels, input_size, input_size]`
    /// - `t`, `y`: `[batch]`
    /// - output: `[batch, out channels, input_size, input_size]`
    ///
    /// # Errors
    ///
    /// [`ModelError::InputShape`] if a shape is not as above.
    pub fn forward(
        &self,
        x: Tensor<4>,
        t: Tensor<1, Int>,
        y: Tensor<1, Int>,
    ) -> Result<Tensor<4>, ModelError> {
        self.run(x, t, y, |_| {})
    }

    /// As [`Self::forward`], with the hidden state behind each block, `[batch, patches, hidden_size]`.
    ///
    /// # Errors
    ///
    /// Those of [`Self::forward`].
    pub fn observe(
        &self,
        x: Tensor<4>,
        t: Tensor<1, Int>,
        y: Tensor<1, Int>,
    ) -> Result<(Vec<Tensor<3>>, Tensor<4>), ModelError> {
        let mut hidden = Vec::with_capacity(self.blocks.len());
        let output = self.run(x, t, y, |stream| hidden.push(stream.current()))?;
        Ok((hidden, output))
    }

    /// [`Self::forward`], telling of the stream behind each block.
    fn run(
        &self,
        x: Tensor<4>,
        t: Tensor<1, Int>,
        y: Tensor<1, Int>,
        mut on_block: impl FnMut(&mut ResidualStream),
    ) -> Result<Tensor<4>, ModelError> {
        let config = &self.config;
        let [batch, ..] = x.dims();
        let size = config.input_size;
        let needed = [batch.max(1), config.in_channels, size, size];
        check_shape("x", &x.dims(), &needed)?;
        check_shape("t", &t.dims(), &[batch])?;
        check_shape("y", &y.dims(), &[batch])?;
        let dtype: FloatDType = self.labels.weight.dtype().into();

        let positions = self.positions.clone().cast(dtype);
        let x = self.patch_embedding.forward(x.cast(dtype)) + positions;
        // [batch] -> [batch, 1] -> [batch, 1, hidden] -> [batch, hidden]
        let label = self.labels.forward(y.reshape([batch, 1]));
        let label = label.reshape([batch, config.hidden_size]);
        let condition = activation::silu(self.timestep.forward(t, dtype) + label);
        let hidden = config.hidden_size;
        // [batch, n 6 hidden] -> [batch, n 6, hidden]
        let modulations = |layer: &BlrLinear| {
            let all = layer.forward(condition.clone());
            let [_, features] = all.dims();
            all.reshape([batch, features / hidden, hidden])
        };
        let joined = self.modulation.as_ref().map(modulations);
        let mut stream = ResidualStream::new(x);
        for (n, block) in self.blocks.iter().enumerate() {
            let own = block
                .modulation
                .as_ref()
                .map(|layer| (modulations(layer), 0));
            let of_joined = || Some((joined.clone()?, n * MODULATIONS));
            let Some((all, first)) = own.or_else(of_joined) else {
                unreachable!("block {n} has no modulation, and neither has the model");
            };
            // [batch, 1, hidden]
            block.forward(&mut stream, |part| narrow(all.clone(), 1, first + part, 1));
            on_block(&mut stream);
        }
        let x = self.final_layer.forward(stream, condition);
        Ok(from_patches(
            x,
            config.side(),
            config.patch_size,
            config.out_channels(),
        ))
    }
}

/// Checks that every class is below `count`.
pub(crate) fn check_classes(classes: &[i64], count: usize) -> Result<(), ModelError> {
    let known = |class: i64| usize::try_from(class).is_ok_and(|class| class < count);
    match classes.iter().position(|&class| !known(class)) {
        None => Ok(()),
        Some(position) => Err(ModelError::ClassOutOfRange {
            found: classes.get(position).copied().unwrap_or_default(),
            position,
            max: count.saturating_sub(1),
        }),
    }
}

/// Checks a shape.
pub(crate) fn check_shape(
    tensor: &'static str,
    found: &[usize],
    expected: &[usize],
) -> Result<(), ModelError> {
    if found == expected {
        return Ok(());
    }
    Err(ModelError::InputShape {
        tensor,
        found: found.to_vec(),
        expected: expected.to_vec(),
    })
}
