//! DiT against the official code, on the cases that `tests/reference/make_dit.py` made.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};
use burn_blr::{Method, OutputOrder, Structure};
use models::{
    AnyLanguageModel, Checkpoint, DiffusionSampler, DiffusionSchedule, Dit, DitConfig, ModelError,
    NoiseSource, Plan, SampleOptions, Trajectory, linear_layers, sample_images,
};
use rstest::rstest;
use serde_json::{Value, json};

use crate::devices::devices;
use crate::reference_case::{CaseCopy, Expected, cases, root};
use crate::tiny_gpt2::{host, max_difference};

/// Of the largest value, which was computed in `f64`: what `f32` rounds here, and the sines of the
/// timesteps, which the official code has in `f32` too.
const TOLERANCE: f32 = 2e-5;

/// On CUDA, Burn's dense products round their operands to tf32, which has 11 bits.
const TF32_TOLERANCE: f32 = 1e-2;

fn tolerance(device: &Device) -> f32 {
    match *device == Device::flex() {
        true => TOLERANCE,
        false => TF32_TOLERANCE,
    }
}

fn load(case: &Path, device: &Device, dtype: FloatDType) -> Dit {
    let checkpoint = Checkpoint::open(case).unwrap_or_else(|error| panic!("{error}"));
    Dit::load(&checkpoint, device, dtype).unwrap_or_else(|error| panic!("{error}"))
}

fn on_cpu(case: &Path) -> Dit {
    load(case, &Device::flex(), FloatDType::F32)
}

/// An image tensor of the case.
fn images(model: &Dit, values: Vec<f32>) -> Tensor<4> {
    let (channels, size) = (model.config().in_channels, model.config().input_size);
    let count = values.len() / (channels * size * size);
    let data = TensorData::new(values, [count, channels, size, size]);
    Tensor::from_data(data, (&model.device(), DType::F32))
}

fn forward(model: &Dit, expected: &Expected) -> Vec<f32> {
    let x = images(model, expected.floats("x").unwrap());
    let t = model.timesteps(&expected.list("t").unwrap());
    let y = model.classes(&expected.list("y").unwrap()).unwrap();
    host(model.forward(x, t, y).unwrap())
}

/// The largest difference, relative to the largest expected value.
fn relative(found: &[f32], expected: &[f32]) -> f32 {
    let scale = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
    max_difference(found, expected) / scale
}

#[test]
fn predictions_equal_those_of_the_official_code() {
    for device in devices() {
        for case in cases("dit") {
            let expected = Expected::of(&case);
            let model = load(&case, &device, FloatDType::F32);
            let error = relative(
                &forward(&model, &expected),
                &expected.floats("sample").unwrap(),
            );
            assert!(
                error < tolerance(&device),
                "{} on {device:?}: {error:e}",
                case.display()
            );
        }
    }
}

#[rstest]
#[case::f16(FloatDType::F16, 11)]
#[case::bf16(FloatDType::BF16, 8)]
fn half_precision_stays_within_rounding(#[case] dtype: FloatDType, #[case] bits: i32) {
    for device in devices() {
        for case in cases("dit") {
            let expected = Expected::of(&case);
            let model = load(&case, &device, dtype);
            assert_eq!(model.labels.weight.dtype(), dtype.into());
            let error = relative(
                &forward(&model, &expected),
                &expected.floats("sample").unwrap(),
            );
            let allowed = 16.0 * 2f32.powi(-bits);
            assert!(
                error > 0.0 && error < allowed,
                "{} on {device:?}: {error} of {allowed}",
                case.display()
            );
        }
    }
}

