//! Random products and their host reference.

use burn::backend::Dispatch;
use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_blr::ops::{self, Bias, Epilogue, plain};
use burn_blr::{Activation, OutputOrder, Structure};
use cubecl_kernels::{BlastDims, LowRankDims, MonarchDims, blast, low_rank, monarch};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A product of one structure with one set of sizes.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub structure: Structure,
    pub in_features: usize,
    pub out_features: usize,
    pub tokens: usize,
    pub biased: bool,
}

/// Every activation that a product can apply.
pub const ACTIVATIONS: [Activation; 3] = [Activation::Gelu, Activation::GeluTanh, Activation::Silu];

/// Row-major values and their shape.
pub type Values = (Vec<f64>, Vec<usize>);

/// Structures at widths that no tile divides, one block and several.
pub fn structures() -> Vec<(Structure, usize, usize)> {
    let monarch = |blocks, rank, order| Structure::Monarch {
        blocks,
        rank,
        order,
    };
    vec![
        (Structure::LowRank { rank: 7 }, 45, 30),
        (monarch(1, 5, OutputOrder::Contiguous), 33, 20),
        (monarch(3, 15, OutputOrder::Contiguous), 45, 30),
        (monarch(3, 15, OutputOrder::Interleaved), 30, 51),
        (Structure::Blast { blocks: 1, rank: 6 }, 21, 35),
        (Structure::Blast { blocks: 5, rank: 9 }, 45, 35),
    ]
}

impl Case {
    /// Values drawn from a seed: the input, the factors, and the bias where there is one.
    pub fn operands(&self, seed: u64) -> Vec<Values> {
        let (inputs, outputs) = (self.in_features, self.out_features);
        let mut shapes = vec![vec![self.tokens, inputs]];
        match self.structure {
            Structure::Dense => unreachable!("dense layers are Burn's own"),
            Structure::LowRank { rank } => shapes.extend([vec![outputs, rank], vec![rank, inputs]]),
            Structure::Monarch { blocks, rank, .. } => shapes.extend([
                vec![blocks, rank, inputs / blocks],
                vec![blocks, outputs / blocks, rank],
            ]),
            Structure::Blast { blocks, rank } => shapes.extend([
                vec![blocks, outputs / blocks, rank],
                vec![blocks, blocks, rank],
                vec![blocks, rank, inputs / blocks],
            ]),
        }
        if self.biased {
            shapes.push(vec![outputs]);
        }
        let mut random = StdRng::seed_from_u64(seed);
        shapes
            .into_iter()
            .map(|shape| {
                let count = shape.iter().product();
                (
                    (0..count).map(|_| random.random_range(-1.0..1.0)).collect(),
                    shape,
                )
            })
            .collect()
    }

    /// The product in `f64` on the host.
    pub fn reference(&self, operands: &[Values]) -> Vec<f64> {
        let value = |index: usize| operands[index].0.as_slice();
        let bias = self.biased.then(|| value(operands.len() - 1));
        let (inputs, outputs, tokens) = (self.in_features, self.out_features, self.tokens);
        match self.structure {
            Structure::Dense => unreachable!("dense layers are Burn's own"),
            Structure::LowRank { rank } => {
                let dims = LowRankDims::new(rank, inputs, outputs).unwrap();
                low_rank::reference::forward(&dims, tokens, value(0), value(1), value(2), bias)
            }
            Structure::Monarch {
                blocks,
                rank,
                order,
            } => {
                let dims = MonarchDims::new(blocks, rank, inputs, outputs, order).unwrap();
                monarch::reference::forward(&dims, tokens, value(0), value(1), value(2), bias)
            }
            Structure::Blast { blocks, rank } => {
                let dims = BlastDims::new(blocks, rank, inputs, outputs).unwrap();
                blast::reference::forward(
                    &dims,
                    tokens,
                    value(0),
                    value(1),
                    value(2),
                    value(3),
                    bias,
                )
            }
        }
    }

    /// The product as one operation of the backend.
    pub fn operation(&self, operands: &[Operand]) -> Tensor<2> {
        self.activated(operands, Activation::None)
    }

