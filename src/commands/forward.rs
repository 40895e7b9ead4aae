//! `blr forward`.

use std::path::Path;

use burn::tensor::{DType, Tensor, TensorData};
use models::{Checkpoint, Family, LanguageModel, Vit};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::eval;
use crate::arguments::{Common, ForwardArguments};
use crate::error::CommandError;
use crate::output;

pub fn run(common: &Common, arguments: &ForwardArguments) -> Result<(), CommandError> {
    let checkpoint = Checkpoint::open(&arguments.checkpoint)?;
    match checkpoint.family() {
        Family::Vit => {
            let (pixels, shape) = read_pixel_values(&arguments.inputs)?;
            let chosen = common.choose_device()?;
            let model = Vit::load(&checkpoint, &chosen.device, chosen.dtype)?;
            let pixels = TensorData::new(pixels, shape);
            let pixels = Tensor::from_data(pixels, (&chosen.device, DType::F32));
            write_logits(&arguments.outputs, model.forward(pixels)?)
        }
        _ => {
            let (ids, batch) = read_input_ids(&arguments.inputs)?;
            let chosen = common.choose_device()?;
            let model = eval::load(&checkpoint, &chosen)?;
            let logits = model.forward(model.input_ids(&ids, batch)?)?;
            write_logits(&arguments.outputs, logits)
        }
    }
}

fn write_logits<const D: usize>(path: &Path, logits: Tensor<D>) -> Result<(), CommandError> {
    let shape = logits.dims();
    let values: Vec<f32> = logits
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
    let file = safetensors::serialize([("logits", view)], None).map_err(unwritable)?;
    output::write_file(path, &file)?;
    output::line(format_args!(
        "logits {shape:?} written to {}",
        path.display()
    ));
    Ok(())
}

/// The token ids of the file, row by row, and the number of rows.
fn read_input_ids(path: &Path) -> Result<(Vec<i64>, usize), CommandError> {
    let expected = "I64 [batch, tokens] with at least one token";
    let read = read(path, "input_ids", Dtype::I64, expected, i64::from_le_bytes);
    let (ids, [batch, _]) = read?;
    Ok((ids, batch))
}

/// The pixels of the file and their shape.
fn read_pixel_values(path: &Path) -> Result<(Vec<f32>, [usize; 4]), CommandError> {
    let expected = "F32 [batch, channels, height, width] with at least one pixel";
    read(
        path,
        "pixel_values",
        Dtype::F32,
        expected,
        f32::from_le_bytes,
    )
}

/// The elements, of `N` bytes, and the shape of a tensor of a file.
fn read<const D: usize, const N: usize, E>(
    path: &Path,
    name: &'static str,
    dtype: Dtype,
    expected: &'static str,
    element: impl Fn([u8; N]) -> E,
) -> Result<(Vec<E>, [usize; D]), CommandError> {
    let bytes = std::fs::read(path).map_err(|source| CommandError::Io {
        path: path.to_path_buf(),
        source,
    })?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| CommandError::NotSafetensors {
        path: path.to_path_buf(),
        reason: error.to_string(),
    })?;
    let wrong = |found: String| CommandError::Input {
        path: path.to_path_buf(),
        tensor: name,
        found,
        expected,
    };
    let tensor = file
        .tensor(name)
        .map_err(|_| wrong("not in the file".to_string()))?;
    let shape = <[usize; D]>::try_from(tensor.shape()).ok();
    match shape.filter(|shape| !shape.contains(&0) && tensor.dtype() == dtype) {
        Some(shape) => {
            let (chunks, _) = tensor.data().as_chunks::<N>();
            Ok((chunks.iter().map(|bytes| element(*bytes)).collect(), shape))
        }
        None => Err(wrong(format!("{:?} {:?}", tensor.dtype(), tensor.shape()))),
    }
}