#[rstest]
#[case::ddim(DiffusionSampler::Ddim, "ddim", 4)]
#[case::ddpm(DiffusionSampler::Ddpm, "ddpm", 3)]
fn trajectories_equal_those_of_the_official_code(
    #[case] sampler: DiffusionSampler,
    #[case] name: &str,
    #[case] steps: usize,
) {
    let mut compared = 0;
    for device in devices() {
        for case in cases("dit") {
            let expected = Expected::of(&case);
            let Some(end) = expected.floats(name) else {
                continue;
            };
            let model = load(&case, &device, FloatDType::F32);
            let options = SampleOptions {
                classes: Vec::new(),
                sampler,
                steps,
                guidance: f64::from(expected.floats("guidance").unwrap()[0]),
                seed: 0,
                capture: false,
            };
            let classes = expected.list("classes").unwrap();
            let mut x = images(&model, expected.floats("noise").unwrap());
            let pixels = x.dims().iter().product();
            let drawn = expected.floats("ddpm_noise").unwrap();
            let mut drawn = drawn.chunks(pixels);
            let mut way = Trajectory::new(&model, &classes, &options).unwrap();
            let mut needed = 0;
            while !way.is_empty() {
                needed += usize::from(way.needs_noise());
                let noise = drawn.next().map(|noise| images(&model, noise.to_vec()));
                x = way.step(x, noise).unwrap();
            }
            assert_eq!(needed, if name == "ddpm" { steps - 1 } else { 0 });
            // A step early on amplifies what it is given.
            let error = relative(&host(x), &end);
            let allowed = 5.0 * tolerance(&device);
            assert!(
                error < allowed,
                "{} on {device:?}: {error:e}",
                case.display()
            );
            compared += 1;
        }
    }
    assert!(compared >= 2);
}

#[test]
fn computed_positions_are_those_that_are_stored() {
    for name in ["latent", "pixel_rgb"] {
        let case = root("dit").join(name);
        let stored = Checkpoint::open(&case)
            .unwrap()
            .floats("pos_embed")
            .unwrap();
        let (expected, copy) = (Expected::of(&case), CaseCopy::new("dit", name));
        copy.drop_tensor("pos_embed");
        let model = on_cpu(copy.path());
        let found = forward(&model, &expected);
        let error = relative(&found, &expected.floats("sample").unwrap());
        assert!(error < TOLERANCE, "{name}: {error:e}");
        assert!(stored.iter().any(|x| *x != 0.0));
    }
}

fn options(seed: u64, classes: &[i64]) -> SampleOptions {
    SampleOptions {
        classes: classes.to_vec(),
        sampler: DiffusionSampler::Ddpm,
        steps: 3,
        guidance: 2.0,
        seed,
        capture: false,
    }
}

#[test]
fn a_seed_gives_the_same_images() {
    let model = on_cpu(&root("dit").join("pixel_rgb"));
    let draw = |options: &SampleOptions| host(sample_images(&model, options, |_, _| ()).unwrap());
    let first = draw(&options(5, &[1, 2]));
    assert_eq!(first, draw(&options(5, &[1, 2])));
    assert_ne!(first, draw(&options(6, &[1, 2])));
    // An image does not depend on its neighbours, nor on the batch that it is in.
    let many: Vec<i64> = [1, 2].into_iter().cycle().take(9).collect();
    let mut steps = Vec::new();
    let drawn = sample_images(&model, &options(5, &many), |done, of| {
        steps.push((done, of))
    });
    let drawn = host(drawn.unwrap());
    assert!(relative(&drawn[..first.len()], &first) < TOLERANCE);
    let last = &drawn[8 * first.len() / 2..];
    assert!(relative(last, &first[..first.len() / 2]) > 0.1);
    assert_eq!(steps.len(), 6);
    assert_eq!(steps.last(), Some(&(6, 6)));
}

#[test]
fn noise_is_normal() {
    let drawn = NoiseSource::new(3, 0).draw(20_001);
    let count = drawn.len() as f64;
    let moment = |power: i32| {
        let powers = drawn.iter().map(|&x| f64::from(x).powi(power));
        powers.sum::<f64>() / count
    };
    // Within four standard deviations of the mean of that many.
    for (power, expected, variance) in
        [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)]
    {
        let allowed = 4.0 * (variance / count).sqrt();
        let found = moment(power);
        assert!((found - expected).abs() < allowed, "{power}: {found}");
    }
    assert_ne!(drawn[..9], NoiseSource::new(3, 1).draw(9)[..]);
}

