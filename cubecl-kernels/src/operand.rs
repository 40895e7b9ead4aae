//! Checks on the tensors of a call, and how kernels see them.

use cubecl::prelude::*;

use crate::context::Context;
use crate::device::check_offset;
use crate::error::{KernelError, Requirement};

/// Elements between neighbours along each axis of a batched matrix, and where it starts.
///
/// Every block permutation and transposition of the structures is a choice of these strides;
/// none is a pass over memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct View {
    /// Stride of the batch (block) axis.
    pub batch: usize,
    /// Stride of the row axis.
    pub row: usize,
    /// Stride of the column axis.
    pub column: usize,
    /// Bytes that the start of the buffer is known to be a multiple of, capped at 16.
    pub alignment: usize,
}

impl View {
    /// Views `binding` with the given strides.
    pub fn new<R: Runtime>(
        binding: &TensorBinding<R>,
        batch: usize,
        row: usize,
        column: usize,
    ) -> Self {
        let offset = binding.handle.offset_start.unwrap_or(0) as usize;
        let alignment = 1 << offset.trailing_zeros().min(4);
        Self {
            batch,
            row,
            column,
            alignment,
        }
    }

    /// Views a tensor `[batch, row, column]`.
    pub fn blocks<R: Runtime>(binding: &TensorBinding<R>) -> Self {
        let strides = &binding.strides;
        Self::new(binding, strides[0], strides[1], strides[2])
    }

    /// Views blocks of `rows` by `columns` that lie one after another from the start of a buffer.
    pub fn contiguous(rows: usize, columns: usize) -> Self {
        Self {
            batch: rows * columns,
            row: columns,
            column: 1,
            alignment: 16,
        }
    }

    /// Views a matrix `[row, column]` as a batch of one.
    pub fn matrix<R: Runtime>(binding: &TensorBinding<R>) -> Self {
        Self::new(binding, 0, binding.strides[0], binding.strides[1])
    }

    /// Views `[tokens, features]` as blocks of `block` neighbouring features.
    pub fn feature_blocks<R: Runtime>(binding: &TensorBinding<R>, block: usize) -> Self {
        let strides = &binding.strides;
        Self::new(binding, block * strides[1], strides[0], strides[1])
    }

    /// Swaps rows and columns.
    pub fn transposed(self) -> Self {
        Self {
            row: self.column,
            column: self.row,
            ..self
        }
    }

    /// Which axis has stride one, and the bytes up to 16 that all other strides and the start are
    /// multiples of: what decides how an operand can be read.
    pub fn class(&self, element_bytes: usize) -> (char, usize) {
        let (axis, other) = match (self.row, self.column) {
            (_, 1) => ('c', self.row),
            (1, _) => ('r', self.column),
            _ => ('-', self.row | self.column),
        };
        let bytes = ((other | self.batch) * element_bytes) | self.alignment;
        (axis, 1 << bytes.trailing_zeros().min(4))
    }

    /// Whether vectors of `width` elements of `bytes` bytes start at aligned addresses, if they
    /// run along an axis of stride one and the strides of the `others` are these.
    pub fn allows_vectors(&self, width: usize, bytes: usize, others: [usize; 2]) -> bool {
        self.alignment.is_multiple_of(width * bytes)
            && others.iter().all(|stride| stride.is_multiple_of(width))
    }
}

