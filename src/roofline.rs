//! What a layer asks of a device, and what devices can do at best: products and memory traffic per
//! second, by name.

use burn_blr::Structure;
use serde::Serialize;

use crate::arguments::Dtype;

/// How the products of a layer are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// f16 or bf16 operands, sums in f32.
    Half,
    /// f32 operands that are rounded to tf32.
    Tf32,
    /// f32 operands as they are.
    F32,
}

impl Precision {
    /// That of operands of `dtype`: Burn's dense products round f32 to tf32 on a GPU, our kernels do
    /// not.
    pub fn of(dtype: Dtype, by_kernels: bool) -> Self {
        match dtype {
            Dtype::F16 | Dtype::Bf16 => Precision::Half,
            Dtype::F32 if by_kernels => Precision::F32,
            Dtype::F32 => Precision::Tf32,
        }
    }

    /// The name used on pictures.
    pub fn as_str(self) -> &'static str {
        match self {
            Precision::Half => "16-bit",
            Precision::Tf32 => "tf32",
            Precision::F32 => "f32",
        }
    }
}

/// What a pass through a layer asks of a device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Demand {
    pub flops: f64,
    /// Weights and input read once, output written once, in bytes; what lies between the two products
    /// of a structure stays on the chip.
    pub bytes: f64,
}

impl Demand {
    /// A forward pass over `tokens` tokens, with elements of `size` bytes.
    pub fn forward(
        structure: &Structure,
        tokens: usize,
        [inputs, outputs]: [usize; 2],
        size: usize,
    ) -> Self {
        let tokens = tokens as f64;
        let weights = structure.parameters(inputs, outputs) as f64;
        Demand {
            flops: tokens * structure.flops(1, inputs, outputs) as f64,
            bytes: size as f64 * (weights + tokens * (inputs + outputs) as f64),
        }
    }

    /// The forward pass and all gradients: every product has two, each a product as large, and every
    /// tensor one of its size.
    pub fn training(self) -> Self {
        Demand {
            flops: 3.0 * self.flops,
            bytes: 2.0 * self.bytes,
        }
    }

    /// FLOPs for each byte.
    pub fn intensity(&self) -> f64 {
        self.flops / self.bytes
    }
}

/// What binds a pass at best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    Products,
    Memory,
}

impl Bound {
    /// The name used in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Bound::Products => "products",
            Bound::Memory => "memory",
        }
    }
}

/// The least time of a pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit {
    pub us: f64,
    pub bound: Bound,
}

/// Where the ceilings of a device come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Large dense products in half precision and copies, timed on the device; tf32 and f32 are
    /// from the data sheet.
    Measured,
    /// What the vendor states, without sparsity, at boost clock: real products stay below it.
    DataSheet,
}

/// The ceilings of one device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ceilings {
    /// What flags call it.
    pub key: &'static str,
    /// What drivers call the device, in full: names that hold one another (A40, A4000) are common.
    names: &'static [&'static str],
    half_tflops: f64,
    tf32_tflops: f64,
    f32_tflops: f64,
    /// Memory, TB/s.
    pub memory_tbps: f64,
    source: Source,
    /// Where the vendor states them.
    pub sheet: &'static str,
}

/// The devices that are known.
///
/// A Jetson Orin Nano reports itself as `Orin`, like its larger siblings, and is not told apart.
const DEVICES: [Ceilings; 8] = [
    // Measured with PyTorch 2.11: the best of cuBLAS at large sizes, and a copy.
    Ceilings {
        key: "h100",
        names: &["NVIDIA H100 80GB HBM3"],
        half_tflops: 798.0,
        tf32_tflops: 494.7,
        f32_tflops: 66.9,
        memory_tbps: 3.0,
        source: Source::Measured,
        sheet: "NVIDIA H100 data sheet, SXM",
    },
    Ceilings {
        key: "h200",
        names: &["NVIDIA H200"],
        half_tflops: 989.4,
        tf32_tflops: 494.7,
        f32_tflops: 66.9,
        memory_tbps: 4.8,
        source: Source::DataSheet,
        sheet: "NVIDIA H200 data sheet, SXM",
    },
    Ceilings {
        key: "a100",
        names: &["NVIDIA A100-SXM4-80GB"],
        half_tflops: 312.0,
        tf32_tflops: 156.0,
        f32_tflops: 19.5,
        memory_tbps: 2.039,
        source: Source::DataSheet,
        sheet: "NVIDIA A100 data sheet, SXM 80 GB",
    },
    Ceilings {
        key: "a100-40gb",
        names: &["NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"],
        half_tflops: 312.0,
        tf32_tflops: 156.0,
        f32_tflops: 19.5,
        memory_tbps: 1.555,
        source: Source::DataSheet,
        sheet: "NVIDIA A100 data sheet, 40 GB",
    },
    Ceilings {
        key: "a40",
        names: &["NVIDIA A40"],
        half_tflops: 149.7,
        tf32_tflops: 74.8,
        f32_tflops: 37.4,
        memory_tbps: 0.696,
        source: Source::DataSheet,
        sheet: "NVIDIA A40 data sheet",
    },
    Ceilings {
        key: "l40s",
        names: &["NVIDIA L40S"],
        half_tflops: 362.05,
        tf32_tflops: 183.0,
        f32_tflops: 91.6,
        memory_tbps: 0.864,
        source: Source::DataSheet,
        sheet: "NVIDIA L40S data sheet",
    },
    Ceilings {
        key: "rtx4090",
        names: &["NVIDIA GeForce RTX 4090"],
        half_tflops: 165.2,
        tf32_tflops: 82.6,
        f32_tflops: 82.6,
        memory_tbps: 1.008,
        source: Source::DataSheet,
        sheet: "NVIDIA Ada GPU architecture white paper",
    },
    // 1024 cores at 625 MHz; its 40 TOPS are of sparse 8-bit products, four times the dense 16-bit ones.
    Ceilings {
        key: "orin-nano",
        names: &["Jetson Orin Nano 8GB"],
        half_tflops: 10.0,
        tf32_tflops: 5.0,
        f32_tflops: 1.28,
        memory_tbps: 0.068,
        source: Source::DataSheet,
        sheet: "NVIDIA Jetson Orin Nano series data sheet, 8 GB at 15 W",
    },
];