#[test]
fn guidance_of_one_is_the_prediction_with_the_class() {
    let copy = CaseCopy::new("dit", "latent");
    let model = on_cpu(copy.path());
    let mut plain = options(1, &[4]);
    plain.guidance = 1.0;
    let mut near = plain.clone();
    near.guidance = 1.0 + 1e-7;
    let draw = |options: &SampleOptions| host(sample_images(&model, options, |_, _| ()).unwrap());
    assert!(relative(&draw(&near), &draw(&plain)) < TOLERANCE);
    assert!(relative(&draw(&options(1, &[4])), &draw(&plain)) > 1e-3);
}

#[test]
fn what_cannot_be_drawn_is_refused() {
    let model = on_cpu(&root("dit").join("latent"));
    let refused = |edit: &dyn Fn(&mut SampleOptions)| {
        let mut options = options(0, &[1]);
        edit(&mut options);
        sample_images(&model, &options, |_, _| ()).expect_err("should be refused")
    };
    for class in [-1, 10, 11] {
        assert!(matches!(
            refused(&|options| options.classes = vec![0, class]),
            ModelError::ClassOutOfRange { found, position: 1, max: 9 } if found == class
        ));
    }
    let invalid = |edit: &dyn Fn(&mut SampleOptions), option: &str| {
        let error = refused(edit);
        assert!(
            matches!(&error, ModelError::InvalidOption { option: found, .. } if *found == option),
            "{error}"
        );
    };
    invalid(&|options| options.classes.clear(), "class");
    invalid(&|options| options.steps = 0, "steps");
    invalid(&|options| options.steps = 1001, "steps");
    invalid(&|options| options.guidance = f64::NAN, "guidance");
    // The null class is one for `forward`, and no class past it.
    assert!(model.classes(&[10]).is_ok());
    assert!(matches!(
        model.classes(&[3, 11]),
        Err(ModelError::ClassOutOfRange {
            found: 11,
            position: 1,
            max: 10
        })
    ));
    let device = model.device();
    let x = Tensor::zeros([1, 4, 8, 6], &device);
    let error = model.forward(x, model.timesteps(&[1]), model.classes(&[1]).unwrap());
    assert!(matches!(
        error,
        Err(ModelError::InputShape { tensor: "x", .. })
    ));
    let x = Tensor::zeros([2, 4, 8, 8], &device);
    let error = model.forward(x, model.timesteps(&[1]), model.classes(&[1, 2]).unwrap());
    assert!(matches!(
        error,
        Err(ModelError::InputShape { tensor: "t", .. })
    ));
}

#[test]
fn a_model_without_a_null_class_is_drawn_without_guidance() {
    let config = DitConfig {
        class_dropout_prob: 0.0,
        ..tiny()
    };
    let model = Dit::init(&config, None, &Device::flex(), FloatDType::F32).unwrap();
    assert_eq!(model.labels.weight.dims(), [10, 48]);
    let mut options = options(0, &[9]);
    let error = sample_images(&model, &options, |_, _| ()).unwrap_err();
    assert!(matches!(error, ModelError::NoNullClass { .. }), "{error}");
    options.guidance = 1.0;
    assert_eq!(
        sample_images(&model, &options, |_, _| ()).unwrap().dims(),
        [1, 4, 8, 8]
    );
}

fn tiny() -> DitConfig {
    DitConfig {
        input_size: 8,
        hidden_size: 48,
        depth: 2,
        num_heads: 4,
        num_classes: 10,
        ..DitConfig::dit_xl_2()
    }
}

#[test]
fn steps_are_those_of_the_official_respacing() {
    let timesteps = |steps| -> Vec<usize> {
        let schedule = DiffusionSchedule::new(steps).unwrap();
        schedule.steps().iter().map(|step| step.timestep).collect()
    };
    // space_timesteps(1000, str(steps)) of the official code.
    assert_eq!(timesteps(1), [0]);
    assert_eq!(timesteps(4), [0, 333, 666, 999]);
    assert_eq!(timesteps(7), [0, 166, 333, 500, 666, 832, 999]);
    assert_eq!(timesteps(1000), (0..1000).collect::<Vec<_>>());
    let steps = DiffusionSchedule::new(1000).unwrap();
    assert!((steps.steps()[0].beta() - 1e-4).abs() < 1e-12);
    assert!((steps.steps()[999].beta() - 0.02).abs() < 1e-12);
}

