//! One memory-mapped safetensors file.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::Metadata;
use safetensors::{SafeTensorError, SafeTensors};

use super::Entry;
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

    /// What its header says besides the tensors, under `key`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        let metadata = self.metadata.metadata().as_ref()?;
        metadata.get(key).map(String::as_str)
    }

    /// The tensor `name` as it is stored, `None` if there is none.
    pub fn entry<'a>(&'a self, name: &'a str) -> Option<Entry<'a>> {
        let info = self.metadata.info(name)?;
        Some(Entry {
            path: &self.path,
            name,
            dtype: info.dtype,
            shape: &info.shape,
            bytes: self.bytes(info.data_offsets.0..info.data_offsets.1),
            file: self,
        })
    }

    /// Whether the file holds a tensor `name`.
    pub(crate) fn holds(&self, name: &str) -> bool {
        self.metadata.info(name).is_some()
    }

    /// The names of the tensors, in the order in which they lie in the file.
    pub fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// The bytes at `range`, counted from the end of the header.
    fn bytes(&self, range: Range<usize>) -> &[u8] {
        // The header check bounds every range by the length of the file, so `get` never fails.
        self.map
            .get(self.data_start + range.start..self.data_start + range.end)
            .unwrap_or_default()
    }

    /// Tells the system that `bytes` of this file are not needed for now, so that they stop counting
    /// to the memory of this process. Only a hint: it may be refused.
    pub(super) fn forget(&self, bytes: &[u8]) {
        #[cfg(unix)]
        {
            let start = (bytes.as_ptr() as usize).wrapping_sub(self.map.as_ptr() as usize);
            if start < self.map.len() {
                let advice = memmap2::UncheckedAdvice::DontNeed;
                // SAFETY: the map is of a file and never written to, so that pages which are given
                // back come from the file again, with what is in them now.
                let _ = unsafe { self.map.unchecked_advise_range(advice, start, bytes.len()) };
            }
        }
        #[cfg(not(unix))]
        let _ = bytes;
    }
}
