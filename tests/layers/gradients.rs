use burn::tensor::{DType, Device, Gradients, Tensor};
use burn_blr::{BlrLinear, ops};

use crate::case::{
    ACTIVATIONS, Case, Operand, Values, allowed, relative_error, structures, values,
};
use crate::devices::{cuda, devices};

/// A scalar that depends on every output in its own way.
fn scalar(output: Tensor<2>) -> Tensor<1> {
    let [tokens, features] = output.dims();
    let weights = (0..tokens * features).map(|k| ((k * 7919 % 101) as f64 - 50.0) / 50.0);
    let weights = (weights.collect(), vec![tokens, features]);
    let weights = Operand::new(&weights, &output.device(), output.dtype()).matrix();
    (output * weights).sum()
}

fn gradient(operand: &Operand, gradients: &Gradients) -> Values {
    match operand {
        Operand::Flat(tensor) => values(tensor.grad(gradients).unwrap()),
        Operand::Matrix(tensor) => values(tensor.grad(gradients).unwrap()),
        Operand::Blocks(tensor) => values(tensor.grad(gradients).unwrap()),
    }
}

fn gradients(
    operands: &[Values],
    device: &Device,
    dtype: DType,
    product: impl Fn(&[Operand]) -> Tensor<2>,
) -> Vec<Values> {
    let device = device.clone().autodiff();
    let operands: Vec<Operand> = operands
        .iter()
        .map(|values| Operand::new(values, &device, dtype).require_grad())
        .collect();
    let all = scalar(product(&operands)).backward();
    operands
        .iter()
        .map(|operand| gradient(operand, &all))
        .collect()
}

#[test]
fn gradients_equal_those_of_autodiff_through_the_plain_composition() {
    for device in devices() {
        for (structure, in_features, out_features) in structures() {
            for (tokens, biased) in [(1, true), (53, false), (131, true)] {
                let case = Case {
                    structure,
                    in_features,
                    out_features,
                    tokens,
                    biased,
                };
                let operands = case.operands(11);
                let own = gradients(&operands, &device, DType::F32, |x| case.operation(x));
                // The plain path runs on the CPU: a GPU may round its products to tf32.
                let cpu = Device::flex();
                let plain = gradients(&operands, &cpu, DType::F32, |x| case.composition(x));
                for (index, (own, plain)) in own.iter().zip(&plain).enumerate() {
                    assert_eq!(
                        own.1, operands[index].1,
                        "the gradient has its operand's shape"
                    );
                    let error = relative_error(&own.0, &plain.0);
                    assert!(
                        error < 2e-6,
                        "{case:?} operand {index} on {device:?}: {error:e}"
                    );
                }
            }
        }
    }
}

type Through = Box<dyn Fn(Tensor<2>) -> Tensor<2>>;

/// How often the gradient of an input is another than the first time, through operations on what nothing
/// else refers to. A backward pass removes what is left over of all graphs, other threads' included.
fn rounds_that_differ(through: Through, width: usize) -> usize {
    let device = Device::flex().autodiff();
    let normal = burn::tensor::Distribution::Normal(0.0, 1.0);
    let input = Tensor::<2>::random([5, width], normal, &device).require_grad();
    let gradient = || {
        let gradients = scalar(through(input.clone() * 1.5)).backward();
        input.grad(&gradients).map(|gradient| values(gradient).0)
    };
    let first = gradient();
    let differ = |found: Option<Vec<f64>>| match (&found, &first) {
        (Some(found), Some(first)) => relative_error(found, first) > 1e-6,
        _ => true,
    };
    (0..200).filter(|_| differ(gradient())).count()
}

#[test]
fn gradients_are_the_same_in_several_threads() {
    // Each thread has weights of its own, as each device has in training.
    let check = |what: &str, width: usize, through: &(dyn Fn() -> Through + Sync)| {
        let differ: Vec<usize> = std::thread::scope(|scope| {
            let thread = || scope.spawn(|| rounds_that_differ(through(), width));
            let threads: Vec<_> = (0..4).map(|_| thread()).collect();
            let count = |thread: std::thread::ScopedJoinHandle<'_, usize>| thread.join().unwrap();
            threads.into_iter().map(count).collect()
        });
        assert_eq!(differ, [0; 4], "{what}");
    };
    for (structure, in_features, out_features) in structures() {
        check(&structure.to_string(), in_features, &|| {
            let device = Device::flex().autodiff();
            let layer = BlrLinear::init(structure, in_features, out_features, true, &device);
            let layer = layer.unwrap();
            Box::new(move |input| layer.forward(input))
        });
    }
    check("concatenate", 8, &|| {
        Box::new(|input| ops::concatenate(vec![input.clone().tanh(), input.exp()], 1))
    });
}

