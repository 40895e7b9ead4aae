//! What can be wrong with a call.

use core::fmt;

use cubecl::prelude::ElemType;
use thiserror::Error;

/// Why an operation was not launched. Nothing has been launched when one is returned.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum KernelError {
    /// An operand does not have the shape that the dimensions ask for.
    #[error("{operand} has shape {actual:?}, expected {expected:?}")]
    Shape {
        /// Name of the operand.
        operand: &'static str,
        /// Shape that follows from the dimensions and the token count.
        expected: Vec<usize>,
        /// Shape that was given.
        actual: Vec<usize>,
    },
    /// A tensor reaches past the end of its buffer.
    #[error("{operand} spans {required} bytes, but its buffer holds {actual}")]
    Buffer {
        /// Name of the operand.
        operand: &'static str,
        /// Bytes that shape and strides reach.
        required: usize,
        /// Bytes in the buffer.
        actual: usize,
    },
    /// A value can not be used, on any device.
    #[error("{what} is {actual}, but must be {required}")]
    InvalidConfig {
        /// Name of the value.
        what: &'static str,
        /// The value that was given.
        actual: usize,
        /// What it has to satisfy.
        required: Requirement,
    },
    /// The device can not run the operation; another one may.
    #[error("the device does not support this: {0}")]
    Unavailable(
        /// What the device lacks.
        Missing,
    ),
}

/// What a value has to satisfy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// Not zero.
    NonZero,
    /// A multiple of another value.
    MultipleOf {
        /// Name of the other value.
        name: &'static str,
        /// The other value.
        value: usize,
    },
    /// No less than a limit.
    AtLeast(
        /// The limit.
        usize,
    ),
    /// No more than a limit.
    AtMost(
        /// The limit.
        usize,
    ),
    /// One value.
    Exactly(
        /// The value.
        usize,
    ),
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Requirement::NonZero => write!(f, "greater than zero"),
            Requirement::MultipleOf { name, value } => write!(f, "a multiple of {name} ({value})"),
            Requirement::AtLeast(limit) => write!(f, "at least {limit}"),
            Requirement::AtMost(limit) => write!(f, "at most {limit}"),
            Requirement::Exactly(value) => write!(f, "{value}"),
        }
    }
}

/// What a device lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Buffers of an element type that can be converted to and from `f32`.
    ElementType(
        /// The element type.
        ElemType,
    ),
    /// Units per cube.
    Units {
        /// Units that the kernel needs.
        required: usize,
        /// Units that the device offers.
        limit: usize,
    },
    /// Shared memory per cube, in bytes.
    SharedMemory {
        /// Bytes that the kernel needs.
        required: usize,
        /// Bytes that the device offers.
        limit: usize,
    },
    /// Cubes in one launch.
    Cubes {
        /// Cubes that the problem needs along one axis.
        required: usize,
        /// Cubes that the device offers along that axis.
        limit: usize,
    },
    /// Tensor cores with asynchronous copies (CUDA, compute capability 8.0 and above), for an
    /// element type.
    TensorCores(
        /// The element type.
        ElemType,
    ),
    /// Tensor-core kernels for the layout of the operands: they need rows that start at multiples
    /// of 4 bytes (16 for few tokens) and an axis of stride one.
    TensorLayout,
    /// Clusters of cubes that read each other's shared memory (CUDA, compute capability 9.0 and above).
    Clusters,
    /// Buffers of one kernel.
    Bindings {
        /// Buffers that the kernel needs.
        required: usize,
        /// Buffers that the device offers.
        limit: usize,
    },
    /// Operands that start anywhere in a buffer.
    Offset {
        /// Bytes in the buffer before the operand.
        bytes: usize,
        /// What the device asks them to be a multiple of.
        alignment: usize,
    },
    /// 64-bit addresses, for operands of more than `u32::MAX` elements.
    WideAddresses {
        /// Elements in the largest operand.
        elements: usize,
    },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missing::ElementType(dtype) => write!(f, "element type {dtype:?}"),
            Missing::Units { required, limit } => {
                write!(f, "{required} units per cube (it has {limit})")
            }
            Missing::SharedMemory { required, limit } => {
                write!(f, "{required} bytes of shared memory (it has {limit})")
            }
            Missing::Cubes { required, limit } => {
                write!(f, "{required} cubes along one axis (it has {limit})")
            }
            Missing::TensorCores(dtype) => write!(f, "tensor cores for {dtype:?}"),
            Missing::TensorLayout => {
                write!(
                    f,
                    "tensor-core kernels for the strides and sizes of these operands"
                )
            }
            Missing::Clusters => write!(f, "clusters of cubes"),
            Missing::Bindings { required, limit } => {
                write!(f, "{required} buffers in one kernel (it has {limit})")
            }
            Missing::Offset { bytes, alignment } => {
                write!(
                    f,
                    "operands {bytes} bytes into a buffer (it takes multiples of {alignment})"
                )
            }
            Missing::WideAddresses { elements } => {
                write!(f, "64-bit addresses (an operand has {elements} elements)")
            }
        }
    }
}
