//! `blr forward`.

use std::path::Path;

use models::{Checkpoint, LanguageModel};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::eval;
use crate::arguments::{Common, ForwardArguments};
use crate::error::CommandError;
use crate::output;

pub fn run(common: &Common, arguments: &ForwardArguments) -> Result<(), CommandError> {
    let (ids, batch) = read_input_ids(&arguments.inputs)?;
    let checkpoint = Checkpoint::open(&arguments.checkpoint)?;
    let chosen = common.choose_device()?;
    let model = eval::load(&checkpoint, &chosen)?;
    let logits = model.forward(model.input_ids(&ids, batch)?)?;
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
        path: arguments.outputs.clone(),
        source: std::io::Error::other(error),
    };
    let view = TensorView::new(Dtype::F32, shape.to_vec(), &bytes).map_err(unwritable)?;
    let file = safetensors::serialize([("logits", view)], None).map_err(unwritable)?;
    output::write_file(&arguments.outputs, &file)?;
    output::line(format_args!(
        "logits {shape:?} written to {}",
        arguments.outputs.display()
    ));
    Ok(())
}

/// The token ids of the file, row by row, and the number of rows.
fn read_input_ids(path: &Path) -> Result<(Vec<i64>, usize), CommandError> {
    const NAME: &str = "input_ids";
    const EXPECTED: &str = "I64 [batch, tokens] with at least one token";
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
        tensor: NAME,
        found,
        expected: EXPECTED,
    };
    let tensor = file
        .tensor(NAME)
        .map_err(|_| wrong("not in the file".to_string()))?;
    match tensor.shape() {
        &[batch, tokens] if batch * tokens > 0 && tensor.dtype() == Dtype::I64 => {
            let (chunks, _) = tensor.data().as_chunks::<8>();
            Ok((
                chunks
                    .iter()
                    .map(|bytes| i64::from_le_bytes(*bytes))
                    .collect(),
                batch,
            ))
        }
        shape => Err(wrong(format!("{:?} {shape:?}", tensor.dtype()))),
    }
}
