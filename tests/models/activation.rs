//! Every activation name against its formula in `f64`.

use std::f64::consts::PI;

use burn::tensor::{Device, Tensor};
use models::Activation;

use crate::tiny_gpt2::host;

/// The error function by its Maclaurin series, which is accurate enough for |x| <= 4; past that it
/// is one.
fn erf(x: f64) -> f64 {
    if x.abs() > 4.0 {
        return x.signum();
    }
    let mut term = x;
    let mut sum = x;
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    2.0 / PI.sqrt() * sum
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
}

/// The formulas behind the names of `ACT2FN` in `transformers`.
fn formula(name: &str, x: f64) -> f64 {
    match name {
        "gelu" | "gelu_python" => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_accurate" | "gelu_python_tanh" => {
            gelu_tanh(x)
        }
        "gelu_10" => (0.5 * x * (1.0 + erf(x / 2f64.sqrt()))).clamp(-10.0, 10.0),
        "hardswish" => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
        "quick_gelu" => x * sigmoid(1.702 * x),
        "relu" => x.max(0.0),
        "relu2" => x.max(0.0).powi(2),
        "relu6" => x.clamp(0.0, 6.0),
        "leaky_relu" => {
            if x < 0.0 {
                0.01 * x
            } else {
                x
            }
        }
        "silu" | "swish" => x * sigmoid(x),
        "tanh" => x.tanh(),
        "sigmoid" => sigmoid(x),
        "mish" => x * x.exp().ln_1p().tanh(),
        "linear" => x,
        _ => panic!("no formula for `{name}`"),
    }
}

#[test]
fn every_activation_name_computes_its_formula() {
    let points: Vec<f32> = (-50..=110).map(|n| n as f32 * 0.11).collect();
    for name in Activation::names() {
        let activation = Activation::from_name(name).unwrap();
        let x = Tensor::<1>::from_floats(points.as_slice(), &Device::flex());
        let found = host(activation.forward(x));
        for (&x, &y) in points.iter().zip(&found) {
            let expected = formula(name, f64::from(x));
            let error = (f64::from(y) - expected).abs();
            assert!(
                error < 2e-6 * expected.abs().max(1.0),
                "{name}({x}) = {y}, not {expected}"
            );
        }
    }
}

#[test]
fn an_unknown_activation_name_is_none() {
    assert_eq!(Activation::from_name("gelu-new"), None);
    assert_eq!(Activation::from_name(""), None);
}
