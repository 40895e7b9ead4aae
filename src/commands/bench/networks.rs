//! The networks that are timed, with random weights made on the device.

use std::sync::{Mutex, PoisonError};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Bool, Device, Distribution, FloatDType, Int, Tensor, TensorData};
use burn_blr::Method;
use burn_blr::graph::GraphError;
use clap::ValueEnum;
use models::{
    AnyLanguageModel, CapturedForward, Context, Decoder, Dit, DitConfig, Gpt2, Gpt2Config, KvCache,
    LanguageModel, Llama, LlamaConfig, ModelError, Plan, Vit, VitConfig,
};

use super::captured;
use crate::arguments::BenchModelArguments;
use crate::device_timing::{Captured, Work};
use crate::error::CommandError;

/// Tokens that a cache has room for behind its context.
const ROOM: usize = 128;

/// A network of the paper, named as its preset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Family {
    /// GPT-2, 124 million parameters
    #[value(name = "gpt2s")]
    Gpt2s,
    /// Llama 3.2 1B
    #[value(name = "llama1b")]
    Llama1b,
    /// Llama 7B
    #[value(name = "llama7b")]
    Llama7b,
    /// DiT-XL/2, 256 tokens an image
    DitXl,
    /// ViT-B/16 at 224 x 224
    VitB,
}

/// What is done with a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Phase {
    /// All tokens of a prompt into an empty cache, and the logits of the last
    Prefill,
    /// One token behind those of a cache
    Decode,
    /// All tokens without a cache, and the logits of all
    Forward,
}

impl Phase {
    /// The name used in flags and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Prefill => "prefill",
            Phase::Decode => "decode",
            Phase::Forward => "forward",
        }
    }
}

/// How much goes through a network.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    pub batch: usize,
    /// Tokens of each row in one pass.
    pub tokens: usize,
    /// Tokens of each row in the cache before it.
    pub context: usize,
}

impl Family {
    /// The name used in flags and reports, that of the preset.
    pub fn as_str(self) -> &'static str {
        match self {
            Family::Gpt2s => "gpt2s",
            Family::Llama1b => "llama1b",
            Family::Llama7b => "llama7b",
            Family::DitXl => "dit_xl",
            Family::VitB => "vit_b",
        }
    }

    /// Whether it is a language model.
    fn reads_text(self) -> bool {
        matches!(self, Family::Gpt2s | Family::Llama1b | Family::Llama7b)
    }

    /// What can be timed; what is timed unless flags say otherwise comes first.
    pub fn phases(self) -> &'static [Phase] {
        match self.reads_text() {
            true => &[Phase::Prefill, Phase::Decode, Phase::Forward],
            false => &[Phase::Forward],
        }
    }

    /// What goes through it, by flags and the paper.
    pub fn setting(
        self,
        phase: Phase,
        arguments: &BenchModelArguments,
    ) -> Result<Setting, CommandError> {
        let batch = arguments.batch.unwrap_or(1);
        let (of_paper, most) = match self {
            Family::Gpt2s => (384, Gpt2Config::gpt2_small().n_positions),
            Family::Llama1b => (1024, LlamaConfig::llama_3_2_1b().max_position_embeddings),
            Family::Llama7b => (1024, LlamaConfig::llama_7b().max_position_embeddings),
            Family::DitXl => (256, 256),
            Family::VitB => (197, 197),
        };
        if !self.reads_text() {
            if let Some(tokens) = arguments.tokens
                && tokens != of_paper
            {
                return Err(CommandError::Flag {
                    flag: "tokens",
                    found: tokens.to_string(),
                    expected: format!("{of_paper}, the tokens of an image of {}", self.as_str()),
                });
            }
            let (tokens, context) = (of_paper, 0);
            return Ok(Setting {
                batch,
                tokens,
                context,
            });
        }
        let tokens = arguments.tokens.unwrap_or(of_paper);
        let setting = match phase {
            Phase::Decode => Setting {
                batch,
                tokens: 1,
                context: arguments.context.unwrap_or(tokens),
            },
            Phase::Prefill | Phase::Forward => Setting {
                batch,
                tokens,
                context: 0,
            },
        };
        let found = setting.tokens + setting.context;
        if found > most {
            return Err(CommandError::Model(ModelError::TooManyTokens {
                found,
                max: most,
            }));
        }
        Ok(setting)
    }
}

