//! Vision transformers: against `transformers` and timm, joined layers, random weights, and what is
//! refused.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use burn_blr::{Method, OutputOrder, Structure};
use models::{
    AnyLanguageModel, Checkpoint, Family, LinearLayer, ModelError, Plan, Rule, Vit, VitConfig,
    VitNaming, linear_layers,
};
use rstest::rstest;
use safetensors::SafeTensors;
use serde_json::json;

use crate::devices::devices;
use crate::reference_case::{CaseCopy, cases, root};
use crate::tiny_gpt2::{TinyGpt2, host, max_difference};

/// The expected numbers were computed in `f64`; what timm interpolates, in `f32`. Logits are of order
/// one to four, relative to which this is below 1e-5.
const TOLERANCE: f32 = 2e-5;

/// On CUDA, Burn's dense products round their operands to tf32, which has 11 bits.
const TF32_TOLERANCE: f32 = 2e-2;

/// Pixels, their shape, and the logits of a case at one size.
struct Numbers {
    pixels: Vec<f32>,
    shape: [usize; 4],
    logits: Vec<f32>,
}

/// The numbers of a case by size; that of the model is "".
fn numbers(case: &Path) -> BTreeMap<String, Numbers> {
    let bytes = std::fs::read(case.join("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |name: &str| -> (Vec<f32>, Vec<usize>) {
        let view = file.tensor(name).unwrap();
        let (chunks, _) = view.data().as_chunks::<4>();
        let values = chunks.iter().map(|c| f32::from_le_bytes(*c)).collect();
        (values, view.shape().to_vec())
    };
    let sizes = file.names();
    let sizes = sizes.iter().filter_map(|name| name.strip_prefix("logits"));
    sizes
        .map(|size| {
            let (pixels, shape) = floats(&format!("pixel_values{size}"));
            let (logits, _) = floats(&format!("logits{size}"));
            let numbers = Numbers {
                pixels,
                shape: shape.try_into().unwrap(),
                logits,
            };
            (size.to_string(), numbers)
        })
        .collect()
}

fn load(case: &Path, device: &Device, dtype: FloatDType) -> Vit {
    let checkpoint = Checkpoint::open(case).unwrap_or_else(|error| panic!("{error}"));
    Vit::load(&checkpoint, device, dtype)
        .unwrap_or_else(|error| panic!("{}: {error}", case.display()))
}

fn logits(model: &Vit, numbers: &Numbers, device: &Device) -> Vec<f32> {
    let data = TensorData::new(numbers.pixels.clone(), numbers.shape);
    host(
        model
            .forward(Tensor::from_data(data, (device, DType::F32)))
            .unwrap(),
    )
}

/// Why a case does not load after `edit`; checks that the text is one line.
fn error_after(name: &str, edit: impl FnOnce(&mut serde_json::Value)) -> ModelError {
    let copy = CaseCopy::new("vit", name);
    copy.edit_config(edit);
    let error = Checkpoint::open(copy.path())
        .and_then(|checkpoint| Vit::load(&checkpoint, &Device::flex(), FloatDType::F32))
        .expect_err("the checkpoint should be refused");
    assert_eq!(error.to_string().lines().count(), 1, "{error}");
    error
}

#[test]
fn logits_equal_those_of_transformers_and_timm_at_every_size() {
    for device in devices() {
        let tolerance = if device == Device::flex() {
            TOLERANCE
        } else {
            TF32_TOLERANCE
        };
        let mut sizes = 0;
        for case in cases("vit") {
            let model = load(&case, &device, FloatDType::F32);
            for (size, expected) in numbers(&case) {
                let found = logits(&model, &expected, &device);
                let difference = max_difference(&found, &expected.logits);
                assert!(
                    difference < tolerance,
                    "{}{size} on {device:?}: logits differ by {difference}",
                    case.display()
                );
                sizes += 1;
            }
        }
        assert!(sizes > 12, "only {sizes} sizes were compared");
    }
}

#[rstest]
#[case::f16(FloatDType::F16, 11)]
#[case::bf16(FloatDType::BF16, 8)]
fn half_precision_stays_within_rounding_of_f32(#[case] dtype: FloatDType, #[case] bits: i32) {
    for device in devices() {
        for case in cases("vit") {
            let model = load(&case, &device, dtype);
            assert_eq!(
                model.position_embedding.val().dtype(),
                DType::from(dtype),
                "{}",
                case.display()
            );
            for (size, expected) in numbers(&case) {
                let found = logits(&model, &expected, &device);
                let scale = expected.logits.iter().fold(0f32, |max, x| max.max(x.abs()));
                let error = max_difference(&found, &expected.logits);
                // Some forty roundings of numbers of the size of the result lie in between.
                let allowed = 16.0 * scale * 2f32.powi(-bits);
                assert!(
                    error < allowed,
                    "{}{size} on {device:?}: {error} of {allowed}",
                    case.display()
                );
                assert!(error > 0.0, "{}: nothing was rounded", case.display());
            }
        }
    }
}

#[test]
fn layers_are_listed_as_they_are_stored() {
    for case in cases("vit") {
        let checkpoint = Checkpoint::open(&case).unwrap();
        assert_eq!(checkpoint.family(), Family::Vit);
        let layers = linear_layers(&checkpoint).unwrap();
        let huggingface = checkpoint.entry("vit.layernorm.weight").is_some();
        let config = VitConfig::from_json(checkpoint.config_json(), &checkpoint.config_path());
        let blocks = config.unwrap().num_hidden_layers;
        assert_eq!(layers.len(), blocks * if huggingface { 6 } else { 4 });
        for layer in layers {
            let stored = checkpoint.entry(&layer.weight_name()).unwrap();
            assert_eq!(stored.shape, layer.weight_shape());
            let bias = checkpoint.entry(&format!("{}.bias", layer.name));
            assert_eq!(bias.is_some(), layer.has_bias, "{}", layer.name);
        }
    }
}

fn rule(layers: &str, method: Method) -> Rule {
    Rule {
        layers: layers.to_string(),
        method,
        rank: Some(8),
        keep: None,
        blocks: (method != Method::LowRank).then_some(4),
        output_order: None,
    }
}

/// Names of the first block that a plan of these patterns replaces, without what is before them.
fn replaced(patterns: &[&str]) -> Vec<String> {
    let config = VitConfig {
        naming: VitNaming::HuggingFace,
        num_hidden_layers: 1,
        ..VitConfig::vit_b_16()
    };
    let rules = patterns.iter().map(|pattern| rule(pattern, Method::Blast));
    let plan = Plan {
        rules: rules.collect(),
    };
    let resolved = plan.resolve(&config.linear_layers()).unwrap();
    let short = |(layer, _): &(LinearLayer, Structure)| {
        let name = layer.name.strip_prefix("vit.encoder.layer.0.").unwrap();
        name.to_string()
    };
    resolved.iter().map(short).collect()
}

#[test]
fn a_rule_that_names_the_joined_layer_joins_query_key_and_value() {
    let joined = "attention.attention.qkv";
    let [query, key, value] = ["query", "key", "value"].map(|x| format!("attention.attention.{x}"));
    assert_eq!(replaced(&[r"attention\.qkv$"]), [joined]);
    assert_eq!(
        replaced(&[r"\.attention\.(key|value)$"]),
        [key.clone(), value.clone()]
    );
    // A pattern for all of them means the layers as they are stored.
    let rest = [
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ];
    let all = replaced(&[""]);
    assert_eq!(all[..3], [query.clone(), key.clone(), value.clone()]);
    assert_eq!(all[3..], rest);
    assert_eq!(replaced(&[r"attention\.qkv$", ""])[0], joined);
    assert_eq!(replaced(&[r"attention\.qkv$", ""])[1..], rest);
    // The first rule wins, here with a part.
    assert_eq!(replaced(&["query", r"attention\.qkv$"]), [query]);
}

#[rstest]
fn the_vit_b_preset_replaces_the_layers_of_the_paper(
    #[values(Method::LowRank, Method::Monarch, Method::Blast)] method: Method,
    #[values(VitNaming::HuggingFace, VitNaming::Timm)] naming: VitNaming,
) {
    let config = VitConfig {
        naming,
        ..VitConfig::vit_b_16()
    };
    let expected = match method {
        Method::LowRank => Structure::LowRank { rank: 128 },
        Method::Monarch => Structure::Monarch {
            blocks: 4,
            rank: 128,
            order: OutputOrder::Contiguous,
        },
        Method::Blast => Structure::Blast {
            blocks: 3,
            rank: 128,
        },
    };
    let plan = Plan::preset("vit_b", method).unwrap();
    let resolved = plan.resolve(&config.linear_layers()).unwrap();
    assert_eq!(resolved.len(), 3 * 12);
    for (layers, _) in resolved.as_chunks::<3>().0.iter().zip(0..12) {
        let widths = layers
            .each_ref()
            .map(|(layer, _)| (layer.in_features, layer.out_features));
        assert_eq!(widths, [(768, 2304), (768, 3072), (3072, 768)]);
        assert!(layers.iter().all(|(_, structure)| *structure == expected));
    }
}

#[rstest]
fn random_models_have_the_structures_of_their_plan(
    #[values(VitNaming::HuggingFace, VitNaming::Timm)] naming: VitNaming,
    #[values(FloatDType::F32, FloatDType::BF16)] dtype: FloatDType,
) {
    let config = VitConfig {
        hidden_size: 24,
        intermediate_size: 32,
        num_hidden_layers: 2,
        num_attention_heads: 3,
        num_labels: 5,
        naming,
        ..VitConfig::vit_b_16()
    };
    let plan = Plan {
        rules: vec![
            rule(r"(attention|attn)\.qkv$", Method::Blast),
            rule(r"fc1|intermediate\.dense", Method::Monarch),
        ],
    };
    let device = Device::flex();
    let model = Vit::init(&config, Some(&plan), &device, dtype).unwrap();
    for block in &model.blocks {
        let [qkv] = block.attention.qkv.layers()[..] else {
            panic!("not one layer");
        };
        let blast = Structure::Blast { blocks: 4, rank: 8 };
        assert_eq!((qkv.structure(), qkv.features()), (blast, (24, 72)));
        assert!(matches!(
            block.mlp.fc.structure(),
            Structure::Monarch { .. }
        ));
        assert_eq!(block.mlp.proj.structure(), Structure::Dense);
    }
    let pixels = Tensor::random(
        [2, 3, 64, 48],
        burn::tensor::Distribution::Normal(0.0, 1.0),
        (&device, DType::F32),
    );
    let logits = model.forward(pixels).unwrap();
    assert_eq!(logits.dims(), [2, 5]);
    assert_eq!(logits.dtype(), DType::F32);
    assert!(host(logits).iter().all(|x| x.is_finite()));
    let dense = Vit::init(&config, None, &device, dtype).unwrap();
    let parts = match naming {
        VitNaming::HuggingFace => 3,
        VitNaming::Timm => 1,
    };
    assert_eq!(dense.blocks[0].attention.qkv.layers().len(), parts);
}

#[test]
fn presets_have_the_published_numbers_of_parameters() {
    let count = |config: VitConfig| {
        let hidden = config.hidden_size;
        let [height, width] = config.patch_size;
        let linear = config.linear_layers().into_iter();
        let linear: usize = linear
            .map(|layer| layer.parameters() + layer.out_features)
            .sum();
        let norms = (2 * config.num_hidden_layers + 1) * 2 * hidden;
        let patch = hidden * (config.num_channels * height * width + 1);
        let [rows, columns] = config.grid();
        let embeddings = (rows * columns + 2) * hidden;
        linear + norms + patch + embeddings + (hidden + 1) * config.num_labels
    };
    assert_eq!(count(VitConfig::vit_b_16()), 86_567_656);
    assert_eq!(count(VitConfig::vit_b_8()), 86_576_872);
}

#[test]
fn weights_that_do_not_fit_the_configuration_are_named() {
    let error = error_after("hf_patch8", |config| config["image_size"] = json!(40));
    assert!(
        matches!(&error, ModelError::TensorShape { tensor, found, expected, .. }
            if tensor == "vit.embeddings.position_embeddings"
                && *found == [1, 17, 48] && *expected == [1, 26, 48]),
        "{error}"
    );
    let error = error_after("hf_patch8", |config| config["num_hidden_layers"] = json!(3));
    assert!(
        matches!(&error, ModelError::MissingTensor { tensor, .. } if tensor.contains("layer.2.")),
        "{error}"
    );
    let error = error_after("hf_patch8", |config| config["qkv_bias"] = json!(false));
    assert!(
        matches!(&error, ModelError::UnusedTensor { tensor, more: 5, .. } if tensor.ends_with("key.bias")),
        "{error}"
    );
    let error = error_after("timm_token", |config| config["num_classes"] = json!(8));
    assert!(
        matches!(&error, ModelError::TensorShape { tensor, .. } if tensor.starts_with("head.")),
        "{error}"
    );
    let error = error_after("timm_avg", |config| {
        config["model_args"]["fc_norm"] = json!(false);
    });
    assert!(
        matches!(&error, ModelError::MissingTensor { tensor, .. } if tensor == "norm.weight"),
        "{error}"
    );
}

#[test]
fn a_checkpoint_of_another_family_is_refused() {
    let dir = TinyGpt2::new().to_dir();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let error = Vit::load(&checkpoint, &Device::flex(), FloatDType::F32).unwrap_err();
    assert!(
        matches!(
            error,
            ModelError::WrongFamily {
                found: "gpt2",
                expected: "vit",
                ..
            }
        ),
        "{error}"
    );
    let checkpoint = Checkpoint::open(root("vit").join("timm_token")).unwrap();
    let error = AnyLanguageModel::load(&checkpoint, &Device::flex(), FloatDType::F32).unwrap_err();
    assert!(
        matches!(error, ModelError::WrongFamily { found: "vit", .. }),
        "{error}"
    );
}

#[test]
fn pixels_of_another_shape_are_refused() {
    let model = load(
        &root("vit").join("hf_patch8"),
        &Device::flex(),
        FloatDType::F32,
    );
    for shape in [[1, 1, 32, 32], [0, 3, 32, 32], [1, 3, 7, 32], [1, 3, 32, 7]] {
        let pixels = Tensor::zeros(shape, &Device::flex());
        let error = model.forward(pixels).unwrap_err();
        assert!(
            matches!(&error, ModelError::PixelShape { found, channels: 3, patch: [8, 8] }
                if *found == shape),
            "{error}"
        );
    }
}
