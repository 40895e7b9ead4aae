//! What is timed: forward passes of a layer, or training passes, by its kernels or by plain Burn.

use burn::backend::Dispatch;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{FloatDType, Gradients, Tensor};
use burn_blr::BlrLinear;
use burn_blr::ops::{Bias, plain};

use super::reference;
use crate::arguments::Pass;
use crate::device_timing::Work;
use crate::error::CommandError;

/// Passes, each through a layer of its own and on an input of its own.
pub struct Passes {
    operands: Vec<(BlrLinear, Tensor<2>)>,
    pass: Pass,
    plain: bool,
}

/// What a pass makes.
pub struct Made {
    pub output: Tensor<2>,
    /// Of the input and then of the factors; empty after a forward pass.
    pub gradients: Vec<Gradient>,
}

/// The gradient of an operand.
pub enum Gradient {
    Matrix(Tensor<2>),
    Blocks(Tensor<3>),
}

impl Passes {
    /// Passes over operands that no gradient is tracked for yet; `plain` takes Burn's operations.
    pub fn new(operands: Vec<(BlrLinear, Tensor<2>)>, pass: Pass, plain: bool) -> Self {
        let operands = match pass {
            Pass::Forward => operands,
            Pass::Training => operands.into_iter().map(tracked).collect(),
        };
        Passes {
            operands,
            pass,
            plain,
        }
    }

    /// The layer and the input of a pass.
    pub fn operands(&self, index: usize) -> &(BlrLinear, Tensor<2>) {
        &self.operands[index]
    }

    /// The error of the output, or the largest of the output and the gradients.
    ///
    /// Gradients are compared with those of plain operations on the same operands in `f32`, whose
    /// products Burn rounds to tf32 on a GPU.
    pub fn relative_error(&self, index: usize, made: &Made) -> Result<f64, CommandError> {
        let (layer, input) = &self.operands[index];
        let of_output = reference::relative_error(layer, input, &made.output)?;
        if made.gradients.is_empty() {
            return Ok(of_output);
        }
        let exact = |operands: &(BlrLinear, Tensor<2>)| {
            let (layer, input) = operands.clone();
            let layer = layer.map(&mut Untracked(FloatDType::F32));
            tracked((layer, input.inner().cast(FloatDType::F32)))
        };
        let expected = train(&exact(&self.operands[index]), true);
        let mut largest = of_output;
        for (found, expected) in made.gradients.iter().zip(&expected.gradients) {
            let error = found.relative_error(expected)?;
            // NaN has to stay one.
            if error.is_nan() || error > largest {
                largest = error;
            }
        }
        Ok(largest)
    }
}

impl Work for Passes {
    type Result = Made;

    fn calls(&self) -> usize {
        self.operands.len()
    }

    fn call(&self, index: usize) -> Made {
        run(&self.operands[index], self.pass, self.plain)
    }

    fn spoil(&self, made: &Made) {
        burn_blr::cuda::overwrite_with_nan(made.output.clone());
        for gradient in &made.gradients {
            match gradient {
                Gradient::Matrix(tensor) => {
                    burn_blr::cuda::overwrite_with_nan(tensor.clone());
                }
                Gradient::Blocks(tensor) => {
                    burn_blr::cuda::overwrite_with_nan(tensor.clone());
                }
            }
        }
    }
}

/// One pass.
pub fn run(operands: &(BlrLinear, Tensor<2>), pass: Pass, plain: bool) -> Made {
    match pass {
        Pass::Forward => Made {
            output: forward(operands, plain),
            gradients: Vec::new(),
        },
        Pass::Training => train(operands, plain),
    }
}

fn forward((layer, input): &(BlrLinear, Tensor<2>), plain: bool) -> Tensor<2> {
    if plain {
        composition(layer, input.clone())
    } else {
        layer.forward(input.clone())
    }
}

/// Forward and backward; the gradient of the output is one everywhere.
fn train(operands: &(BlrLinear, Tensor<2>), plain: bool) -> Made {
    let output = forward(operands, plain);
    let mut all = output.backward();
    let (layer, input) = operands;
    let mut collected = Collected {
        gradients: Vec::new(),
        all: &mut all,
    };
    collected.take(input);
    layer.visit(&mut collected);
    Made {
        output: output.inner(),
        gradients: collected.gradients,
    }
}