impl Ceilings {
    /// The ceilings of the device that the driver calls `name`.
    pub fn of(name: &str) -> Option<&'static Ceilings> {
        DEVICES.iter().find(|device| device.names.contains(&name))
    }

    /// The ceilings of the device that flags call `key`.
    pub fn named(key: &str) -> Option<&'static Ceilings> {
        DEVICES.iter().find(|device| device.key == key)
    }

    /// What flags call the devices that are known.
    pub fn keys() -> impl Iterator<Item = &'static str> {
        DEVICES.iter().map(|device| device.key)
    }

    /// What drivers call the devices that are known.
    pub fn names() -> impl Iterator<Item = &'static str> {
        DEVICES
            .iter()
            .flat_map(|device| device.names.iter().copied())
    }

    /// What its driver calls the device.
    pub fn name(&self) -> &'static str {
        self.names.first().copied().unwrap_or(self.key)
    }

    /// Products, in TFLOP/s.
    pub fn tflops(&self, precision: Precision) -> f64 {
        match precision {
            Precision::Half => self.half_tflops,
            Precision::Tf32 => self.tf32_tflops,
            Precision::F32 => self.f32_tflops,
        }
    }

    /// The least time of what is asked: that of the products or of the memory traffic, whichever is
    /// longer.
    pub fn limit(&self, demand: &Demand, precision: Precision) -> Limit {
        let products = demand.flops / self.tflops(precision) / 1e6;
        let memory = demand.bytes / self.memory_tbps / 1e6;
        match products >= memory {
            true => Limit {
                us: products,
                bound: Bound::Products,
            },
            false => Limit {
                us: memory,
                bound: Bound::Memory,
            },
        }
    }

    /// Where the numbers come from.
    pub fn source(&self) -> &'static str {
        match self.source {
            Source::Measured => "measured",
            Source::DataSheet => "data sheet",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn h100(flops: f64, bytes: f64, precision: Precision) -> Option<Limit> {
        let ceilings = Ceilings::of("NVIDIA H100 80GB HBM3")?;
        Some(ceilings.limit(&Demand { flops, bytes }, precision))
    }

    #[test]
    fn the_limit_is_the_slower_of_products_and_memory() {
        let (products, memory) = (Bound::Products, Bound::Memory);
        for (flops, bytes, us, bound) in [(798e6, 0.0, 1.0, products), (798e6, 6e6, 2.0, memory)] {
            let limit = h100(flops, bytes, Precision::Half);
            assert_eq!(limit, Some(Limit { us, bound }));
        }
        let [f32, tf32] =
            [Precision::F32, Precision::Tf32].map(|way| h100(1e9, 0.0, way).map(|limit| limit.us));
        assert!(f32 > tf32);
    }

    #[test]
    fn a_name_that_only_begins_like_a_known_one_is_unknown() {
        assert_eq!(Ceilings::of("NVIDIA A4000"), None);
        assert!(Ceilings::of("NVIDIA A40").is_some());
        assert_eq!(Ceilings::of("cpu"), None);
        assert_eq!(Ceilings::named("a4000"), None);
    }

    #[test]
    fn every_device_is_found_by_its_names_and_by_its_key_alone() {
        for device in &DEVICES {
            assert_eq!(Ceilings::named(device.key), Some(device));
            for name in device.names {
                assert_eq!(Ceilings::of(name), Some(device));
            }
        }
    }

    /// Llama-1B's gate projection as BLAST on 1024 tokens, by hand.
    #[test]
    fn the_limit_of_a_layer_is_what_its_arithmetic_says() {
        let structure = Structure::Blast {
            blocks: 16,
            rank: 512,
        };
        let demand = Demand::forward(&structure, 1024, [2048, 8192], 2);
        let limit = h100(demand.flops, demand.bytes, Precision::Half);
        let limit = limit.map(|limit| (limit.us, limit.bound));
        assert!(
            limit.is_some_and(|(us, bound)| (us - 13.8).abs() < 0.05 && bound == Bound::Products)
        );
        let training = demand.training();
        assert_eq!(training.intensity(), 1.5 * demand.intensity());
    }
}