/// A network with random weights.
#[allow(clippy::large_enum_variant, reason = "there is one at a time")]
pub enum Network {
    Language(AnyLanguageModel),
    Dit(Dit),
    Vit(Vit),
}

impl Network {
    /// A network whose layers are those of the paper by `method`, or dense.
    pub fn random(
        family: Family,
        method: Option<Method>,
        device: &Device,
        dtype: FloatDType,
    ) -> Result<Self, CommandError> {
        let plan = method
            .map(|method| Plan::preset(family.as_str(), method))
            .transpose()?;
        let plan = plan.as_ref();
        Ok(match family {
            Family::Gpt2s => {
                let config = Gpt2Config::gpt2_small();
                Self::Language(Gpt2::init(&config, plan, device, dtype)?.into())
            }
            Family::Llama1b => {
                let model = Llama::init(&LlamaConfig::llama_3_2_1b(), plan, device, dtype)?;
                Self::Language(AnyLanguageModel::from(model).for_inference())
            }
            Family::Llama7b => {
                let model = Llama::init(&LlamaConfig::llama_7b(), plan, device, dtype)?;
                Self::Language(AnyLanguageModel::from(model).for_inference())
            }
            Family::DitXl => {
                let config = DitConfig::dit_xl_2();
                Self::Dit(Dit::init(&config, plan, device, dtype)?.for_inference())
            }
            Family::VitB => {
                let config = VitConfig::vit_b_16();
                Self::Vit(Vit::init(&config, plan, device, dtype)?)
            }
        })
    }

    /// Parameters, and their bytes.
    pub fn weights(&self) -> (usize, usize) {
        let mut weights = Weights::default();
        match self {
            Self::Language(model) => model.visit(&mut weights),
            Self::Dit(model) => model.visit(&mut weights),
            Self::Vit(model) => model.visit(&mut weights),
        }
        (weights.parameters, weights.bytes)
    }

    /// A pass through it on random inputs.
    pub fn pass<'a>(
        &'a self,
        phase: Phase,
        setting: Setting,
        device: &Device,
        dtype: FloatDType,
    ) -> Result<Pass<'a>, CommandError> {
        let batch = setting.batch;
        let image = |channels: usize, [height, width]: [usize; 2]| {
            let shape = [batch, channels, height, width];
            let normal = Distribution::Normal(0.0, 1.0);
            Tensor::<4>::random(shape, normal, device).cast(dtype)
        };
        Ok(match self {
            Self::Language(model) => {
                let ids = |tokens| Ids::random(model, batch, tokens);
                let position = TensorData::new(vec![setting.context as i64], [1]);
                let position = Tensor::from_data(position, device);
                let mut cache = match phase {
                    Phase::Forward => None,
                    Phase::Prefill => Some(model.cache(batch, setting.tokens)),
                    Phase::Decode => Some(model.cache(batch, setting.context + ROOM)),
                };
                if phase == Phase::Decode
                    && let Some(cache) = &mut cache
                {
                    let context = Context::Cached(cache);
                    // Read, so that it is done.
                    let logits = model.last_logits(ids(setting.context)?.tensor, context)?;
                    logits.try_into_vec_as::<f32>().map_err(ModelError::from)?;
                }
                Pass::Language {
                    model,
                    ids: ids(setting.tokens)?,
                    position,
                    cache: cache.map(Mutex::new),
                }
            }
            Self::Dit(model) => {
                let (timesteps, classes) = (vec![500; batch], vec![207; batch]);
                Pass::Dit {
                    model,
                    x: image(model.config().in_channels, [model.config().input_size; 2]),
                    t: model.timesteps(&timesteps),
                    y: model.classes(&classes)?,
                }
            }
            Self::Vit(model) => Pass::Vit {
                model,
                pixels: image(3, model.config().image_size),
            },
        })
    }
}

/// A pass through a network, the same every time.
#[allow(clippy::large_enum_variant, reason = "there is one at a time")]
pub enum Pass<'a> {
    Language {
        model: &'a AnyLanguageModel,
        ids: Ids,
        /// Tokens in the cache before those of the pass.
        position: Tensor<1, Int>,
        /// Nothing where there is no cache.
        cache: Option<Mutex<KvCache>>,
    },
    Dit {
        model: &'a Dit,
        x: Tensor<4>,
        t: Tensor<1, Int>,
        y: Tensor<1, Int>,
    },
    Vit {
        model: &'a Vit,
        pixels: Tensor<4>,
    },
}