#[test]
fn the_preset_replaces_three_layers_of_each_block() {
    let layers = DitConfig::dit_xl_2().linear_layers();
    assert_eq!(layers.len(), 28 * 5);
    for method in [Method::LowRank, Method::Monarch, Method::Blast] {
        let plan = Plan::preset("dit_xl", method).unwrap();
        let resolved = plan.resolve(&layers).unwrap();
        assert_eq!(resolved.len(), 28 * 3);
        for (layer, structure) in resolved {
            let (rank, monarch_rank) = match layer.name.ends_with("attn.qkv") {
                true => (384, 378),
                false => (256, 252),
            };
            let expected = match method {
                Method::LowRank => Structure::LowRank { rank },
                Method::Monarch => Structure::Monarch {
                    blocks: 9,
                    rank: monarch_rank,
                    order: OutputOrder::Contiguous,
                },
                Method::Blast => Structure::Blast { blocks: 9, rank },
            };
            assert_eq!(structure, expected, "{}", layer.name);
        }
    }
}

#[test]
fn the_published_sizes_have_their_numbers_of_parameters() {
    // Table 4 of the paper, in millions: those of an official checkpoint but for its positions.
    for (name, millions) in [
        ("DiT-S/2", 33),
        ("DiT-B/2", 130),
        ("DiT-L/2", 458),
        ("DiT-XL/2", 675),
        ("DiT-XL/8", 676),
    ] {
        let config = DitConfig::named(name).unwrap();
        let h = config.hidden_size;
        let patch = config.patch_size * config.patch_size;
        let blocks: usize = config
            .linear_layers()
            .iter()
            .map(|layer| layer.parameters() + layer.out_features)
            .sum();
        let embeddings = (4 * patch + 1) * h + 257 * h + (h + 1) * h + 1001 * h;
        let last = (h + 1) * 2 * h + (h + 1) * patch * 8;
        let found = (blocks + embeddings + last) as f64 / 1e6;
        assert!((found - f64::from(millions)).abs() < 1.0, "{name}: {found}");
    }
    assert!(matches!(
        DitConfig::named("DiT-H/2"),
        Err(ModelError::UnknownPreset { .. })
    ));
}

#[rstest]
#[case("num_heads", json!(5), "a divisor of hidden_size 48")]
#[case("input_size", json!(9), "a multiple of patch_size 2")]
#[case("hidden_size", json!(46), "a multiple of 4")]
#[case("patch_size", json!(0), "a positive integer")]
#[case("class_dropout_prob", json!(1.5), "a share from 0 to 1")]
#[case("mlp_ratio", json!(0.001), "leaves the MLP a width")]
#[case("depth", json!(100_000), "at most 4096")]
fn configurations_that_cannot_be_used_are_refused(
    #[case] key: &str,
    #[case] value: Value,
    #[case] expected: &str,
) {
    let mut config = tiny().to_json();
    assert_eq!(
        DitConfig::from_json(&config, Path::new("config.json")).unwrap(),
        tiny()
    );
    config[key] = value;
    let error = DitConfig::from_json(&config, Path::new("config.json")).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(key) && text.contains(expected), "{text}");
}

