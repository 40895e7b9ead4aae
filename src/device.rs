//! The device flag.

use std::str::FromStr;

use burn::tensor::{Device, FloatDType};

use crate::arguments::{Common, Dtype};
use crate::error::CommandError;

/// `auto`, `cpu`, `cuda` or `cuda:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    Auto,
    Cpu,
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            "cuda" => Ok(DeviceChoice::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|index| index.parse().ok())
                .map(DeviceChoice::Cuda)
                .ok_or_else(|| "expected auto, cpu, cuda or cuda:N".to_string()),
        }
    }
}

/// A device and how reports name it.
pub struct ChosenDevice {
    pub device: Device,
    pub name: String,
    pub dtype: FloatDType,
    /// Which CUDA device it is, if it is one.
    pub cuda_index: Option<usize>,
}

impl ChosenDevice {
    /// Whether an operation is done when its call returns, as on the CPU; a GPU has a queue.
    pub fn computes_while_called(&self) -> bool {
        self.device == Device::flex()
    }
}

impl Common {
    /// The device of the flags, once it is known that it is there and computes in the dtype.
    pub fn choose_device(&self) -> Result<ChosenDevice, CommandError> {
        let cuda_index = match self.device {
            DeviceChoice::Cpu => None,
            DeviceChoice::Auto => (burn_blr::cuda::device_count() > 0).then_some(0),
            DeviceChoice::Cuda(index) => Some(index),
        };
        let (device, name) = match cuda_index {
            None => cpu(),
            Some(index) => cuda(index)?,
        };
        let dtype = match self.dtype {
            Dtype::F32 => FloatDType::F32,
            Dtype::F16 => FloatDType::F16,
            Dtype::Bf16 => FloatDType::BF16,
        };
        if !device.supports_dtype(dtype) {
            return Err(CommandError::UnsupportedDtype {
                device: name,
                dtype: self.dtype,
            });
        }
        device.seed(self.seed);
        burn_blr::tuning::set_wanted(self.tune);
        burn_blr::scratch::limit(self.scratch_bytes());
        Ok(ChosenDevice {
            device,
            name,
            dtype,
            cuda_index,
        })
    }
}

impl ChosenDevice {
    /// This device and those behind it, `count` together; on the CPU it is the same one several times.
    pub fn and_next(&self, count: usize) -> Result<Vec<Device>, CommandError> {
        let Some(first) = self.cuda_index else {
            return Ok(vec![self.device.clone(); count]);
        };
        let indices = first..first + count;
        indices.map(|index| Ok(cuda(index)?.0)).collect()
    }
}

impl Dtype {
    /// The name used in flags and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
        }
    }

    /// Bytes of a number.
    pub fn size(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::Bf16 => 2,
        }
    }
}

fn cpu() -> (Device, String) {
    (Device::flex(), "cpu".to_string())
}

#[cfg(feature = "cuda")]
fn cuda(index: usize) -> Result<(Device, String), CommandError> {
    let count = burn_blr::cuda::device_count();
    if index >= count {
        return Err(CommandError::NoCudaDevice { index, count });
    }
    burn_blr::cuda::cache_kernels();
    let name = burn_blr::cuda::device_name(index).unwrap_or_else(|| format!("cuda:{index}"));
    Ok((Device::cuda(index), name))
}

#[cfg(not(feature = "cuda"))]
fn cuda(index: usize) -> Result<(Device, String), CommandError> {
    Err(CommandError::NoCudaDevice { index, count: 0 })
}
