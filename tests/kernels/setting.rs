//! What every operation is run with.

use cubecl::prelude::*;
use cubecl_kernels::{Activation, Epilogue, KernelError, Merge, Missing, Strategy};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::harness::blocks::Blocks;
use crate::harness::clients::skip;
use crate::harness::dtype::Dtype;
use crate::harness::tensors::{DeviceTensor, Layout};

/// Where that lies which outputs are merged with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    Apart,
    InOutput,
}

/// Element type, strategy and layout of one run.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub dtype: Dtype,
    pub strategy: Strategy,
    /// Of the tensors that are read.
    pub read: Layout,
    /// Of the tensors that are written, scratch included.
    pub written: Layout,
    pub activation: Activation,
    pub merge: Option<(Merge, Other)>,
    /// Whether the outputs of the first of two layers gate those of the second.
    pub gated: bool,
    /// Most tokens that the scratch of a forward pass has room for.
    pub room: usize,
}

impl Setting {
    /// Contiguous tensors.
    pub fn plain(dtype: Dtype, strategy: Strategy) -> Self {
        Self {
            dtype,
            strategy,
            read: Layout::Contiguous,
            written: Layout::Contiguous,
            activation: Activation::None,
            merge: None,
            gated: false,
            room: usize::MAX,
        }
    }

    /// Room for fewer tokens than there are between the products, with everything that is done to
    /// outputs, and tensors that are not contiguous.
    pub fn little_scratch() -> [Self; 4] {
        let padded = Self {
            read: Layout::Padded,
            written: Layout::Padded,
            ..Self::plain(Dtype::F32, Strategy::Tiled)
        };
        let settings = [
            padded,
            Self::plain(Dtype::F32, Strategy::Auto),
            Self::plain(Dtype::F16, Strategy::TensorCores),
            Self::plain(Dtype::F16, Strategy::Hopper),
        ];
        settings.map(|setting| Self {
            activation: Activation::Silu,
            merge: Some((Merge::Times, Other::InOutput)),
            room: 24,
            ..setting
        })
    }

    /// Tensor cores with every element type they multiply, contiguous.
    pub fn tensor_cores() -> [Self; 3] {
        [Dtype::F16, Dtype::Bf16, Dtype::Tf32]
            .map(|dtype| Self::plain(dtype, Strategy::TensorCores))
    }

    /// The tensor cores of compute capability 9.0, contiguous; on others a visible skip.
    pub fn hopper() -> [Self; 2] {
        [Dtype::F16, Dtype::Bf16].map(|dtype| Self::plain(dtype, Strategy::Hopper))
    }

    /// As [`Setting::hopper`], with both products of a Monarch layer in one kernel, and the first of a BLAST layer
    /// with its coupling.
    pub fn fused() -> [Self; 2] {
        [Dtype::F16, Dtype::Bf16].map(|dtype| Self::plain(dtype, Strategy::Fused))
    }

    /// Plans by measurement: with tensor cores, and without.
    pub fn tuned() -> [Self; 2] {
        [Dtype::F32, Dtype::Bf16].map(|dtype| Self::plain(dtype, Strategy::Tuned))
    }

    /// Every activation and every way to merge with every strategy.
    pub fn finished() -> Vec<Self> {
        let plain = [
            Self::plain(Dtype::F32, Strategy::Naive),
            Self::plain(Dtype::F32, Strategy::Tiled),
            Self::plain(Dtype::F16, Strategy::TensorCores),
            Self::plain(Dtype::F16, Strategy::Hopper),
        ];
        let finishes = [
            (Activation::Gelu, None),
            (Activation::GeluTanh, None),
            (Activation::Silu, None),
            (Activation::Silu, Some((Merge::Times, Other::Apart))),
            (Activation::Silu, Some((Merge::Times, Other::InOutput))),
            (Activation::None, Some((Merge::Plus, Other::Apart))),
            (Activation::None, Some((Merge::Plus, Other::InOutput))),
        ];
        let every = |(activation, merge)| {
            plain.map(|plain| Self {
                activation,
                merge,
                ..plain
            })
        };
        finishes.into_iter().flat_map(every).collect()
    }

    /// Two layers, one of which gates the other, with every strategy, and with room for fewer tokens.
    pub fn gated() -> Vec<Self> {
        let settings = [
            Self::plain(Dtype::F32, Strategy::Naive),
            Self::plain(Dtype::F32, Strategy::Auto),
            Self::plain(Dtype::F16, Strategy::TensorCores),
            Self::plain(Dtype::Bf16, Strategy::Auto),
            Self::plain(Dtype::Bf16, Strategy::Hopper),
            Self::plain(Dtype::Bf16, Strategy::Fused),
        ];
        let gated = |setting| Self {
            activation: Activation::Silu,
            gated: true,
            ..setting
        };
        let little = |setting| Self {
            room: 24,
            ..setting
        };
        let gated = settings.map(gated).into_iter();
        gated
            .flat_map(|setting| [setting, little(setting)])
            .collect()
    }

    /// An output `[tokens, out]` for products of `[tokens, columns]`, and the epilogue of one into it.
    pub fn finish<R: Runtime>(
        &self,
        client: &ComputeClient<R>,
        [tokens, columns]: [usize; 2],
        bias: Option<&[f64]>,
    ) -> (DeviceTensor<R>, Epilogue<R>) {
        let shape = [tokens, if self.gated { columns / 2 } else { columns }];
        let other = self.other(shape[0] * shape[1]);
        let output = match self.merge {
            Some((_, Other::InOutput)) => {
                DeviceTensor::with_values(client, &shape, self.written, self.dtype, &other)
            }
            _ => self.output(client, &shape),
        };
        let merged = self.merge.map(|(merge, place)| {
            let binding = match place {
                Other::InOutput => output.binding(),
                Other::Apart => self.input(client, &shape, &other),
            };
            (merge, binding)
        });
        let epilogue = Epilogue {
            bias: bias.map(|bias| self.input(client, &[columns], bias)),
            activation: self.activation,
            merged,
            gated: self.gated,
        };
        (output, epilogue)
    }

