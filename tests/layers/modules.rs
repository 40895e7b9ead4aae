use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, FloatDType, Gradients, Tensor};
use burn_blr::{
    Activation, BlastLinear, BlrError, BlrLinear, LowRankLinear, Merge, MonarchLinear, OutputOrder,
    Structure, ops,
};

use crate::case::{ACTIVATIONS, relative_error, structures, values};
use crate::devices::devices;

#[test]
fn the_dense_form_gives_the_same_output() {
    for device in devices() {
        for (structure, in_features, out_features) in structures() {
            let layer =
                BlrLinear::init(structure, in_features, out_features, false, &device).unwrap();
            let normal = burn::tensor::Distribution::Normal(0.0, 1.0);
            let input = Tensor::<2>::random([29, in_features], normal, &device);
            let dense = layer.to_dense();
            assert_eq!(dense.dims(), [out_features, in_features]);
            let cpu = Device::flex();
            let expected = input
                .clone()
                .to_device(&cpu)
                .matmul(dense.to_device(&cpu).transpose());
            let (found, _) = values(layer.forward(input));
            // `to_dense` uses the backend's own product, which may round to tf32.
            let error = relative_error(&found, &values(expected).0);
            assert!(error < 2e-3, "{structure} on {device:?}: {error:e}");
        }
    }
}

#[test]
fn a_layer_applies_an_activation_to_its_output() {
    for device in devices() {
        let mut all = structures();
        all.push((Structure::Dense, 24, 40));
        for (structure, in_features, out_features) in all {
            let layer =
                BlrLinear::init(structure, in_features, out_features, true, &device).unwrap();
            let normal = burn::tensor::Distribution::Normal(0.0, 1.0);
            let input = Tensor::<3>::random([2, 5, in_features], normal, &device);
            for activation in ACTIVATIONS {
                let found = layer.forward_with(input.clone(), activation, None);
                assert_eq!(found.dims(), [2, 5, out_features]);
                let expected = ops::activate(layer.forward(input.clone()), activation);
                let error = relative_error(&values(found).0, &values(expected).0);
                assert!(
                    error < 1e-6,
                    "{structure} {activation:?} on {device:?}: {error:e}"
                );
            }
            let other = Tensor::<3>::random([2, 5, out_features], normal, &device);
            let activated = ops::activate(layer.forward(input.clone()), Activation::Silu);
            for (merge, expected) in [
                (Merge::Times, activated.clone() * other.clone()),
                (Merge::Plus, activated + other.clone()),
            ] {
                let merged = Some((merge, other.clone()));
                let found = layer.forward_with(input.clone(), Activation::Silu, merged);
                let error = relative_error(&values(found).0, &values(expected).0);
                assert!(
                    error < 1e-6,
                    "{structure} {merge:?} on {device:?}: {error:e}"
                );
            }
        }
    }
}

#[test]
fn layers_of_one_input_are_joined() {
    for device in devices() {
        let mut all = structures();
        all.push((Structure::Dense, 24, 40));
        for (structure, in_features, out_features) in all {
            for bias in [false, true] {
                let layer = || {
                    BlrLinear::init(structure, in_features, out_features, bias, &device).unwrap()
                };
                let (query, key, value) = (layer(), layer(), layer());
                let layers = [&query, &key, &value];
                let joined = BlrLinear::join(&layers);
                if matches!(
                    structure,
                    Structure::Monarch {
                        order: OutputOrder::Interleaved,
                        ..
                    }
                ) {
                    assert!(joined.is_none());
                    continue;
                }
                let joined = joined.unwrap();
                assert_eq!(joined.features(), (in_features, 3 * out_features));
                assert_eq!(joined.parameters(), 3 * query.parameters(), "{structure}");
                assert_eq!(joined.num_params(), joined.parameters());
                assert_eq!(joined.flops(7), 3 * query.flops(7));
                let normal = burn::tensor::Distribution::Normal(0.0, 1.0);
                for tokens in [1, 33] {
                    let input = Tensor::<3>::random([1, tokens, in_features], normal, &device);
                    let apart = layers.map(|layer| layer.forward(input.clone()));
                    let apart = Tensor::cat(apart.to_vec(), 2);
                    let found = joined.forward_with(input, Activation::Silu, None);
                    let expected = ops::activate(apart, Activation::Silu);
                    let error = relative_error(&values(found).0, &values(expected).0);
                    assert!(error < 1e-5, "{structure} on {device:?}: {error:e}");
                }
                let dense = Tensor::cat(layers.map(BlrLinear::to_dense).to_vec(), 0);
                let error = relative_error(&values(joined.to_dense()).0, &values(dense).0);
                assert!(error < 1e-5, "{structure} on {device:?}: {error:e}");
                let input = Tensor::<2>::random([5, in_features], normal, &device);
                let pair = BlrLinear::join(&[&query, &key]).unwrap();
                let found = pair.forward_gated(input.clone(), Activation::Silu);
                let gate = query.forward_with(input.clone(), Activation::Silu, None);
                let error = relative_error(&values(found).0, &values(gate * key.forward(input)).0);
                assert!(error < 1e-5, "{structure} on {device:?}: {error:e}");
                // A joined one is not joined again, nor with a layer that differs.
                let other = layer().with_bias(None).unwrap();
                assert!(joined.layers() == 1 || BlrLinear::join(&[&joined, &joined]).is_none());
                assert_eq!(BlrLinear::join(&[&query, &other]).is_none(), bias);
            }
        }
    }
}

