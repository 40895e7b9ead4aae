//! One tensor of a checkpoint.

use std::path::Path;

use half::{bf16, f16};
use safetensors::Dtype;

use super::WeightFile;
use crate::ModelError;

/// Bytes of a tensor that are gone through at once; whole elements of every size.
const PIECE: usize = 8 << 20;

/// A tensor of a checkpoint, as it is stored.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The file that holds it.
    pub path: &'a Path,
    /// Its name.
    pub name: &'a str,
    /// Its element type.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: &'a [usize],
    /// Its elements, row-major and little-endian.
    pub bytes: &'a [u8],
    /// The file, mapped.
    pub(super) file: &'a WeightFile,
}

impl Entry<'_> {
    /// The elements, row-major, widened to `f32`.
    ///
    /// # Errors
    ///
    /// [`ModelError::TensorDtype`] if the tensor is not `F32`, `F16` or `BF16`;
    /// [`ModelError::NonFiniteWeight`] if an element is infinite or not a number.
    pub fn floats(&self) -> Result<Vec<f32>, ModelError> {
        let values: Vec<f32> = match self.dtype {
            Dtype::F32 => self.elements(f32::from_le_bytes),
            Dtype::F16 => self.elements(|bytes| f16::from_le_bytes(bytes).to_f32()),
            Dtype::BF16 => self.elements(|bytes| bf16::from_le_bytes(bytes).to_f32()),
            found => {
                return Err(ModelError::TensorDtype {
                    path: self.path.to_path_buf(),
                    tensor: self.name.to_string(),
                    found,
                });
            }
        };
        self.check_below(&values, f32::MAX, "f32")?;
        Ok(values)
    }

    /// Calls `take` with one piece after the other of the bytes, each of whole elements.
    ///
    /// The pages of a piece are given back to the system after it: going through a tensor takes the
    /// memory of a piece, whatever its size.
    ///
    /// # Errors
    ///
    /// The first one of `take`.
    pub fn in_pieces<E>(&self, mut take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        for piece in self.bytes.chunks(PIECE) {
            take(piece)?;
            self.file.forget(piece);
        }
        Ok(())
    }

    /// Gives the pages of the tensor back to the system; they are read again when they are needed.
    pub fn forget(&self) {
        self.file.forget(self.bytes);
    }

    /// Checks every element of a tensor of floating point, holding only a piece of it in memory.
    ///
    /// # Errors
    ///
    /// [`ModelError::NonFiniteWeight`] if one is infinite or not a number.
    pub fn check_finite(&self) -> Result<(), ModelError> {
        let mut before = 0;
        self.in_pieces(|piece| {
            let wide: Vec<f32> = match self.dtype {
                Dtype::F32 => elements(piece, f32::from_le_bytes),
                Dtype::F16 => elements(piece, |bytes| f16::from_le_bytes(bytes).to_f32()),
                Dtype::BF16 => elements(piece, |bytes| bf16::from_le_bytes(bytes).to_f32()),
                _ => return Ok(()),
            };
            self.check_part_below(&wide, before, f32::MAX, "f32")?;
            before += wide.len();
            Ok(())
        })
    }

    /// Checks that every value is a number of absolute value at most `max`, which is below infinity.
    pub(crate) fn check_below<E: Copy + Into<f32>>(
        &self,
        values: &[E],
        max: f32,
        dtype: &'static str,
    ) -> Result<(), ModelError> {
        self.check_part_below(values, 0, max, dtype)
    }

    /// The same for values behind `before` others.
    fn check_part_below<E: Copy + Into<f32>>(
        &self,
        values: &[E],
        before: usize,
        max: f32,
        dtype: &'static str,
    ) -> Result<(), ModelError> {
        let in_range = |&value: &E| value.into().abs() <= max; // false for NaN
        match values.iter().position(|value| !in_range(value)) {
            None => Ok(()),
            Some(index) => Err(ModelError::NonFiniteWeight {
                path: self.path.to_path_buf(),
                tensor: self.name.to_string(),
                index: before + index,
                value: values.get(index).map_or(f32::NAN, |&value| value.into()),
                dtype,
            }),
        }
    }

    /// The elements of `N` bytes, row-major.
    pub(crate) fn elements<const N: usize, E>(&self, element: impl Fn([u8; N]) -> E) -> Vec<E> {
        elements(self.bytes, element)
    }
}

/// The elements of `N` bytes in `bytes`.
fn elements<const N: usize, E>(bytes: &[u8], element: impl Fn([u8; N]) -> E) -> Vec<E> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|chunk| element(*chunk)).collect()
}