/// Checks that `binding` has the `expected` shape and lies inside its buffer.
///
/// The kernels index without checks of their own: this is what makes that sound.
///
/// # Errors
///
/// [`KernelError::Shape`] for another shape, [`KernelError::Buffer`] if the strides reach past the
/// end of the buffer, [`KernelError::InvalidConfig`] if there is not one stride for each axis.
pub(crate) fn check_input<R: Runtime>(
    operand: &'static str,
    binding: &TensorBinding<R>,
    expected: &[usize],
    element_bytes: usize,
) -> Result<(), KernelError> {
    if binding.shape[..] != *expected {
        return Err(KernelError::Shape {
            operand,
            expected: expected.to_vec(),
            actual: binding.shape.to_vec(),
        });
    }
    if binding.strides.len() != expected.len() {
        return Err(KernelError::InvalidConfig {
            what: "the number of strides",
            actual: binding.strides.len(),
            required: Requirement::MultipleOf {
                name: "the rank",
                value: expected.len(),
            },
        });
    }
    let required = elements_reached(binding).saturating_mul(element_bytes);
    let actual = binding.handle.size_in_used() as usize;
    if actual < required {
        return Err(KernelError::Buffer {
            operand,
            required,
            actual,
        });
    }
    Ok(())
}

/// As [`check_input`], for a tensor that is written: no two elements may share memory.
///
/// # Errors
///
/// Those of [`check_input`], and [`KernelError::InvalidConfig`] for a broadcast axis.
pub(crate) fn check_output<R: Runtime>(
    operand: &'static str,
    binding: &TensorBinding<R>,
    expected: &[usize],
    element_bytes: usize,
) -> Result<(), KernelError> {
    check_input(operand, binding, expected, element_bytes)?;
    let mut axes = binding.shape.iter().zip(binding.strides.iter());
    if axes.any(|(size, stride)| *size > 1 && *stride == 0) {
        return Err(KernelError::InvalidConfig {
            what: "the stride of a written axis",
            actual: 0,
            required: Requirement::NonZero,
        });
    }
    Ok(())
}

/// Elements from the start of the tensor to the last one its strides reach, that one included.
pub(crate) fn elements_reached<R: Runtime>(binding: &TensorBinding<R>) -> usize {
    if binding.shape.contains(&0) {
        return 0;
    }
    let axes = binding.shape.iter().zip(binding.strides.iter());
    axes.fold(1, |reached: usize, (size, stride)| {
        reached.saturating_add((size - 1).saturating_mul(*stride))
    })
}

/// `count` of an axis of a checked tensor from number `first` on.
///
/// # Errors
///
/// [`KernelError::Unavailable`] if the device reads no tensors from there.
pub(crate) fn part<R: Runtime>(
    context: &Context<'_, R>,
    binding: &TensorBinding<R>,
    axis: usize,
    (first, count): (usize, usize),
) -> Result<TensorBinding<R>, KernelError> {
    let mut part = along(binding, axis, count);
    let offset = (first * binding.strides[axis] * context.element_bytes) as u64;
    let start = part.handle.offset_start.unwrap_or(0) + offset;
    check_offset(context.client, start)?;
    part.handle.offset_start = Some(start);
    Ok(part)
}

/// The first `count` of an axis of a checked tensor.
pub(crate) fn along<R: Runtime>(
    binding: &TensorBinding<R>,
    axis: usize,
    count: usize,
) -> TensorBinding<R> {
    let mut narrowed = binding.clone();
    narrowed.shape[axis] = count;
    narrowed
}

/// Size of an axis; a tensor that lacks it has none, as the shape check that follows says.
pub(crate) fn axis_size<R: Runtime>(binding: &TensorBinding<R>, axis: usize) -> usize {
    binding.shape.get(axis).copied().unwrap_or(0)
}

/// The widest vector of 2, 4 or 8 elements, `most` at most, that `fits`; else single elements.
pub(crate) fn widest_vector(most: usize, fits: impl Fn(usize) -> bool) -> usize {
    [8, 4, 2]
        .into_iter()
        .find(|&vector| vector <= most && fits(vector))
        .unwrap_or(1)
}

/// Passes the buffer of a checked tensor to a kernel.
pub(crate) fn buffer<R: Runtime>(binding: TensorBinding<R>) -> BufferArg<R> {
    let length = elements_reached(&binding);
    // SAFETY: `check_input` has seen that the buffer holds at least this many elements.
    unsafe { BufferArg::from_raw_parts_binding(binding.handle, length) }
}
