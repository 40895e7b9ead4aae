//! The decoder against diffusers, on the cases that `tests/reference/make_dit.py` made.

use std::path::Path;

use burn::tensor::{DType, Device, Tensor, TensorData};
use models::{AutoencoderKl, AutoencoderKlConfig, ModelError};
use rstest::rstest;
use serde_json::{Value, json};

use crate::devices::devices;
use crate::reference_case::{CaseCopy, Expected, cases, root};
use crate::tiny_gpt2::{host, max_difference};

const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// Of the largest value, which was computed in `f64`.
const TOLERANCE: f32 = 2e-5;

/// On CUDA, products and convolutions may round their operands to tf32, which has 11 bits.
const TF32_TOLERANCE: f32 = 1e-2;

fn latents(expected: &Expected, device: &Device) -> Tensor<4> {
    let values = expected.floats("latents").unwrap();
    let count = values.len() / 64;
    let data = TensorData::new(values, [count, 4, 4, 4]);
    Tensor::from_data(data, (device, DType::F32))
}

/// The largest difference from the expected image, relative to its largest value.
fn error(dir: &Path, expected: &Expected, device: &Device) -> f32 {
    let decoder = AutoencoderKl::load(dir, device).unwrap_or_else(|error| panic!("{error}"));
    let decoded = decoder.decode(latents(expected, device)).unwrap();
    let scale = decoder.config().scale();
    let channels = decoder.config().out_channels;
    assert_eq!(decoded.dims()[1..], [channels, 4 * scale, 4 * scale]);
    let image = expected.floats("image").unwrap();
    let largest = image.iter().fold(0f32, |max, x| max.max(x.abs()));
    max_difference(&host(decoded), &image) / largest
}

#[test]
fn images_equal_those_of_diffusers() {
    for device in devices() {
        for case in cases("vae") {
            let tolerance = match device == Device::flex() {
                true => TOLERANCE,
                false => TF32_TOLERANCE,
            };
            let error = error(&case, &Expected::of(&case), &device);
            assert!(
                error < tolerance,
                "{} on {device:?}: {error:e}",
                case.display()
            );
        }
    }
}

#[test]
fn latents_are_scaled_back() {
    let case = root("vae").join("three_blocks");
    let device = Device::flex();
    let decoder = AutoencoderKl::load(&case, &device).unwrap();
    let latents = latents(&Expected::of(&case), &device);
    let scaled = decoder.decode_scaled(latents.clone() * 0.18215).unwrap();
    let plain = decoder.decode(latents).unwrap();
    assert!(max_difference(&host(scaled), &host(plain)) < 1e-4);
}

#[test]
fn the_names_of_older_files_are_read() {
    let copy = CaseCopy::new("vae", "three_blocks");
    copy.rename_tensors(WEIGHTS, |name| {
        let pairs = [
            ("to_q", "query"),
            ("to_k", "key"),
            ("to_v", "value"),
            ("to_out.0", "proj_attn"),
        ];
        let renamed = pairs.iter().fold(name.to_string(), |name, (new, old)| {
            name.replace(
                &format!("attentions.0.{new}."),
                &format!("attentions.0.{old}."),
            )
        });
        Some(renamed)
    });
    let expected = Expected::of(&root("vae").join("three_blocks"));
    assert!(error(copy.path(), &expected, &Device::flex()) < TOLERANCE);
}

#[test]
fn loading_is_strict_but_for_the_encoder() {
    let load = |copy: &CaseCopy| AutoencoderKl::load(copy.path(), &Device::flex());
    let copy = CaseCopy::new("vae", "three_blocks");
    copy.rename_tensors(WEIGHTS, |name| {
        let decodes = !name.starts_with("encoder.") && !name.starts_with("quant_conv.");
        decodes.then(|| name.to_string())
    });
    assert!(load(&copy).is_ok());
    copy.rename_tensors(WEIGHTS, |name| {
        (name != "decoder.conv_out.bias").then(|| name.to_string())
    });
    assert!(matches!(
        load(&copy),
        Err(ModelError::MissingTensor { tensor, .. }) if tensor == "decoder.conv_out.bias"
    ));
    let copy = CaseCopy::new("vae", "three_blocks");
    copy.edit_config(|config| config["layers_per_block"] = 2.into());
    assert!(matches!(load(&copy), Err(ModelError::MissingTensor { .. })));
    copy.edit_config(|config| {
        config["layers_per_block"] = 1.into();
        config["mid_block_add_attention"] = false.into();
    });
    assert!(matches!(load(&copy), Err(ModelError::UnusedTensor { .. })));
    let wrong = Tensor::zeros([1, 3, 4, 4], &Device::flex());
    let decoder = AutoencoderKl::load(root("vae").join("three_blocks"), &Device::flex()).unwrap();
    assert!(matches!(
        decoder.decode(wrong),
        Err(ModelError::InputShape { .. })
    ));
    let nothing = tempfile::tempdir().unwrap();
    assert!(matches!(
        AutoencoderKl::load(nothing.path(), &Device::flex()),
        Err(ModelError::MissingFile { .. })
    ));
}

#[rstest]
#[case("norm_num_groups", json!(3), "a divisor of block_out_channels")]
#[case("block_out_channels", json!([]), "a list of channel counts")]
#[case("block_out_channels", json!([8, -1]), "a list of channel counts")]
#[case("up_block_types", json!(["AttnUpDecoderBlock2D"]), "UpDecoderBlock2D")]
#[case("act_fn", json!("gelu"), "silu")]
#[case("scaling_factor", json!(0), "a positive number")]
#[case("shift_factor", json!(0.1), "scaled and not shifted")]
fn configurations_that_cannot_be_used_are_refused(
    #[case] key: &str,
    #[case] value: Value,
    #[case] expected: &str,
) {
    let path = root("vae").join("three_blocks/config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert!(AutoencoderKlConfig::from_json(&config, &path).is_ok());
    config[key] = value;
    let error = AutoencoderKlConfig::from_json(&config, &path).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(key) && text.contains(expected), "{text}");
}
