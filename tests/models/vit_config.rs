//! `config.json` of vision transformers.

use std::path::Path;

use models::{Activation, Labels, ModelError, VitConfig, VitNaming, VitPooling};
use rstest::rstest;
use serde_json::{Value, json};

fn parse(config: Value) -> Result<VitConfig, ModelError> {
    VitConfig::from_json(&config, Path::new("dir/config.json"))
}

#[test]
fn keys_that_are_not_set_take_the_defaults_of_transformers() {
    let expected = VitConfig {
        layer_norm_eps: 1e-12,
        num_labels: 2,
        naming: VitNaming::HuggingFace,
        ..VitConfig::vit_b_16()
    };
    assert_eq!(parse(json!({"model_type": "vit"})).unwrap(), expected);
}

#[test]
fn the_published_configurations_of_timm_are_the_presets() {
    let config = |architecture: &str| {
        json!({
            "architecture": architecture, "num_classes": 1000, "num_features": 768,
            "global_pool": "token",
            "pretrained_cfg": {"tag": "augreg2_in21k_ft_in1k", "input_size": [3, 224, 224],
                "fixed_input_size": true, "interpolation": "bicubic", "crop_pct": 0.9,
                "crop_mode": "center", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
                "num_classes": 1000, "pool_size": null, "first_conv": "patch_embed.proj",
                "classifier": "head"}
        })
    };
    let found = parse(config("vit_base_patch16_224")).unwrap();
    assert_eq!(found, VitConfig::vit_b_16());
    let found = parse(config("vit_base_patch8_224.augreg2_in21k_ft_in1k")).unwrap();
    assert_eq!(found, VitConfig::vit_b_8());
}

#[test]
fn the_sizes_of_timm_have_their_widths() {
    let giant = parse(json!({"architecture": "vit_giant_patch14_224", "num_classes": 3})).unwrap();
    assert_eq!((giant.hidden_size, giant.intermediate_size), (1408, 6144));
    assert_eq!(
        (giant.num_hidden_layers, giant.num_attention_heads),
        (40, 16)
    );
    let huge = parse(json!({"architecture": "vit_gigantic_patch14_224", "num_classes": 3}));
    assert_eq!(huge.unwrap().intermediate_size, 8192);
}

#[test]
fn arguments_of_timm_change_the_model() {
    let found = parse(json!({
        "architecture": "vit_tiny_patch16_224", "num_classes": 4, "global_pool": "token",
        "model_args": {"img_size": [64, 32], "patch_size": 8, "global_pool": "avg",
            "class_token": false, "act_layer": "gelu_tanh", "mlp_ratio": 1.5, "drop_path_rate": 0.1,
            "init_values": null, "qk_norm": false, "reg_tokens": 0, "final_norm": true},
    }))
    .unwrap();
    assert_eq!(found.image_size, [64, 32]);
    assert_eq!(found.grid(), [8, 4]);
    assert_eq!(found.pooling, VitPooling::Average);
    assert!(found.norm_after_pooling && !found.class_token);
    assert_eq!(found.hidden_act, Activation::GeluTanh);
    assert_eq!(found.intermediate_size, 288);
}

#[test]
fn labels_are_found_by_name_description_and_number() {
    let labels = |config: Value| Labels::from_json(&config, Path::new("dir/config.json"));
    let found =
        labels(json!({"model_type": "vit", "id2label": {"0": "cat", "1": "7", "2": "dog, hound"}}));
    let found = found.unwrap();
    assert_eq!(found.count(), 3);
    assert_eq!(found.text(2), Some("dog, hound"));
    assert_eq!(found.find("dog, hound"), Some(2));
    assert_eq!(found.find("7"), Some(1));
    assert_eq!(found.find("2"), Some(2));
    assert_eq!((found.find("3"), found.find("bird")), (None, None));
    let timm = json!({
        "architecture": "vit_tiny_patch16_224", "num_classes": 2, "label_names": ["n01", "n02"],
        "label_descriptions": {"n02": "tench"}
    });
    let found = labels(timm).unwrap();
    assert_eq!((found.text(0), found.text(1)), (Some("n01"), Some("tench")));
    assert_eq!((found.find("n02"), found.find("tench")), (Some(1), Some(1)));
    let error = labels(json!({"model_type": "vit", "id2label": {"0": "cat", "2": "dog"}}));
    let text = error.unwrap_err().to_string();
    assert!(
        text.contains("`id2label`") && text.contains("2 labels"),
        "{text}"
    );
}

#[rstest]
#[case::heads(json!({"num_attention_heads": 5}), "`num_attention_heads` is 5", "a divisor of hidden_size 768")]
#[case::image(json!({"image_size": 8}), "`image_size` is 8", "at least the size of a patch, 16 x 16")]
#[case::sides(json!({"image_size": [8, 9, 10]}), "`image_size` is [8,9,10]", "height and width")]
#[case::layers(json!({"num_hidden_layers": 5000}), "`num_hidden_layers` is 5000", "at most 4096")]
#[case::activation(json!({"hidden_act": "swiglu"}), "`hidden_act` is \"swiglu\"", "gelu")]
#[case::labels(json!({"id2label": {}}), "`id2label` is {}", "at least one label")]
#[case::another_architecture(json!({"architecture": "resnet50"}), "`architecture` is \"resnet50\"", "vit_SIZE_patchN_M")]
#[case::not_plain(json!({"architecture": "vit_base_patch16_clip_224"}), "`architecture` is", "plain vision transformer")]
#[case::no_classes(json!({"architecture": "vit_base_patch16_224"}), "no key `num_classes`", "a positive integer")]
#[case::timm_heads(json!({"architecture": "vit_base_patch16_224", "num_classes": 3, "model_args": {"num_heads": 7}}), "`model_args.num_heads` is 7", "a divisor of embed_dim 768")]
#[case::registers(json!({"architecture": "vit_base_patch16_224", "num_classes": 3, "model_args": {"reg_tokens": 4}}), "`model_args.reg_tokens` is 4", "plain")]
#[case::padding(json!({"architecture": "vit_base_patch16_224", "num_classes": 3, "model_args": {"dynamic_img_pad": true}}), "`model_args.dynamic_img_pad` is true", "plain")]
#[case::layer_scale(json!({"architecture": "vit_base_patch16_224", "num_classes": 3, "model_args": {"init_values": 1e-5}}), "`model_args.init_values`", "plain")]
#[case::unknown_argument(json!({"architecture": "vit_base_patch16_224", "num_classes": 3, "model_args": {"norm_layer": "rms"}}), "`model_args.norm_layer` is \"rms\"", "plain")]
#[case::pooling(json!({"architecture": "vit_base_patch16_224", "num_classes": 3, "global_pool": "map"}), "`global_pool` is \"map\"", "token or avg")]
#[case::no_token(json!({"architecture": "vit_base_patch16_224", "num_classes": 3, "model_args": {"class_token": false}}), "`global_pool` is not set", "avg where class_token is false")]
fn a_bad_value_is_named_with_what_was_expected(
    #[case] config: Value,
    #[case] found: &str,
    #[case] expected: &str,
) {
    let text = parse(config).unwrap_err().to_string();
    assert!(text.starts_with("dir/config.json: "), "{text}");
    assert!(text.contains(found) && text.contains(expected), "{text}");
    assert_eq!(text.lines().count(), 1);
}
