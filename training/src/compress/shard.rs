//! A safetensors file, written tensor by tensor and piece by piece.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use models::Entry;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::run_folder::{io, replace};
use crate::TrainingError;

/// Headers are padded to a multiple of this, so that tensors are aligned.
const ALIGNMENT: usize = 8;

/// A tensor to be written.
pub(super) struct Output<'a> {
    pub name: &'a str,
    pub dtype: Dtype,
    pub shape: &'a [usize],
    pub bytes: OutputBytes<'a>,
}

/// Where the bytes of a tensor are.
pub(super) enum OutputBytes<'a> {
    Buffer(&'a [u8]),
    Stored(Entry<'a>),
}

impl OutputBytes<'_> {
    fn len(&self) -> usize {
        match self {
            OutputBytes::Buffer(bytes) => bytes.len(),
            OutputBytes::Stored(entry) => entry.bytes.len(),
        }
    }
}

impl<'a> From<Entry<'a>> for Output<'a> {
    fn from(entry: Entry<'a>) -> Self {
        Output {
            name: entry.name,
            dtype: entry.dtype,
            shape: entry.shape,
            bytes: OutputBytes::Stored(entry),
        }
    }
}

/// Writes the file and returns the bytes of its tensors. It is there whole or not at all; stored
/// tensors take the memory of a piece each.
pub(super) fn write(
    path: &Path,
    mut tensors: Vec<Output<'_>>,
    (key, value): (&str, String),
) -> Result<usize, TrainingError> {
    // Wide elements first, so that all are aligned.
    tensors.sort_by(|one, other| other.dtype.cmp(&one.dtype).then(one.name.cmp(other.name)));
    let mut end = 0;
    let infos = tensors.iter().map(|tensor| {
        let start = end;
        end += tensor.bytes.len();
        let info = TensorInfo {
            dtype: tensor.dtype,
            shape: tensor.shape.to_vec(),
            data_offsets: (start, end),
        };
        (tensor.name.to_string(), info)
    });
    // One key only: the order of several would differ from run to run.
    let metadata = HashMap::from([(key.to_string(), value)]);
    let metadata = Metadata::new(Some(metadata), infos.collect())
        .map_err(|error| io(path)(std::io::Error::other(error)))?;
    let mut header =
        serde_json::to_vec(&metadata).map_err(|error| io(path)(std::io::Error::other(error)))?;
    header.resize(header.len().next_multiple_of(ALIGNMENT), b' ');
    replace(path, |unfinished| {
        let io = io(unfinished);
        let mut file = File::create(unfinished).map_err(&io)?;
        let length = (header.len() as u64).to_le_bytes();
        file.write_all(&length).map_err(&io)?;
        file.write_all(&header).map_err(&io)?;
        for tensor in &tensors {
            match &tensor.bytes {
                OutputBytes::Buffer(bytes) => file.write_all(bytes),
                OutputBytes::Stored(entry) => entry.in_pieces(|piece| file.write_all(piece)),
            }
            .map_err(&io)?;
        }
        Ok(())
    })?;
    Ok(end)
}
