//! From ONNX to block-low-rank layers: a vision transformer that PyTorch exported, as Burn code whose
//! linear layers can be exchanged.
//!
//! `cargo run --release --example onnx -- 0.5` keeps half of the parameters of its layers.
//!
//! `digits.rs` and `digits.bpk` are what `convert/` makes of `digits.onnx`; `export.py` made that and
//! `digits.safetensors`, images with the logits that onnxruntime computes for them. To make them anew, in this folder:
//! `cargo run --manifest-path convert/Cargo.toml -- digits.onnx .`

#![allow(clippy::print_stdout, reason = "an example prints what it found")]

#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::unwrap_used,
    reason = "generated"
)]
#[rustfmt::skip]
mod digits;

use std::error::Error;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use burn_blr::{Method, Structure};
use burn_store::{BurnpackStore, ModuleSnapshot};
use models::default_blocks;
use safetensors::SafeTensors;
use training::{BlastOptions, factorize};

use digits::Model;

/// What one form of the model does with the images.
#[derive(Debug)]
pub struct Measured {
    /// How its layers are made; nothing for dense.
    pub method: Option<Method>,
    /// Parameters of the model.
    pub parameters: usize,
    /// Mean relative error of the weights that were replaced.
    pub weight_error: f64,
    /// Largest difference of a logit to those of onnxruntime.
    pub difference: f32,
    /// Share of the images whose label has the largest logit.
    pub accuracy: f64,
}

/// The images, and what belongs to them.
struct Digits {
    pixel_values: Tensor<4>,
    labels: Vec<i64>,
    /// `[images, 10]`, of onnxruntime.
    logits: Tensor<2>,
}

fn file(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/onnx");
    folder.join(name)
}

impl Digits {
    fn read(device: &Device) -> Result<Self, Box<dyn Error>> {
        let bytes = std::fs::read(file("digits.safetensors"))?;
        let tensors = SafeTensors::deserialize(&bytes)?;
        let floats = |name| -> Result<TensorData, Box<dyn Error>> {
            let tensor = tensors.tensor(name)?;
            let (values, _) = tensor.data().as_chunks();
            let values: Vec<_> = values.iter().copied().map(f32::from_le_bytes).collect();
            Ok(TensorData::new(values, tensor.shape().to_vec()))
        };
        let (labels, _) = tensors.tensor("labels")?.data().as_chunks();
        Ok(Self {
            pixel_values: Tensor::from_data(floats("pixel_values")?, device),
            labels: labels.iter().copied().map(i64::from_le_bytes).collect(),
            logits: Tensor::from_data(floats("logits")?, device),
        })
    }

    /// Runs the model on all images.
    fn measure(&self, model: &Model) -> Result<(f32, f64), Box<dyn Error>> {
        let logits = model.forward(self.pixel_values.clone());
        let found: Vec<i64> = logits.clone().argmax(1).into_data().iter().collect();
        let right = found.iter().zip(&self.labels).filter(|(a, b)| a == b);
        let accuracy = right.count() as f64 / self.labels.len() as f64;
        let difference = (logits - self.logits.clone()).abs().max();
        Ok((difference.into_scalar(), accuracy))
    }
}

/// Loads the model with the weights of the ONNX file.
fn load(device: &Device) -> Result<Model, Box<dyn Error>> {
    let mut model = Model::new(device);
    model.load_from(&mut BurnpackStore::from_file(file("digits.bpk")))?;
    Ok(model)
}

/// Replaces the linear layers by `method`, with the fraction `keep` of their weights, and returns the
/// mean relative error. The head, whose ten outputs are fewer than blocks could share, stays dense.
fn compress(model: &mut Model, method: Method, keep: f64) -> Result<f64, Box<dyn Error>> {
    let mut errors = Vec::new();
    for (name, layer) in model.linear_layers_mut() {
        let (inputs, outputs) = layer.features();
        if outputs < inputs.min(16) {
            continue;
        }
        let blocks = default_blocks(method, inputs, outputs);
        let structure = Structure::for_keep(method, blocks, keep, inputs, outputs)
            .ok_or_else(|| format!("{name}: {keep} of its weights are too few for {method}"))?;
        let options = BlastOptions::default();
        let found = factorize(layer.to_dense(), structure, &options, None, &mut |_, _| {})?;
        *layer = found.layer.with_bias(layer.bias())?;
        errors.push(found.relative_error);
    }
    Ok(errors.iter().sum::<f64>() / errors.len() as f64)
}

/// The model as it was exported, then with layers of each method.
///
/// # Errors
///
/// An error if a file is missing or damaged, or `keep` is too small.
pub fn run(keep: f64, device: &Device) -> Result<Vec<Measured>, Box<dyn Error>> {
    let digits = Digits::read(device)?;
    let methods = Method::ALL.into_iter().map(Some);
    let rows = std::iter::once(None).chain(methods).map(|method| {
        let mut model = load(device)?;
        let weight_error = match method {
            Some(method) => compress(&mut model, method, keep)?,
            None => 0.0,
        };
        let (difference, accuracy) = digits.measure(&model)?;
        Ok(Measured {
            method,
            parameters: model.num_params(),
            weight_error,
            difference,
            accuracy,
        })
    });
    rows.collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let device = burn_blr::cuda::first_device().unwrap_or_else(Device::flex);
    let keep = match std::env::args().nth(1) {
        Some(text) => text.parse().map_err(|_| {
            format!("{text}: expected the share of parameters to keep, such as 0.5")
        })?,
        None => 0.5,
    };
    println!("layers    parameters  weight error  largest difference  accuracy");
    for row in run(keep, &device)? {
        let layers = row.method.map_or("dense", Method::as_str);
        let Measured {
            parameters,
            weight_error,
            difference,
            accuracy,
            ..
        } = row;
        println!(
            "{layers:8}  {parameters:10}  {weight_error:12.3}  {difference:18.6}  {:7.1} %",
            100.0 * accuracy
        );
    }
    Ok(())
}