    /// The product and its activation as one operation of the backend.
    pub fn activated(&self, operands: &[Operand], activation: Activation) -> Tensor<2> {
        let epilogue = Epilogue {
            bias: self.biased.then(|| operands[operands.len() - 1].flat()),
            activation,
            ..Epilogue::default()
        };
        let (x, one, two) = (operands[0].matrix(), &operands[1], &operands[2]);
        match self.structure {
            Structure::Dense => unreachable!("dense layers are Burn's own"),
            Structure::LowRank { .. } => {
                ops::low_rank_linear(x, one.matrix(), two.matrix(), epilogue)
            }
            Structure::Monarch { order, .. } => {
                ops::monarch_linear(x, one.blocks(), two.blocks(), order, epilogue)
            }
            Structure::Blast { .. } => {
                let (u, s, v) = (one.blocks(), two.blocks(), operands[3].blocks());
                ops::blast_linear(x, u, s, v, epilogue)
            }
        }
    }

    /// The product from plain operations of the backend.
    pub fn composition(&self, operands: &[Operand]) -> Tensor<2> {
        let bias = match self.biased {
            true => Bias::<Dispatch>::Added(operands[operands.len() - 1].flat().into_dispatch()),
            false => Bias::Absent,
        };
        let x = operands[0].matrix().into_dispatch();
        let matrix = |index: usize| operands[index].matrix().into_dispatch();
        let blocks = |index: usize| operands[index].blocks().into_dispatch();
        Tensor::from_dispatch(match self.structure {
            Structure::Dense => unreachable!("dense layers are Burn's own"),
            Structure::LowRank { .. } => {
                plain::low_rank_linear::<Dispatch>(x, matrix(1), matrix(2), bias)
            }
            Structure::Monarch { order, .. } => {
                plain::monarch_linear::<Dispatch>(x, blocks(1), blocks(2), bias, order)
            }
            Structure::Blast { .. } => {
                plain::blast_linear::<Dispatch>(x, blocks(1), blocks(2), blocks(3), bias)
            }
        })
    }
}

/// An operand on a device, of whatever rank.
#[derive(Debug, Clone)]
pub enum Operand {
    Flat(Tensor<1>),
    Matrix(Tensor<2>),
    Blocks(Tensor<3>),
}

impl Operand {
    pub fn new((values, shape): &Values, device: &Device, dtype: DType) -> Self {
        let data = TensorData::new(values.clone(), shape.clone()).convert_dtype(dtype);
        match shape.len() {
            1 => Operand::Flat(Tensor::from_data(data, (device, dtype))),
            2 => Operand::Matrix(Tensor::from_data(data, (device, dtype))),
            _ => Operand::Blocks(Tensor::from_data(data, (device, dtype))),
        }
    }

    pub fn require_grad(self) -> Self {
        match self {
            Operand::Flat(tensor) => Operand::Flat(tensor.require_grad()),
            Operand::Matrix(tensor) => Operand::Matrix(tensor.require_grad()),
            Operand::Blocks(tensor) => Operand::Blocks(tensor.require_grad()),
        }
    }

    pub fn flat(&self) -> Tensor<1> {
        match self {
            Operand::Flat(tensor) => tensor.clone(),
            other => panic!("{other:?} is no vector"),
        }
    }

    pub fn matrix(&self) -> Tensor<2> {
        match self {
            Operand::Matrix(tensor) => tensor.clone(),
            other => panic!("{other:?} is no matrix"),
        }
    }

    pub fn blocks(&self) -> Tensor<3> {
        match self {
            Operand::Blocks(tensor) => tensor.clone(),
            other => panic!("{other:?} has no blocks"),
        }
    }

    /// The values, as the device holds them.
    pub fn values(&self) -> Values {
        match self {
            Operand::Flat(tensor) => values(tensor.clone()),
            Operand::Matrix(tensor) => values(tensor.clone()),
            Operand::Blocks(tensor) => values(tensor.clone()),
        }
    }
}

/// The values of a tensor, widened.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Values {
    let shape = tensor.dims().to_vec();
    (tensor.try_into_vec_as().unwrap(), shape)
}

/// `‖a − b‖ / ‖b‖`.
pub fn relative_error(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let squared = |pairs: &mut dyn Iterator<Item = f64>| pairs.map(|x| x * x).sum::<f64>();
    let difference = squared(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    (difference / squared(&mut expected.iter().copied())).sqrt()
}

/// Twice what the plain composition loses, plus a floor for results that are exact by luck.
pub fn allowed(plain: f64, dtype: DType, factor: f64) -> f64 {
    let floor = match dtype {
        DType::F32 => 1e-7,
        DType::F16 => 1e-4,
        _ => 1e-3,
    };
    factor * plain + floor
}
