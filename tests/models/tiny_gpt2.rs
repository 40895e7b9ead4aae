//! Small random GPT-2 checkpoints, written to a directory by each test that needs one.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::{Device, FloatDType, Tensor};
use models::{Checkpoint, Gpt2, ModelError};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize_to_file};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A tensor as it goes into a file.
#[derive(Clone)]
pub struct Stored {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// A checkpoint that is not on disk yet.
#[derive(Clone)]
pub struct TinyGpt2 {
    pub config: Value,
    pub tensors: BTreeMap<String, Stored>,
    rng: SmallRng,
}

pub const VOCAB: usize = 37;
pub const POSITIONS: usize = 24;
pub const EMBD: usize = 12;
pub const INNER: usize = 20;
pub const LAYERS: usize = 2;

impl TinyGpt2 {
    /// Two blocks of three heads with an inner width that is not four times the hidden one.
    pub fn new() -> Self {
        Self::with_config(json!({
            "model_type": "gpt2",
            "vocab_size": VOCAB,
            "n_positions": POSITIONS,
            "n_embd": EMBD,
            "n_layer": LAYERS,
            "n_head": 3,
            "n_inner": INNER,
            "eos_token_id": 0,
            "bos_token_id": 0,
        }))
    }

    /// Random weights for `config`, names with the prefix `transformer.`.
    pub fn with_config(config: Value) -> Self {
        let count = |key: &str| config[key].as_u64().unwrap() as usize;
        let (vocab, positions, embd) = (count("vocab_size"), count("n_positions"), count("n_embd"));
        let (layers, inner) = (count("n_layer"), count("n_inner"));
        let mut tiny = Self {
            config,
            tensors: BTreeMap::new(),
            rng: SmallRng::seed_from_u64(7),
        };
        tiny.random("transformer.wte.weight", &[vocab, embd], 1.0, 0.0);
        tiny.random("transformer.wpe.weight", &[positions, embd], 0.5, 0.0);
        for n in 0..layers {
            let block = |name: &str| format!("transformer.h.{n}.{name}");
            for norm in ["ln_1", "ln_2"] {
                tiny.random(&block(&format!("{norm}.weight")), &[embd], 0.3, 1.0);
                tiny.random(&block(&format!("{norm}.bias")), &[embd], 0.3, 0.0);
            }
            for (name, inputs, outputs) in [
                ("attn.c_attn", embd, 3 * embd),
                ("attn.c_proj", embd, embd),
                ("mlp.c_fc", embd, inner),
                ("mlp.c_proj", inner, embd),
            ] {
                tiny.random(
                    &block(&format!("{name}.weight")),
                    &[inputs, outputs],
                    0.5,
                    0.0,
                );
                tiny.random(&block(&format!("{name}.bias")), &[outputs], 0.2, 0.0);
            }
        }
        tiny.random("transformer.ln_f.weight", &[embd], 0.3, 1.0);
        tiny.random("transformer.ln_f.bias", &[embd], 0.3, 0.0);
        tiny
    }

    /// Random numbers, uniform in `mean ± spread`.
    pub fn numbers(&mut self, count: usize, spread: f32, mean: f32) -> Vec<f32> {
        let mut uniform = || mean + spread * (2.0 * self.rng.random::<f32>() - 1.0);
        (0..count).map(|_| uniform()).collect()
    }

    /// Adds or replaces a random `f32` tensor and returns its values.
    pub fn random(&mut self, name: &str, shape: &[usize], spread: f32, mean: f32) -> Vec<f32> {
        let values = self.numbers(shape.iter().product(), spread, mean);
        self.set(name, shape, &values);
        values
    }

    /// Adds or replaces an `f32` tensor.
    pub fn set(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.set_bytes(name, Dtype::F32, shape, bytes);
    }

    /// Adds or replaces a tensor of any dtype.
    pub fn set_bytes(&mut self, name: &str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) {
        let shape = shape.to_vec();
        let stored = Stored {
            dtype,
            shape,
            bytes,
        };
        self.tensors.insert(name.to_string(), stored);
    }

    /// The values of an `f32` tensor.
    pub fn values(&self, name: &str) -> Vec<f32> {
        let (chunks, _) = self.tensors[name].bytes.as_chunks::<4>();
        chunks
            .iter()
            .map(|chunk| f32::from_le_bytes(*chunk))
            .collect()
    }

    /// Takes the prefix `transformer.` from every name, as in a checkpoint of `GPT2Model`.
    pub fn without_prefix(mut self) -> Self {
        let tensors = std::mem::take(&mut self.tensors);
        let bare = |name: String| name.trim_start_matches("transformer.").to_string();
        self.tensors = tensors
            .into_iter()
            .map(|(name, t)| (bare(name), t))
            .collect();
        self
    }

    /// Writes `config.json` and `model.safetensors`.
    pub fn write(&self, dir: &Path) {
        fs::write(dir.join("config.json"), self.config.to_string()).unwrap();
        write_tensors(self.tensors.iter(), &dir.join("model.safetensors"));
    }

    /// A directory with the checkpoint, which goes when the value is dropped.
    pub fn to_dir(&self) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        self.write(dir.path());
        dir
    }

    /// Writes the checkpoint and loads it on the CPU backend.
    pub fn load(&self, dtype: FloatDType) -> Result<Gpt2, ModelError> {
        let dir = self.to_dir();
        Gpt2::load(&Checkpoint::open(dir.path())?, &Device::flex(), dtype)
    }

    /// The model in `f32`.
    pub fn model(&self) -> Gpt2 {
        self.load(FloatDType::F32).unwrap()
    }

    /// Why the checkpoint does not load.
    pub fn error(&self) -> ModelError {
        self.load(FloatDType::F32)
            .expect_err("the checkpoint should be refused")
    }
}

/// Writes tensors as one safetensors file.
pub fn write_tensors<'a>(tensors: impl Iterator<Item = (&'a String, &'a Stored)>, path: &Path) {
    let views = tensors.map(|(name, stored)| {
        let view = TensorView::new(stored.dtype, stored.shape.clone(), &stored.bytes).unwrap();
        (name.clone(), view)
    });
    serialize_to_file(views.collect::<Vec<_>>(), None, path).unwrap();
}

/// The values of a tensor as `f32`.
pub fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.try_into_vec_as::<f32>().unwrap()
}

/// The largest difference between two equally long lists; NaN counts as infinite.
pub fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |max, d| {
        if d.is_nan() {
            f32::INFINITY
        } else {
            max.max(d)
        }
    })
}