    /// What outputs are merged with.
    fn other(&self, elements: usize) -> Vec<f64> {
        let rng = &mut StdRng::seed_from_u64(5);
        Blocks::random([1, 1, elements], self.dtype, rng).values
    }

    /// The reference for `tokens` with the epilogue applied.
    pub fn expected(&self, tokens: usize, values: Vec<f64>) -> Vec<f64> {
        self.applied(tokens, values, |value| value)
    }

    /// The plain composition with the epilogue applied, each part as one more rounded operation.
    pub fn composed(&self, tokens: usize, values: Vec<f64>) -> Vec<f64> {
        self.applied(tokens, values, |value| self.dtype.round(value))
    }

    fn applied(
        &self,
        tokens: usize,
        mut values: Vec<f64>,
        rounded: impl Fn(f64) -> f64,
    ) -> Vec<f64> {
        let active = |value: f64| match self.activation {
            Activation::None => value,
            activation => rounded(activated(value, activation)),
        };
        if self.gated {
            let columns = values.len() / tokens;
            let row = |row: &[f64]| {
                let (gate, other) = row.split_at(columns / 2);
                let pairs = gate.iter().zip(other);
                let products = pairs.map(|(gate, other)| rounded(active(*gate) * other));
                products.collect::<Vec<f64>>()
            };
            return values.chunks(columns).flat_map(row).collect();
        }
        for value in &mut values {
            *value = active(*value);
        }
        let Some((merge, _)) = self.merge else {
            return values;
        };
        let others = self.other(values.len());
        for (value, other) in values.iter_mut().zip(others) {
            *value = rounded(match merge {
                Merge::Times => *value * other,
                Merge::Plus => *value + other,
            });
        }
        values
    }

    /// Every element type with every strategy, contiguous.
    pub fn all() -> Vec<Self> {
        let strategies = [Strategy::Naive, Strategy::Tiled, Strategy::Auto];
        let dtypes = Dtype::ALL.into_iter();
        dtypes
            .flat_map(|dtype| strategies.map(|strategy| Self::plain(dtype, strategy)))
            .collect()
    }

    /// Both kernels with tensors that are not contiguous.
    pub fn strided() -> Vec<Self> {
        let layouts = [
            (Layout::Transposed, Layout::Contiguous),
            (Layout::Padded, Layout::Padded),
            (Layout::Contiguous, Layout::Transposed),
        ];
        let strategies = [Strategy::Naive, Strategy::Tiled].into_iter();
        let dtype = Dtype::F32;
        strategies
            .flat_map(|strategy| {
                layouts.map(|(read, written)| Self {
                    read,
                    written,
                    ..Self::plain(dtype, strategy)
                })
            })
            .collect()
    }

    /// Scratch of a `shape` for as many of `tokens` as there is room for.
    pub fn scratch<R: Runtime, const D: usize>(
        &self,
        client: &ComputeClient<R>,
        tokens: usize,
        shape: impl Fn(usize) -> [usize; D],
    ) -> DeviceTensor<R> {
        self.output(client, &shape(tokens.min(self.room)))
    }

    pub fn input<R: Runtime>(
        &self,
        client: &ComputeClient<R>,
        shape: &[usize],
        values: &[f64],
    ) -> TensorBinding<R> {
        DeviceTensor::with_values(client, shape, self.read, self.dtype, values).binding()
    }

    pub fn output<R: Runtime>(
        &self,
        client: &ComputeClient<R>,
        shape: &[usize],
    ) -> DeviceTensor<R> {
        DeviceTensor::junk(client, shape, self.written, self.dtype)
    }

    /// Whether an operation ran; a device without the element type, or what the kernel is made of, is a
    /// skip that is seen.
    pub fn ran(&self, result: Result<(), KernelError>) -> bool {
        match result {
            Ok(()) => true,
            Err(KernelError::Unavailable(
                missing @ (Missing::ElementType(_) | Missing::TensorCores(_) | Missing::Clusters),
            )) => {
                skip(&format!("{self:?}"), &missing.to_string());
                false
            }
            Err(error) => panic!("{self:?}: {error}"),
        }
    }
}

/// The activation in `f64`.
fn activated(y: f64, activation: Activation) -> f64 {
    match activation {
        Activation::None => y,
        Activation::Gelu => y * normal_cumulative(y),
        Activation::GeluTanh => {
            0.5 * y
                * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (y + 0.044715 * y.powi(3))).tanh())
        }
        Activation::Silu => y / (1.0 + (-y).exp()),
    }
}

/// `Φ(y)` by its series, `1/2 + φ(y) (y + y³/3 + y⁵/(3·5) + …)`.
fn normal_cumulative(y: f64) -> f64 {
    if y.abs() > 9.0 {
        return if y > 0.0 { 1.0 } else { 0.0 };
    }
    let (mut term, mut sum) = (y, y);
    for n in 1..400 {
        term *= y * y / (2 * n + 1) as f64;
        sum += term;
    }
    0.5 + sum * (-y * y / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

#[test]
fn the_series_gives_the_normal_distribution() {
    for (y, expected) in [
        (0.0, 0.5),
        (1.0, 0.841_344_746_068_543),
        (-3.0, 0.001_349_898_031_630_1),
    ] {
        assert!((normal_cumulative(y) - expected).abs() < 1e-14, "{y}");
    }
}