#[test]
fn joined_layers_have_the_gradients_of_each() {
    let device = Device::flex().autodiff();
    for (structure, in_features, out_features) in structures() {
        let layer = || BlrLinear::init(structure, in_features, out_features, false, &device);
        let (query, key) = (layer().unwrap(), layer().unwrap());
        let Some(joined) = BlrLinear::join(&[&query, &key]) else {
            continue;
        };
        let normal = burn::tensor::Distribution::Normal(0.0, 1.0);
        let input = Tensor::<2>::random([5, in_features], normal, &device);
        let weights = Tensor::<2>::random([5, 2 * out_features], normal, &device);
        // One graph for each gradient.
        let gradient = |layers: &dyn Fn(Tensor<2>) -> Tensor<2>| {
            let input = input.clone().detach().require_grad();
            let output = layers(input.clone());
            let [tokens, features] = output.dims();
            let weights = weights.clone().slice([0..tokens, 0..features]);
            let gradients = (output * weights).sum().backward();
            values(input.grad(&gradients).unwrap()).0
        };
        let side_by_side = gradient(&|input| {
            let apart = [&query, &key].map(|layer| layer.forward(input.clone()));
            Tensor::cat(apart.to_vec(), 1)
        });
        let found = gradient(&|input| joined.forward(input));
        let error = relative_error(&found, &side_by_side);
        assert!(error < 1e-5, "{structure}: {error:e}");
        let gated = gradient(&|input| {
            let gate = query.forward_with(input.clone(), Activation::Silu, None);
            gate * key.forward(input)
        });
        let found = gradient(&|input| joined.forward_gated(input, Activation::Silu));
        let error = relative_error(&found, &gated);
        assert!(error < 1e-5, "{structure} gated: {error:e}");
    }
}

#[test]
fn counts_are_those_of_the_module() {
    let device = Device::flex();
    for (structure, in_features, out_features) in structures() {
        for bias in [false, true] {
            let layer =
                BlrLinear::init(structure, in_features, out_features, bias, &device).unwrap();
            assert_eq!(layer.num_params(), layer.parameters(), "{structure}");
            assert_eq!(layer.bytes(), 4 * layer.parameters());
            assert_eq!(layer.structure(), structure);
            assert_eq!(layer.features(), (in_features, out_features));
            let per_token = layer.flops(1);
            assert_eq!(layer.flops(17), 17 * per_token);
        }
    }
    let dense = BlrLinear::init(Structure::Dense, 8, 6, true, &device).unwrap();
    assert_eq!((dense.parameters(), dense.flops(2)), (54, 2 * (2 * 48 + 6)));
    assert_eq!(dense.compression_ratio(), 1.0);
}

