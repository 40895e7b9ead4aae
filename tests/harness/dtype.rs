//! The element types under test, and their rounding.

use cubecl::ir::FloatKind;
use cubecl::prelude::ElemType;
use half::{bf16, f16};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    F32,
    F16,
    Bf16,
    /// `f32` in memory, rounded to 11 bits of significand where tensor cores multiply it.
    Tf32,
}

impl Dtype {
    pub const ALL: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];

    pub fn elem(self) -> ElemType {
        ElemType::Float(match self {
            Dtype::F32 | Dtype::Tf32 => FloatKind::F32,
            Dtype::F16 => FloatKind::F16,
            Dtype::Bf16 => FloatKind::BF16,
        })
    }

    pub fn bytes(self) -> usize {
        match self {
            Dtype::F32 | Dtype::Tf32 => 4,
            Dtype::F16 | Dtype::Bf16 => 2,
        }
    }

    /// The nearest value of this type.
    pub fn round(self, value: f64) -> f64 {
        match self {
            Dtype::F32 => value as f32 as f64,
            // To nearest, ties away from zero, as `cvt.rna` does.
            Dtype::Tf32 => f32::from_bits(((value as f32).to_bits() + 0x1000) & !0x1fff) as f64,
            Dtype::F16 => f16::from_f64(value).to_f64(),
            Dtype::Bf16 => bf16::from_f64(value).to_f64(),
        }
    }

    pub fn encode(self, values: &[f64]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(values.len() * self.bytes());
        for value in values {
            match self {
                Dtype::F32 | Dtype::Tf32 => bytes.extend((*value as f32).to_le_bytes()),
                Dtype::F16 => bytes.extend(f16::from_f64(*value).to_le_bytes()),
                Dtype::Bf16 => bytes.extend(bf16::from_f64(*value).to_le_bytes()),
            }
        }
        bytes
    }

    pub fn decode(self, bytes: &[u8]) -> Vec<f64> {
        let element = |chunk: &[u8]| match self {
            Dtype::F32 | Dtype::Tf32 => {
                f32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]) as f64
            }
            Dtype::F16 => f16::from_le_bytes([chunk[0], chunk[1]]).to_f64(),
            Dtype::Bf16 => bf16::from_le_bytes([chunk[0], chunk[1]]).to_f64(),
        };
        bytes.chunks_exact(self.bytes()).map(element).collect()
    }
}