/// The layer without bias by plain operations of Burn, each recorded by autodiff on its own.
fn composition(layer: &BlrLinear, input: Tensor<2>) -> Tensor<2> {
    let output = match layer {
        BlrLinear::Dense(layer) => return layer.forward(input),
        BlrLinear::LowRank(layer) => plain::low_rank_linear::<Dispatch>(
            input.into_dispatch(),
            layer.u.val().into_dispatch(),
            layer.v.val().into_dispatch(),
            Bias::Absent,
        ),
        BlrLinear::Monarch(layer) => plain::monarch_linear::<Dispatch>(
            input.into_dispatch(),
            layer.right.val().into_dispatch(),
            layer.left.val().into_dispatch(),
            Bias::Absent,
            layer.order,
        ),
        BlrLinear::Blast(layer) => plain::blast_linear::<Dispatch>(
            input.into_dispatch(),
            layer.u.val().into_dispatch(),
            layer.s.val().into_dispatch(),
            layer.v.val().into_dispatch(),
            Bias::Absent,
        ),
    };
    Tensor::from_dispatch(output)
}

/// The same operands, with gradients asked for.
fn tracked((layer, input): (BlrLinear, Tensor<2>)) -> (BlrLinear, Tensor<2>) {
    struct Tracked;
    impl ModuleMapper for Tracked {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|tensor| Tensor::from_inner(tensor).require_grad())
        }
    }
    let input = Tensor::from_inner(input).require_grad();
    (layer.map(&mut Tracked), input)
}

/// Takes tensors off the tape and casts them.
struct Untracked(FloatDType);

impl ModuleMapper for Untracked {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| tensor.inner().cast(self.0))
    }
}

struct Collected<'a> {
    gradients: Vec<Gradient>,
    all: &'a mut Gradients,
}

impl Collected<'_> {
    fn take<const D: usize>(&mut self, tensor: &Tensor<D>) {
        if let Some(gradient) = tensor.grad_remove(self.all) {
            let gradient = gradient.into_dispatch();
            self.gradients.push(match D {
                2 => Gradient::Matrix(Tensor::from_dispatch(gradient)),
                _ => Gradient::Blocks(Tensor::from_dispatch(gradient)),
            });
        }
    }
}

impl ModuleVisitor for Collected<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.take(&param.val());
    }
}

impl Gradient {
    /// `‖g − g'‖ / ‖g'‖`, summed in `f32` on the device.
    fn relative_error(&self, expected: &Gradient) -> Result<f64, CommandError> {
        let flat = |gradient: &Gradient| -> Tensor<1> {
            let tensor = match gradient {
                Gradient::Matrix(tensor) => tensor.clone().flatten(0, 1),
                Gradient::Blocks(tensor) => tensor.clone().flatten(0, 2),
            };
            tensor.cast(FloatDType::F32)
        };
        let (found, expected) = (flat(self), flat(expected));
        let norm = expected.clone().powi_scalar(2).sum();
        let difference = (found - expected).powi_scalar(2).sum();
        let ratio = (difference / norm).sqrt();
        ratio
            .try_into_scalar::<f32>()
            .map(f64::from)
            .map_err(|error| CommandError::Device {
                reason: error.to_string(),
            })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use burn_blr::Structure;

    use super::super::operands;
    use super::*;

    fn training() -> Option<Passes> {
        let structure = Structure::Blast { blocks: 2, rank: 4 };
        let dtype = FloatDType::F32;
        let operands = operands::random(structure, (12, 8), 5, dtype, &Device::flex()).ok()?;
        Some(Passes::new(vec![operands], Pass::Training, false))
    }

    #[test]
    fn a_training_pass_makes_the_gradients_of_the_input_and_of_every_factor() {
        let passes = training();
        let error = passes.and_then(|passes| {
            let made = passes.call(0);
            assert_eq!(made.gradients.len(), 4, "of x, u, s and v");
            passes.relative_error(0, &made).ok()
        });
        assert!(error.is_some_and(|error| error < 1e-5), "{error:?}");
    }

    #[test]
    fn one_wrong_gradient_shows_in_the_error() {
        let error = training().and_then(|passes| {
            let mut made = passes.call(0);
            if let Some(Gradient::Blocks(s)) = made.gradients.get_mut(2) {
                *s = s.clone() * 1.5;
            }
            passes.relative_error(0, &made).ok()
        });
        assert!(
            error.is_some_and(|error| (error - 0.5).abs() < 1e-3),
            "{error:?}"
        );
    }
}