#[test]
fn a_layer_takes_the_bias_of_another_and_refuses_one_of_another_length() {
    let device = Device::flex();
    for (structure, in_features, out_features) in structures() {
        let layer = BlrLinear::init(structure, in_features, out_features, false, &device).unwrap();
        assert!(layer.bias().is_none());
        let input = Tensor::<2>::ones([3, in_features], &device);
        let bias = Tensor::<1>::ones([out_features], &device) * 2.5;
        let without = layer.forward(input.clone());
        let biased = layer.with_bias(Some(bias.clone())).unwrap();
        assert_eq!(biased.bias().unwrap().into_data(), bias.into_data());
        let difference = biased.forward(input) - without;
        let (found, _) = values(difference);
        assert!(found.iter().all(|value| (value - 2.5).abs() < 1e-4));
        let longer = Tensor::<1>::ones([out_features + 1], &device);
        let refused = biased.clone().with_bias(Some(longer)).map(drop);
        assert!(
            matches!(refused, Err(BlrError::FactorShape { factor: "bias", .. })),
            "{refused:?}"
        );
        assert!(!biased.with_bias(None).unwrap().has_bias());
    }
}

#[test]
fn layers_made_on_a_plain_device_get_gradients_once_they_are_trained() {
    let device = Device::flex();
    for (structure, in_features, out_features) in structures() {
        let made = BlrLinear::random(
            structure,
            in_features,
            out_features,
            true,
            FloatDType::F32,
            &device,
        );
        let layer = made.unwrap().train();
        let output = layer.forward(Tensor::<2>::ones(
            [3, in_features],
            &device.clone().autodiff(),
        ));
        let gradients = output.sum().backward();
        let mut missing = Vec::new();
        layer.visit(&mut WithoutGradient(&gradients, &mut missing));
        assert!(missing.is_empty(), "{structure}: {missing:?}");
    }
}

/// Collects the shapes of the parameters that got no gradient.
struct WithoutGradient<'a>(&'a Gradients, &'a mut Vec<Vec<usize>>);

impl ModuleVisitor for WithoutGradient<'_> {
    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        if parameter.val().grad(self.0).is_none() {
            self.1.push(parameter.dims().to_vec());
        }
    }
}

#[test]
fn factors_that_do_not_fit_are_refused_by_name() {
    let device = Device::flex();
    let zeros2 = |shape: [usize; 2]| Tensor::<2>::zeros(shape, &device);
    let zeros3 = |shape: [usize; 3]| Tensor::<3>::zeros(shape, &device);
    let refused = |error: Result<(), BlrError>, factor: &str| match error {
        Err(BlrError::FactorShape { factor: found, .. }) => assert_eq!(found, factor),
        other => panic!("{other:?}"),
    };
    refused(
        LowRankLinear::from_factors(zeros2([6, 3]), zeros2([2, 8]), None).map(drop),
        "v",
    );
    let contiguous = OutputOrder::Contiguous;
    refused(
        MonarchLinear::from_factors(zeros3([2, 4, 5]), zeros3([2, 5, 3]), contiguous, None)
            .map(drop),
        "left",
    );
    let blast = |s, v| BlastLinear::from_factors(zeros3([2, 4, 3]), zeros3(s), zeros3(v), None);
    refused(blast([2, 3, 3], [2, 3, 5]).map(drop), "s");
    refused(blast([2, 2, 3], [2, 4, 5]).map(drop), "v");
    let bias = Some(Tensor::<1>::zeros([7], &device));
    refused(
        LowRankLinear::from_factors(zeros2([6, 3]), zeros2([3, 8]), bias).map(drop),
        "bias",
    );
    // Part widths of a Monarch factor: 4 blocks do not divide a rank of 6.
    let monarch =
        MonarchLinear::from_factors(zeros3([4, 6, 5]), zeros3([4, 5, 6]), contiguous, None);
    assert!(matches!(monarch, Err(BlrError::Kernel(_))));
}

#[test]
fn a_layer_prints_its_sizes() {
    let device = Device::flex();
    let layer =
        BlrLinear::init(Structure::Blast { blocks: 2, rank: 3 }, 8, 6, true, &device).unwrap();
    let text = format!("{layer}");
    for part in [
        "in_features: 8",
        "out_features: 6",
        "blocks: 2",
        "rank: 3",
        "bias: true",
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
}
