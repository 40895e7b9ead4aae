//! Block-low-rank layers in somebody's own Burn model: its dense weights are kept, its layers
//! swapped, and what that cost is trained away again.
//!
//! `cargo run --release --example swap_layers`

#![allow(clippy::print_stdout, reason = "an example prints what it found")]

use std::error::Error;

use burn::module::{AutodiffModule, Module, ModuleMapper, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Distribution, Gradients, Tensor, activation};
use burn_blr::{BlrLinear, Method, Structure};
use burn_store::ModuleSnapshot;
use training::{BlastOptions, factorize};

const WIDTH: usize = 64;
const INNER: usize = 256;

/// A model as it was written, with Burn's layers.
#[derive(Module, Debug)]
pub struct Before {
    fc1: Linear,
    fc2: Linear,
}

/// The same model after the one change that swapping needs: the type of its fields.
#[derive(Module, Debug)]
pub struct After {
    fc1: BlrLinear,
    fc2: BlrLinear,
}

impl Before {
    fn new(device: &Device) -> Self {
        Self {
            fc1: LinearConfig::new(WIDTH, INNER).init(device),
            fc2: LinearConfig::new(INNER, WIDTH).init(device),
        }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.fc2.forward(activation::gelu(self.fc1.forward(x)))
    }
}

impl After {
    fn new(device: &Device) -> Self {
        Self {
            fc1: LinearConfig::new(WIDTH, INNER).init(device).into(),
            fc2: LinearConfig::new(INNER, WIDTH).init(device).into(),
        }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.fc2.forward(activation::gelu(self.fc1.forward(x)))
    }
}

/// What the steps led to.
#[derive(Debug)]
pub struct Swapped {
    /// Largest difference of an output once the weights were taken over, before the swap.
    pub taken_over: f32,
    /// Parameters before and after the swap.
    pub parameters: [usize; 2],
    /// Relative errors of the two weights.
    pub weight_errors: Vec<f64>,
    /// Mean squared difference to the dense model's outputs, after the swap and after training.
    pub losses: [f32; 2],
}

/// Takes the weights over, swaps the layers and trains.
///
/// # Errors
///
/// Those of a factorisation, and an error if the weights do not fit.
pub fn swap(device: &Device) -> Result<Swapped, Box<dyn Error>> {
    device.seed(11);
    let dense = Before::new(device);
    let input = Tensor::random([256, WIDTH], Distribution::Normal(0.0, 1.0), device);
    let wanted = dense.forward(input.clone());

    // Weights of the old model, or of its file, belong to the variant `Dense`: with the names of
    // variants skipped, `fc1.weight` goes to `fc1.Dense.weight`.
    let mut model = After::new(device);
    let taken = model.apply(dense.collect(None, None, false), None, None, true);
    if !taken.is_success() || !taken.missing.is_empty() {
        return Err(format!("the weights do not fit: {taken}").into());
    }
    let difference = (model.forward(input.clone()) - wanted.clone()).abs().max();
    let before = model.num_params();

    // The swap: each layer becomes BLAST with half of its weights, and keeps its bias.
    let mut weight_errors = Vec::new();
    for layer in [&mut model.fc1, &mut model.fc2] {
        let (inputs, outputs) = layer.features();
        let structure = Structure::for_keep(Method::Blast, 8, 0.5, inputs, outputs)
            .ok_or("half of the parameters are too few for a structure")?;
        let options = BlastOptions::default();
        let found = factorize(layer.to_dense(), structure, &options, None, &mut |_, _| {})?;
        weight_errors.push(found.relative_error);
        *layer = found.layer.with_bias(layer.bias())?;
    }
    let parameters = [before, model.num_params()];

    // The factors are parameters like any other, with gradients.
    let first = distance(&model, input.clone(), wanted.clone()).into_scalar::<f32>();
    let mut model = model.train();
    let (input, wanted) = (Tensor::from_inner(input), Tensor::from_inner(wanted));
    for _ in 0..100 {
        let loss = distance(&model, input.clone(), wanted.clone());
        let gradients = loss.backward();
        model = model.map(&mut GradientStep {
            gradients: &gradients,
            rate: 0.5,
        });
    }
    let last = distance(&model.valid(), input.inner(), wanted.inner()).into_scalar::<f32>();
    Ok(Swapped {
        taken_over: difference.into_scalar::<f32>(),
        parameters,
        weight_errors,
        losses: [first, last],
    })
}

fn distance(model: &After, input: Tensor<2>, wanted: Tensor<2>) -> Tensor<1> {
    (model.forward(input) - wanted).powi_scalar(2).mean()
}

/// One step of gradient descent on every parameter; an optimizer of `burn::optim` takes its place in
/// a real training.
struct GradientStep<'a> {
    gradients: &'a Gradients,
    rate: f64,
}

impl ModuleMapper for GradientStep<'_> {
    fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        parameter.map(|tensor| match tensor.grad(self.gradients) {
            Some(gradient) => {
                Tensor::from_inner(tensor.inner() - gradient * self.rate).require_grad()
            }
            None => tensor,
        })
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let device = burn_blr::cuda::first_device().unwrap_or_else(Device::flex);
    let swapped = swap(&device)?;
    let [before, after] = swapped.parameters;
    let [first, last] = swapped.losses;
    println!(
        "outputs moved by {:.1e} with the weights",
        swapped.taken_over
    );
    println!("{before} parameters became {after}");
    println!(
        "relative errors of the weights: {:.3?}",
        swapped.weight_errors
    );
    println!("distance to the dense outputs: {first:.5}, after training {last:.5}");
    Ok(())
}
