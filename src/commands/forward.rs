//! `blr forward`.

use std::path::Path;

use burn::tensor::{DType, Tensor, TensorData};
use models::{Checkpoint, Dit, Family, LanguageModel, Vit};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::eval;
use crate::arguments::{Common, ForwardArguments};
use crate::error::CommandError;
use crate::output;

pub fn run(common: &Common, arguments: &ForwardArguments) -> Result<(), CommandError> {
    let checkpoint = Checkpoint::open(&arguments.checkpoint)?;
    let inputs = Inputs::open(&arguments.inputs)?;
    match checkpoint.family() {
        Family::Vit => vision(common, arguments, &checkpoint, &inputs),
        Family::Dit => diffusion(common, arguments, &checkpoint, &inputs),
        _ => language(common, arguments, &checkpoint, &inputs),
    }
}

/// `input_ids` to `logits`.
fn language(
    common: &Common,
    arguments: &ForwardArguments,
    checkpoint: &Checkpoint,
    inputs: &Inputs<'_>,
) -> Result<(), CommandError> {
    const EXPECTED: &str = "I64 [batch, tokens] with at least one token";
    let (ids, [batch, _]) = inputs.integers("input_ids", EXPECTED)?;
    let chosen = common.choose_device()?;
    let model = eval::load(checkpoint, &chosen)?;
    let logits = model.forward(model.input_ids(&ids, batch)?)?;
    write(&arguments.outputs, "logits", logits)
}

/// `pixel_values` to `logits`.
fn vision(
    common: &Common,
    arguments: &ForwardArguments,
    checkpoint: &Checkpoint,
    inputs: &Inputs<'_>,
) -> Result<(), CommandError> {
    const EXPECTED: &str = "F32 [batch, channels, height, width] with at least one pixel";
    let (pixels, shape): (_, [usize; 4]) = inputs.floats("pixel_values", EXPECTED)?;
    let chosen = common.choose_device()?;
    let model = Vit::load(checkpoint, &chosen.device, chosen.dtype)?;
    let pixels = TensorData::new(pixels, shape);
    let pixels = Tensor::from_data(pixels, (&chosen.device, DType::F32));
    write(&arguments.outputs, "logits", model.forward(pixels)?)
}

/// `x`, `t` and `y` to `sample`.
fn diffusion(
    common: &Common,
    arguments: &ForwardArguments,
    checkpoint: &Checkpoint,
    inputs: &Inputs<'_>,
) -> Result<(), CommandError> {
    const EXPECTED: &str = "I64 [batch]";
    let (x, shape): (_, [usize; 4]) = inputs.floats("x", "F32 [batch, channels, height, width]")?;
    let (t, [_]) = inputs.integers("t", EXPECTED)?;
    let (y, [_]) = inputs.integers("y", EXPECTED)?;
    let chosen = common.choose_device()?;
    let model = Dit::load(checkpoint, &chosen.device, chosen.dtype)?;
    let x = TensorData::new(x, shape);
    let x: Tensor<4> = Tensor::from_data(x, (&chosen.device, DType::F32));
    let sample = model.forward(x, model.timesteps(&t), model.classes(&y)?)?;
    write(&arguments.outputs, "sample", sample)
}

/// Writes a tensor as `F32`.
fn write<const D: usize>(path: &Path, name: &str, tensor: Tensor<D>) -> Result<(), CommandError> {
    let shape = tensor.dims();
    let values: Vec<f32> = tensor
        .try_into_vec_as()
        .map_err(|error| CommandError::Device {
            reason: error.to_string(),
        })?;
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let unwritable = |error: safetensors::SafeTensorError| CommandError::Io {
        path: path.to_path_buf(),
        source: std::io::Error::other(error),
    };
    let view = TensorView::new(Dtype::F32, shape.to_vec(), &bytes).map_err(unwritable)?;
    let file = safetensors::serialize([(name, view)], None).map_err(unwritable)?;
    output::write_file(path, &file)?;
    output::line(format_args!(
        "{name} {shape:?} written to {}",
        path.display()
    ));
    Ok(())
}

/// A safetensors file of inputs.
struct Inputs<'a> {
    path: &'a Path,
    bytes: Vec<u8>,
}

impl<'a> Inputs<'a> {
    fn open(path: &'a Path) -> Result<Self, CommandError> {
        let bytes = std::fs::read(path).map_err(|source| CommandError::Io {
            path: path.to_path_buf(),
            source,
        })?;
        Ok(Self { path, bytes })
    }

    /// The elements of an `F32` tensor, row-major, and its shape.
    fn floats<const D: usize>(
        &self,
        name: &'static str,
        expected: &'static str,
    ) -> Result<(Vec<f32>, [usize; D]), CommandError> {
        self.elements(name, Dtype::F32, expected, f32::from_le_bytes)
    }

    /// The elements of an `I64` tensor, row-major, and its shape.
    fn integers<const D: usize>(
        &self,
        name: &'static str,
        expected: &'static str,
    ) -> Result<(Vec<i64>, [usize; D]), CommandError> {
        self.elements(name, Dtype::I64, expected, i64::from_le_bytes)
    }

    fn elements<const N: usize, const D: usize, E>(
        &self,
        tensor: &'static str,
        dtype: Dtype,
        expected: &'static str,
        element: impl Fn([u8; N]) -> E,
    ) -> Result<(Vec<E>, [usize; D]), CommandError> {
        let wrong = |found: String| CommandError::Input {
            path: self.path.to_path_buf(),
            tensor,
            found,
            expected,
        };
        let file = SafeTensors::deserialize(&self.bytes).map_err(|error| {
            CommandError::NotSafetensors {
                path: self.path.to_path_buf(),
                reason: error.to_string(),
            }
        })?;
        let view = file
            .tensor(tensor)
            .map_err(|_| wrong(String::from("not in the file")))?;
        let found = view.shape();
        match <[usize; D]>::try_from(found) {
            Ok(shape) if !found.contains(&0) && view.dtype() == dtype => {
                let (chunks, _) = view.data().as_chunks::<N>();
                Ok((chunks.iter().map(|chunk| element(*chunk)).collect(), shape))
            }
            _ => Err(wrong(format!("{:?} {found:?}", view.dtype()))),
        }
    }
}
