//! `config.json` of Llama.

use std::fs;
use std::path::Path;

use models::{Activation, LlamaConfig, ModelError, RotaryConfig, RotaryScaling};
use rstest::rstest;
use serde_json::{Value, json};

use crate::reference_case::root;

fn parse(config: Value) -> Result<LlamaConfig, ModelError> {
    LlamaConfig::from_json(&config, Path::new("dir/config.json"))
}

fn of_case(name: &str) -> LlamaConfig {
    let path = root("llama").join(name).join("config.json");
    let config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    LlamaConfig::from_json(&config, &path).unwrap()
}

#[test]
fn keys_that_are_not_set_take_the_defaults_of_transformers() {
    // Those defaults are Llama 7B.
    assert_eq!(
        parse(json!({"model_type": "llama"})).unwrap(),
        LlamaConfig::llama_7b()
    );
}

#[test]
fn the_published_configuration_of_llama_3_2_is_the_preset() {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": 128000, "eos_token_id": 128001, "head_dim": 64, "hidden_act": "silu",
        "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 8192,
        "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama",
        "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8,
        "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                         "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "rope_theta": 500000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        "transformers_version": "4.45.0.dev0", "use_cache": true, "vocab_size": 128256
    });
    assert_eq!(parse(config).unwrap(), LlamaConfig::llama_3_2_1b());
}

#[test]
fn presets_have_the_published_numbers_of_parameters() {
    let count = |config: LlamaConfig| {
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let tables = if config.tie_word_embeddings { 1 } else { 2 };
        let norms = (2 * config.num_hidden_layers + 1) * hidden;
        let layers = config.linear_layers();
        let linear: usize = layers.iter().map(|layer| layer.parameters()).sum();
        tables * vocab * hidden + norms + linear
    };
    assert_eq!(count(LlamaConfig::llama_7b()), 6_738_415_616);
    assert_eq!(count(LlamaConfig::llama_3_2_1b()), 1_235_814_400);
}

#[rstest]
#[case("rope_linear", "rope_linear_old", RotaryScaling::Linear { factor: 2.0 })]
#[case("rope_llama3", "rope_llama3_old", RotaryScaling::Llama3 {
    factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_position_embeddings: 32,
})]
fn both_spellings_of_a_rotary_scaling_are_read(
    #[case] new: &str,
    #[case] old: &str,
    #[case] scaling: RotaryScaling,
) {
    let theta = 500.0;
    assert_eq!(of_case(new).rotary, RotaryConfig { theta, scaling });
    assert_eq!(of_case(new), of_case(old));
}

#[test]
fn rotary_settings_fall_back_to_what_stands_beside_them() {
    let beside = parse(json!({"rope_theta": 7.0, "rope_parameters": {"rope_type": "default"}}));
    assert_eq!(beside.unwrap().rotary.theta, 7.0);
    let within = parse(json!({"rope_theta": 7.0, "rope_parameters": {"rope_theta": 8}}));
    assert_eq!(within.unwrap().rotary.theta, 8.0);
    let length = parse(json!({
        "max_position_embeddings": 77,
        "rope_scaling": {"type": "llama3", "factor": 2, "low_freq_factor": 1, "high_freq_factor": 4},
    }));
    let RotaryScaling::Llama3 {
        original_max_position_embeddings,
        ..
    } = length.unwrap().rotary.scaling
    else {
        panic!("another scaling");
    };
    assert_eq!(original_max_position_embeddings, 77);
}