impl Pass<'_> {
    /// Bytes of the cache.
    pub fn cache_bytes(&self) -> usize {
        match self {
            Pass::Language {
                cache: Some(cache), ..
            } => cache.lock().unwrap_or_else(PoisonError::into_inner).bytes(),
            _ => 0,
        }
    }
}

impl Work for Pass<'_> {
    /// One row for each row of the batch.
    type Result = Result<Tensor<2>, ModelError>;

    fn calls(&self) -> usize {
        1
    }

    fn call(&self, _index: usize) -> Self::Result {
        match self {
            Pass::Language {
                model,
                ids,
                cache: None,
                ..
            } => Ok(model.forward(ids.tensor.clone())?.flatten(1, 2)),
            Pass::Language {
                model,
                ids,
                position,
                cache: Some(cache),
            } => {
                let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
                let context = Context::Located {
                    cache: &mut cache,
                    position: position.clone(),
                };
                model.last_logits(ids.tensor.clone(), context)
            }
            Pass::Dit { model, x, t, y } => Ok(model
                .forward(x.clone(), t.clone(), y.clone())?
                .flatten(1, 3)),
            Pass::Vit { model, pixels } => model.forward(pixels.clone()),
        }
    }

    fn spoil(&self, result: &Self::Result) {
        if let Ok(result) = result {
            burn_blr::cuda::overwrite_with_nan(result.clone());
        }
    }

    fn capture<'b>(&'b self, _: &'b Device) -> Result<Captured<'b, Self::Result>, GraphError> {
        match self {
            Pass::Language {
                model,
                ids,
                cache: None,
                ..
            } => {
                let [rows, tokens] = ids.tensor.dims();
                let forward = CapturedForward::text(*model, rows, tokens);
                captured::forward(forward, ids.tensor.clone())
            }
            Pass::Language {
                model,
                ids,
                cache: Some(cache),
                ..
            } => {
                let [_, tokens] = ids.tensor.dims();
                let cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
                let decoder = Decoder::with_length(*model, cache.clone(), tokens);
                captured::step(decoder, &ids.numbers)
            }
            Pass::Dit { model, x, t, y } => {
                let [batch, ..] = x.dims();
                let forward = CapturedForward::dit(model, batch);
                captured::forward(forward, (x.clone(), t.clone(), y.clone()))
            }
            Pass::Vit { model, pixels } => {
                let forward = CapturedForward::vit(model, pixels.dims());
                captured::forward(forward, pixels.clone())
            }
        }
    }
}

/// Whether a result has neither an infinity nor a NaN.
pub fn all_finite(result: Tensor<2>) -> Result<bool, ModelError> {
    let data = result.cast(FloatDType::F32).try_into_vec_as::<f32>()?;
    Ok(data.iter().all(|value| value.is_finite()))
}

/// Ids that a model has, spread over all of them.
pub struct Ids {
    /// Row by row.
    numbers: Vec<u32>,
    /// `[rows, tokens]`.
    tensor: Tensor<2, Int>,
}

impl Ids {
    fn random(model: &AnyLanguageModel, rows: usize, tokens: usize) -> Result<Self, ModelError> {
        let vocabulary = model.vocab_size() as u64;
        let numbers: Vec<u32> = (0..(rows * tokens) as u64)
            .map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % vocabulary) as u32)
            .collect();
        Ok(Self {
            tensor: model.input_ids(&numbers, rows)?,
            numbers,
        })
    }
}

#[derive(Default)]
struct Weights {
    parameters: usize,
    bytes: usize,
}

impl Weights {
    fn add(&mut self, elements: usize, size: usize) {
        self.parameters += elements;
        self.bytes += elements * size;
    }
}

impl ModuleVisitor for Weights {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.val();
        self.add(tensor.shape().num_elements(), tensor.dtype().size());
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        let tensor = param.val();
        self.add(tensor.shape().num_elements(), tensor.dtype().size());
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        let tensor = param.val();
        self.add(tensor.shape().num_elements(), tensor.dtype().size());
    }
}
