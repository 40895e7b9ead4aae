//! What a device can do at best: products and memory traffic per second, by name.

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

/// Where the ceilings of a device come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Large dense products in half precision and copies, timed on the device; tf32 and f32 are
    /// from the data sheet.
    Measured,
    /// The vendor's data sheet, without sparsity, at boost clock: real products stay below it.
    DataSheet,
}

/// The ceilings of one device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ceilings {
    /// What drivers call the device, in full: names that hold one another (A40, A4000) are common.
    names: &'static [&'static str],
    half_tflops: f64,
    tf32_tflops: f64,
    f32_tflops: f64,
    /// Memory, TB/s.
    memory_tbps: f64,
    source: Source,
}

/// The devices that are known.
///
/// A Jetson Orin Nano reports itself as `Orin`, like its larger siblings, and is not told apart.
const DEVICES: [Ceilings; 7] = [
    // Measured with PyTorch 2.11: the best of cuBLAS at large sizes, and a copy.
    Ceilings {
        names: &["NVIDIA H100 80GB HBM3"],
        half_tflops: 798.0,
        tf32_tflops: 494.7,
        f32_tflops: 66.9,
        memory_tbps: 3.0,
        source: Source::Measured,
    },
    Ceilings {
        names: &["NVIDIA H200"],
        half_tflops: 989.4,
        tf32_tflops: 494.7,
        f32_tflops: 66.9,
        memory_tbps: 4.8,
        source: Source::DataSheet,
    },
    Ceilings {
        names: &["NVIDIA A100-SXM4-80GB"],
        half_tflops: 312.0,
        tf32_tflops: 156.0,
        f32_tflops: 19.5,
        memory_tbps: 2.039,
        source: Source::DataSheet,
    },
    Ceilings {
        names: &["NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"],
        half_tflops: 312.0,
        tf32_tflops: 156.0,
        f32_tflops: 19.5,
        memory_tbps: 1.555,
        source: Source::DataSheet,
    },
    Ceilings {
        names: &["NVIDIA A40"],
        half_tflops: 149.7,
        tf32_tflops: 74.8,
        f32_tflops: 37.4,
        memory_tbps: 0.696,
        source: Source::DataSheet,
    },
    Ceilings {
        names: &["NVIDIA GeForce RTX 4090"],
        half_tflops: 165.2,
        tf32_tflops: 82.6,
        f32_tflops: 82.6,
        memory_tbps: 1.008,
        source: Source::DataSheet,
    },
    // 1024 cores at 625 MHz, 8 GB.
    Ceilings {
        names: &["Jetson Orin Nano 8GB"],
        half_tflops: 10.0,
        tf32_tflops: 5.0,
        f32_tflops: 1.28,
        memory_tbps: 0.068,
        source: Source::DataSheet,
    },
];

impl Ceilings {
    /// The ceilings of the device that the driver calls `name`.
    pub fn of(name: &str) -> Option<&'static Ceilings> {
        DEVICES.iter().find(|device| device.names.contains(&name))
    }

    /// Least time in microseconds for so many FLOPs and bytes of memory traffic.
    pub fn limit_us(&self, flops: f64, bytes: f64, precision: Precision) -> f64 {
        let tflops = match precision {
            Precision::Half => self.half_tflops,
            Precision::Tf32 => self.tf32_tflops,
            Precision::F32 => self.f32_tflops,
        };
        (flops / tflops).max(bytes / self.memory_tbps) / 1e6
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

    #[test]
    fn the_limit_is_the_slower_of_products_and_memory() {
        let h100 = Ceilings::of("NVIDIA H100 80GB HBM3").copied();
        let limit = |flops, bytes, precision| {
            h100.map_or(f64::NAN, |h100| h100.limit_us(flops, bytes, precision))
        };
        assert_eq!(limit(798e6, 0.0, Precision::Half), 1.0);
        assert_eq!(limit(798e6, 6e6, Precision::Half), 2.0);
        assert!(limit(1e9, 0.0, Precision::F32) > limit(1e9, 0.0, Precision::Tf32));
    }

    #[test]
    fn a_name_that_only_begins_like_a_known_one_is_unknown() {
        assert_eq!(Ceilings::of("NVIDIA A4000"), None);
        assert!(Ceilings::of("NVIDIA A40").is_some());
        assert_eq!(Ceilings::of("cpu"), None);
    }

    /// Llama-1B's gate projection as BLAST on 1024 tokens, by hand.
    #[test]
    fn the_limit_of_a_layer_is_what_its_arithmetic_says() {
        let structure = burn_blr::Structure::Blast {
            blocks: 16,
            rank: 512,
        };
        let flops = structure.flops(1024, 2048, 8192) as f64;
        let elements = structure.parameters(2048, 8192) + 1024 * (2048 + 8192);
        let limit = Ceilings::of("NVIDIA H100 80GB HBM3")
            .map(|h100| h100.limit_us(flops, 2.0 * elements as f64, Precision::Half));
        assert!(limit.is_some_and(|limit| (limit - 13.8).abs() < 0.05));
    }
}
