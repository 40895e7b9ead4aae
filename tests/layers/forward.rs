use burn::tensor::{DType, Tensor};
use burn_blr::{Activation, BlastLinearConfig, BlrLinear, Structure, ops};

use crate::case::{ACTIVATIONS, Case, Operand, allowed, relative_error, structures, values};
use crate::devices::devices;

#[test]
fn every_product_is_as_close_to_f64_as_its_plain_composition() {
    for device in devices() {
        for (structure, in_features, out_features) in structures() {
            for (tokens, biased) in [(1, true), (2, false), (53, true), (531, false)] {
                for dtype in [DType::F32, DType::F16, DType::BF16] {
                    let case = Case {
                        structure,
                        in_features,
                        out_features,
                        tokens,
                        biased,
                    };
                    let operands: Vec<Operand> = case
                        .operands(tokens as u64)
                        .iter()
                        .map(|values| Operand::new(values, &device, dtype))
                        .collect();
                    let rounded: Vec<_> = operands.iter().map(Operand::values).collect();
                    let expected = case.reference(&rounded);
                    let error = |output| relative_error(&values(output).0, &expected);
                    let plain = error(case.composition(&operands));
                    let found = error(case.operation(&operands));
                    assert!(
                        found <= allowed(plain, dtype, 2.0),
                        "{case:?} {dtype:?} on {device:?}: error {found:e}, plain {plain:e}"
                    );
                }
            }
        }
    }
}

#[test]
fn an_activated_product_is_the_activation_of_the_product() {
    for device in devices() {
        for (structure, in_features, out_features) in structures() {
            let case = Case {
                structure,
                in_features,
                out_features,
                tokens: 37,
                biased: true,
            };
            let operands: Vec<Operand> = case
                .operands(7)
                .iter()
                .map(|values| Operand::new(values, &device, DType::F32))
                .collect();
            for activation in ACTIVATIONS {
                let expected = ops::activate(case.operation(&operands), activation);
                let found = case.activated(&operands, activation);
                let error = relative_error(&values(found).0, &values(expected).0);
                assert!(
                    error < 1e-6,
                    "{case:?} {activation:?} on {device:?}: {error:e}"
                );
            }
        }
    }
}

#[test]
fn activations_are_those_of_their_formulas() {
    let inputs: Vec<f64> = vec![-6.0, -1.0, -0.25, 0.0, 0.5, 3.0];
    let expected = |activation, x: f64| match activation {
        Activation::None => x,
        // Φ at the inputs, from a table.
        Activation::Gelu => {
            let table = [
                9.865_876e-10,
                0.158_655_254,
                0.401_293_674,
                0.5,
                0.691_462_461,
            ];
            let at = inputs.iter().position(|input| *input == x).unwrap();
            x * table.get(at).copied().unwrap_or(0.998_650_102)
        }
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::Silu => x / (1.0 + (-x).exp()),
    };
    for device in devices() {
        for activation in ACTIVATIONS.into_iter().chain([Activation::None]) {
            let x = Operand::new(&(inputs.clone(), vec![6]), &device, DType::F32).flat();
            let (found, _) = values(ops::activate(x, activation));
            for (found, x) in found.iter().zip(&inputs) {
                let expected = expected(activation, *x);
                assert!(
                    (found - expected).abs() < 1e-6,
                    "{activation:?} of {x} on {device:?}: {found} against {expected}"
                );
            }
        }
    }
}

#[test]
fn leading_axes_are_kept_and_may_be_empty() {
    for device in devices() {
        for (structure, in_features, out_features) in structures() {
            let layer =
                BlrLinear::init(structure, in_features, out_features, true, &device).unwrap();
            for (batch, tokens) in [(2, 3), (1, 1), (0, 4), (3, 0)] {
                let shape = [batch, tokens, in_features];
                let input = Tensor::<3>::ones(shape, &device);
                let output = layer.forward(input.clone());
                assert_eq!(output.dims(), [batch, tokens, out_features]);
                if batch * tokens > 0 {
                    let rows = layer.forward(input.reshape([batch * tokens, in_features]));
                    assert_eq!(values(output).0, values(rows).0, "{structure}");
                }
            }
            let vector = layer.forward(Tensor::<1>::ones([in_features], &device));
            assert_eq!(vector.dims(), [out_features]);
        }
    }
}

#[test]
fn an_input_that_is_not_contiguous_gives_the_same_output() {
    for device in devices() {
        for (structure, in_features, out_features) in structures() {
            let case = Case {
                structure,
                in_features,
                out_features,
                tokens: 37,
                biased: true,
            };
            let operands: Vec<Operand> = case
                .operands(5)
                .iter()
                .map(|values| Operand::new(values, &device, DType::F32))
                .collect();
            let expected = values(case.operation(&operands)).0;

            // The same values behind a transposition and behind a cut through a wider tensor.
            let input = operands[0].matrix();
            let (columns, _) = values(input.clone().transpose());
            let columns = Operand::new(&(columns, vec![in_features, 37]), &device, DType::F32);
            let transposed = columns.matrix().transpose();
            let wide = Tensor::cat(vec![input.clone(), input.clone()], 1);
            let cut = wide.slice([0..37, in_features..2 * in_features]);
            for input in [transposed, cut] {
                let mut operands = operands.clone();
                operands[0] = Operand::Matrix(input);
                let found = values(case.operation(&operands)).0;
                assert!(
                    relative_error(&found, &expected) < 1e-6,
                    "{case:?} on {device:?}"
                );
            }
        }
    }
}

#[test]
fn a_new_layer_has_outputs_of_variance_one_third() {
    for device in devices() {
        device.seed(3);
        for structure in [
            Structure::LowRank { rank: 64 },
            Structure::Monarch {
                blocks: 4,
                rank: 64,
                order: burn_blr::OutputOrder::Contiguous,
            },
            Structure::Blast {
                blocks: 4,
                rank: 64,
            },
        ] {
            let layer = BlrLinear::init(structure, 256, 192, false, &device).unwrap();
            let normal = burn::tensor::Distribution::Normal(0.0, 1.0);
            let input = Tensor::<2>::random([512, 256], normal, &device);
            let (output, _) = values(layer.forward(input));
            let variance = output.iter().map(|y| y * y).sum::<f64>() / output.len() as f64;
            assert!(
                (0.25..0.42).contains(&variance),
                "{structure}: variance {variance}"
            );
        }
    }
}

#[test]
#[should_panic(expected = "must be 24 features")]
fn a_wrong_width_is_named() {
    let device = burn::tensor::Device::flex();
    let layer = BlastLinearConfig::new(24, 12, 2, 3).init(&device).unwrap();
    layer.forward(Tensor::<2>::ones([5, 20], &device));
}