#[test]
fn gradients_go_through_the_activation() {
    for device in devices() {
        for (structure, in_features, out_features) in structures() {
            let case = Case {
                structure,
                in_features,
                out_features,
                tokens: 19,
                biased: true,
            };
            let operands = case.operands(13);
            for activation in ACTIVATIONS {
                let own = gradients(&operands, &device, DType::F32, |x| {
                    case.activated(x, activation)
                });
                let cpu = Device::flex();
                let plain = gradients(&operands, &cpu, DType::F32, |x| {
                    ops::activate(case.composition(x), activation)
                });
                for (index, (own, plain)) in own.iter().zip(&plain).enumerate() {
                    let error = relative_error(&own.0, &plain.0);
                    assert!(
                        error < 4e-6,
                        "{case:?} {activation:?} operand {index} on {device:?}: {error:e}"
                    );
                }
            }
        }
    }
}

#[test]
fn gradients_equal_central_differences_in_f64() {
    const STEP: f64 = 1e-5;
    let device = Device::flex();
    for (structure, in_features, out_features) in structures() {
        let case = Case {
            structure,
            in_features,
            out_features,
            tokens: 3,
            biased: true,
        };
        let operands = case.operands(23);
        let own = gradients(&operands, &device, DType::F64, |x| case.operation(x));
        let loss = |operands: &[Values]| {
            let operands: Vec<Operand> = operands
                .iter()
                .map(|values| Operand::new(values, &device, DType::F64))
                .collect();
            values(scalar(case.operation(&operands))).0[0]
        };
        for index in 0..operands.len() {
            let count = operands[index].0.len();
            for entry in (0..count).step_by((count / 5).max(1)) {
                let at = |shift: f64| {
                    let mut moved = operands.clone();
                    moved[index].0[entry] += shift;
                    loss(&moved)
                };
                let difference = (at(STEP) - at(-STEP)) / (2.0 * STEP);
                let found = own[index].0[entry];
                assert!(
                    (found - difference).abs() < 1e-7 * (1.0 + difference.abs()),
                    "{case:?} operand {index} entry {entry}: {found} against {difference}"
                );
            }
        }
    }
}

#[test]
fn only_tracked_operands_get_a_gradient() {
    let device = Device::flex().autodiff();
    for (structure, in_features, out_features) in structures() {
        let case = Case {
            structure,
            in_features,
            out_features,
            tokens: 4,
            biased: true,
        };
        let values = case.operands(3);
        for tracked in 0..values.len() {
            let operands: Vec<Operand> = values
                .iter()
                .enumerate()
                .map(|(index, values)| {
                    let operand = Operand::new(values, &device, DType::F32);
                    if index == tracked {
                        operand.require_grad()
                    } else {
                        operand
                    }
                })
                .collect();
            let gradients = scalar(case.operation(&operands)).backward();
            for (index, operand) in operands.iter().enumerate() {
                let found = match operand {
                    Operand::Flat(tensor) => tensor.grad(&gradients).is_some(),
                    Operand::Matrix(tensor) => tensor.grad(&gradients).is_some(),
                    Operand::Blocks(tensor) => tensor.grad(&gradients).is_some(),
                };
                assert_eq!(
                    found,
                    index == tracked,
                    "{case:?}: operand {index} of {tracked}"
                );
            }
        }
    }
}

#[test]
fn half_precision_gradients_on_a_gpu_are_as_close_to_f64_as_plain_ones() {
    let Some(device) = cuda() else { return };
    let cpu = Device::flex();
    for (structure, in_features, out_features) in structures() {
        for dtype in [DType::F16, DType::BF16] {
            let case = Case {
                structure,
                in_features,
                out_features,
                tokens: 67,
                biased: false,
            };
            let rounded: Vec<Values> = case
                .operands(31)
                .iter()
                .map(|values| Operand::new(values, &cpu, dtype).values())
                .collect();
            let exact = gradients(&rounded, &cpu, DType::F64, |x| case.composition(x));
            let own = gradients(&rounded, &device, dtype, |x| case.operation(x));
            let plain = gradients(&rounded, &device, dtype, |x| case.composition(x));
            for index in 0..exact.len() {
                let error = |found: &[Values]| relative_error(&found[index].0, &exact[index].0);
                let (own, plain) = (error(&own), error(&plain));
                assert!(
                    own <= allowed(plain, dtype, 3.0),
                    "{case:?} {dtype:?} operand {index}: {own:e}, plain {plain:e}"
                );
            }
        }
    }
}
