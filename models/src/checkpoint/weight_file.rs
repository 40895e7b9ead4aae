//! One memory-mapped safetensors file.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{SafeTensorError, SafeTensors};

use crate::ModelError;

/// A safetensors file, mapped into memory, whose header was checked against its length.
#[derive(Debug)]
pub struct WeightFile {
    path: PathBuf,
    map: Mmap,
    metadata: Metadata,
    data_start: usize,
}

impl WeightFile {
    /// Maps the file at `path` and checks its header.
    ///
    /// # Errors
    ///
    /// [`ModelError::Io`] if it cannot be opened or mapped; [`ModelError::InvalidWeights`] if it is
    /// empty, truncated, or its header does not describe exactly the bytes that follow it.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let io = |source| ModelError::Io {
            path: path.to_path_buf(),
            source,
        };
        let invalid = |bytes, source| ModelError::InvalidWeights {
            path: path.to_path_buf(),
            bytes,
            source,
        };
        let file = File::open(path).map_err(io)?;
        // Mapping zero bytes is an error of the operating system that would not name the reason.
        if file.metadata().map_err(io)?.len() == 0 {
            return Err(invalid(0, SafeTensorError::HeaderTooSmall));
        }
        // SAFETY: the file is opened for reading and only read through this map. As for every
        // mapped file, nothing else may shorten it meanwhile; checkpoints are replaced by renaming
        // a finished file over them, which leaves a mapped one untouched.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let (header, metadata) =
            SafeTensors::read_metadata(&map).map_err(|error| invalid(map.len(), error))?;
        // `read_metadata` has checked that the header lies in the file.
        let data_start = header + size_of::<u64>();
        Ok(Self {
            path: path.to_path_buf(),
            map,
            metadata,
            data_start,
        })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the file in bytes.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether the file has no bytes. It never has: [`WeightFile::open`] refuses such a file.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Whether the file holds a tensor `name`.
    pub(crate) fn holds(&self, name: &str) -> bool {
        self.metadata.info(name).is_some()
    }

    /// The tensors of the file, with dtype, shape and place.
    pub(crate) fn tensors(&self) -> Vec<(String, TensorInfo)> {
        self.metadata
            .tensors()
            .into_iter()
            .map(|(name, info)| (name, info.clone()))
            .collect()
    }

    /// The bytes at `range`, counted from the end of the header.
    pub(crate) fn bytes(&self, range: Range<usize>) -> &[u8] {
        // The header check bounds every range by the length of the file, so `get` never fails.
        self.map
            .get(self.data_start + range.start..self.data_start + range.end)
            .unwrap_or_default()
    }
}