#[test]
fn loading_is_strict() {
    let copy = CaseCopy::new("dit", "latent");
    let load = |edit: &dyn Fn(&mut Value)| {
        copy.edit_config(edit);
        let checkpoint = Checkpoint::open(copy.path()).unwrap();
        Dit::load(&checkpoint, &Device::flex(), FloatDType::F32).unwrap_err()
    };
    let error = load(&|config| config["depth"] = 1.into());
    assert!(matches!(error, ModelError::UnusedTensor { .. }), "{error}");
    let error = load(&|config| config["depth"] = 3.into());
    assert!(matches!(error, ModelError::MissingTensor { .. }), "{error}");
    let error = load(&|config| {
        config["depth"] = 2.into();
        config["num_classes"] = 9.into();
    });
    assert!(matches!(error, ModelError::TensorShape { .. }), "{error}");
    let checkpoint = Checkpoint::open(root("dit").join("latent")).unwrap();
    let error = AnyLanguageModel::load(&checkpoint, &Device::flex(), FloatDType::F32);
    assert!(matches!(error, Err(ModelError::WrongFamily { .. })));
    let other = Checkpoint::open(root("llama").join("mha")).unwrap();
    let error = Dit::load(&other, &Device::flex(), FloatDType::F32).unwrap_err();
    assert!(
        error.to_string().contains("expected a dit model"),
        "{error}"
    );
}

#[test]
fn layers_are_listed_in_the_order_of_the_model() {
    let checkpoint = Checkpoint::open(root("dit").join("latent")).unwrap();
    let layers = linear_layers(&checkpoint).unwrap();
    assert_eq!(layers.len(), 10);
    assert_eq!(layers[0].name, "blocks.0.attn.qkv");
    assert_eq!(layers[9].name, "blocks.1.adaLN_modulation.1");
    for layer in &layers {
        let stored = checkpoint.entry(&layer.weight_name()).unwrap();
        assert_eq!(stored.shape, layer.weight_shape());
    }
}

#[rstest]
#[case::dense(None)]
#[case::low_rank(Some(Method::LowRank))]
#[case::monarch(Some(Method::Monarch))]
#[case::blast(Some(Method::Blast))]
fn modulations_are_joined(#[case] method: Option<Method>) {
    let plan = method.map(|method| Plan::keep(method, 0.5));
    let device = Device::flex();
    let model = Dit::init(&tiny(), plan.as_ref(), &device, FloatDType::F32).unwrap();
    let parameters = model.num_params();
    let output = |model: &Dit| {
        let x = Tensor::<1, Int>::arange(0..2 * 4 * 64, &device).float();
        let x = (x * 0.37).sin().reshape([2, 4, 8, 8]);
        let y = model.classes(&[1, 10]).unwrap();
        host(model.forward(x, model.timesteps(&[5, 800]), y).unwrap())
    };
    let apart = output(&model);
    let joined = model.joined();
    assert!(joined.modulation.is_some());
    assert!(joined.blocks.iter().all(|block| block.modulation.is_none()));
    assert_eq!(joined.num_params(), parameters);
    assert!(max_difference(&output(&joined), &apart) < 1e-5);
}

#[rstest]
fn random_models_have_the_structures_of_their_plan(
    #[values(Method::LowRank, Method::Monarch, Method::Blast)] method: Method,
    #[values(FloatDType::F32, FloatDType::BF16)] dtype: FloatDType,
) {
    let plan = Plan::keep(method, 0.5);
    let device = Device::flex();
    let model = Dit::init(&tiny(), Some(&plan), &device, dtype).unwrap();
    let dense = Dit::init(&tiny(), None, &device, dtype).unwrap();
    for (block, dense) in model.blocks.iter().zip(&dense.blocks) {
        for (layer, dense) in [
            (
                block.attention.qkv.layers()[0],
                dense.attention.qkv.layers()[0],
            ),
            (&block.attention.proj, &dense.attention.proj),
            (&block.mlp.fc, &dense.mlp.fc),
            (&block.mlp.proj, &dense.mlp.proj),
            (
                block.modulation.as_ref().unwrap(),
                dense.modulation.as_ref().unwrap(),
            ),
        ] {
            assert_eq!(layer.structure().method(), Some(method));
            assert_eq!(layer.features(), dense.features());
            assert!(layer.parameters() < dense.parameters());
        }
    }
    let x = Tensor::ones([2, 4, 8, 8], &device);
    let y = model.classes(&[1, 10]).unwrap();
    let output = host(model.forward(x, model.timesteps(&[5, 800]), y).unwrap());
    assert_eq!(output.len(), 2 * 8 * 64);
    assert!(output.iter().all(|value| value.is_finite()));
    assert!(output.iter().any(|value| value.abs() > 1e-3));
}