#[test]
fn frequencies_follow_the_definition() {
    let config = LlamaConfig::llama_3_2_1b();
    let plain = RotaryConfig {
        scaling: RotaryScaling::Default,
        ..config.rotary
    };
    let frequencies = config.rotary.frequencies(64);
    assert_eq!(frequencies.len(), 32);
    let (mut kept, mut divided, mut mixed) = (0, 0, 0);
    for (i, (&scaled, &plain)) in frequencies.iter().zip(&plain.frequencies(64)).enumerate() {
        let exact = 500_000f64.powf(-(i as f64) / 32.0);
        assert!((f64::from(plain) / exact - 1.0).abs() < 1e-5, "{i}");
        let wavelength = 2.0 * std::f64::consts::PI / exact;
        let ratio = f64::from(scaled) / exact;
        if wavelength < 8192.0 / 4.0 {
            kept += 1;
            assert_eq!(scaled, plain);
        } else if wavelength > 8192.0 {
            divided += 1;
            assert!((ratio * 32.0 - 1.0).abs() < 1e-5, "{i}");
        } else {
            mixed += 1;
            let share = (8192.0 / wavelength - 1.0) / 3.0;
            let expected = (1.0 - share) / 32.0 + share;
            assert!((ratio / expected - 1.0).abs() < 1e-4, "{i}");
        }
    }
    assert!(kept > 0 && divided > 0 && mixed > 0);
    let linear = RotaryConfig {
        scaling: RotaryScaling::Linear { factor: 4.0 },
        ..config.rotary
    };
    assert_eq!(linear.frequencies(64)[0], 0.25);
}

#[test]
fn end_tokens_are_a_number_a_list_or_none() {
    let ends = |value: Value| parse(json!({"eos_token_id": value})).unwrap().eos_token_ids;
    assert_eq!(ends(json!(5)), [5]);
    assert_eq!(ends(json!([128001, 128008])), [128001, 128008]);
    assert!(ends(Value::Null).is_empty());
}

#[test]
fn the_activation_and_biases_are_read() {
    let config = of_case("biases");
    assert_eq!(config.hidden_act, Activation::GeluTanh);
    assert!(config.attention_bias && config.mlp_bias);
    assert!(config.linear_layers().iter().all(|layer| layer.has_bias));
}

#[rstest]
#[case::unknown_rope(json!({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}), "`rope_scaling.rope_type` is \"yarn\"", "default, linear, llama3")]
#[case::unknown_rope_new(json!({"rope_parameters": {"rope_type": "longrope"}}), "`rope_parameters.rope_type` is \"longrope\"", "default, linear, llama3")]
#[case::unknown_rope_first(json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}), "`rope_scaling.type` is \"dynamic\"", "default, linear, llama3")]
#[case::rope_without_factor(json!({"rope_scaling": {"type": "linear"}}), "no key `rope_scaling.factor`", "a positive number")]
#[case::rope_of_text(json!({"rope_scaling": "linear"}), "`rope_scaling` is \"linear\"", "an object")]
#[case::rope_factors(json!({"rope_parameters": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}}), "`rope_parameters.high_freq_factor` is 4", "more than low_freq_factor 4")]
#[case::partial_rotary(json!({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}), "`rope_parameters.partial_rotary_factor` is 0.5", "1")]
#[case::theta(json!({"rope_theta": -1}), "`rope_theta` is -1", "a positive number")]
#[case::heads(json!({"hidden_size": 48, "num_attention_heads": 5}), "`num_attention_heads` is 5", "a divisor of hidden_size 48")]
#[case::odd_heads(json!({"hidden_size": 12, "num_attention_heads": 4}), "`num_attention_heads` is 4", "even width")]
#[case::odd_head_dim(json!({"head_dim": 7}), "`head_dim` is 7", "an even number")]
#[case::key_heads(json!({"num_attention_heads": 8, "num_key_value_heads": 3}), "`num_key_value_heads` is 3", "a divisor of num_attention_heads 8")]
#[case::zero_key_heads(json!({"num_key_value_heads": 0}), "`num_key_value_heads` is 0", "a positive integer")]
#[case::activation(json!({"hidden_act": "swiglu"}), "`hidden_act` is \"swiglu\"", "silu")]
#[case::layers(json!({"num_hidden_layers": 5000}), "`num_hidden_layers` is 5000", "at most 4096")]
#[case::flag(json!({"attention_bias": "no"}), "`attention_bias` is \"no\"", "true or false")]
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
