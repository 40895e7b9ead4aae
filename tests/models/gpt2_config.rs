//! `config.json` of GPT-2.

use std::path::Path;

use models::{Activation, Gpt2Config, ModelError};
use rstest::rstest;
use serde_json::{Value, json};

fn parse(config: Value) -> Result<Gpt2Config, ModelError> {
    Gpt2Config::from_json(&config, Path::new("dir/config.json"))
}

#[test]
fn keys_that_are_not_set_take_the_defaults_of_transformers() {
    let config = parse(json!({"model_type": "gpt2"})).unwrap();
    let expected = Gpt2Config {
        vocab_size: 50257,
        n_positions: 1024,
        n_embd: 768,
        n_layer: 12,
        n_head: 12,
        n_inner: None,
        activation: Activation::GeluTanh,
        layer_norm_epsilon: 1e-5,
        scale_attn_weights: true,
        scale_attn_by_inverse_layer_idx: false,
        tie_word_embeddings: true,
        bos_token_id: None,
        eos_token_ids: Vec::new(),
    };
    assert_eq!(config, expected);
    assert_eq!(config.inner(), 3072);
}

#[test]
fn null_is_as_good_as_not_set() {
    let config = parse(json!({"n_inner": null, "eos_token_id": null, "n_embd": 24})).unwrap();
    assert_eq!(config.inner(), 96);
    assert!(config.eos_token_ids.is_empty());
}

#[test]
fn end_tokens_are_a_number_or_a_list() {
    let one = parse(json!({"eos_token_id": 50256})).unwrap();
    assert_eq!(one.eos_token_ids, [50256]);
    let several = parse(json!({"eos_token_id": [3, 5]})).unwrap();
    assert_eq!(several.eos_token_ids, [3, 5]);
}

#[rstest]
#[case::text_for_a_number(json!({"n_embd": "768"}), "n_embd", "a positive integer")]
#[case::zero(json!({"n_layer": 0}), "n_layer", "a positive integer")]
#[case::far_too_many(json!({"n_layer": 4_000_000_000u32}), "n_layer", "at most 4096")]
#[case::negative(json!({"n_head": -1}), "n_head", "a positive integer")]
#[case::fraction(json!({"n_positions": 1.5}), "n_positions", "a positive integer")]
#[case::heads_that_do_not_divide(json!({"n_embd": 10, "n_head": 3}), "n_head", "a divisor of n_embd 10")]
#[case::epsilon(json!({"layer_norm_epsilon": 0}), "layer_norm_epsilon", "a positive number")]
#[case::flag(json!({"scale_attn_weights": 1}), "scale_attn_weights", "true or false")]
#[case::activation(json!({"activation_function": "gelu_newer"}), "activation_function", "gelu_new, ")]
#[case::cross_attention(json!({"add_cross_attention": true}), "add_cross_attention", "false")]
#[case::end_token(json!({"eos_token_id": "end"}), "eos_token_id", "a token id")]
fn a_bad_value_is_named_with_what_was_expected(
    #[case] config: Value,
    #[case] key: &str,
    #[case] expected: &str,
) {
    let error = parse(config.clone()).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, ModelError::InvalidKey { .. }), "{text}");
    assert!(text.starts_with("dir/config.json: "), "{text}");
    assert!(
        text.contains(&format!("`{key}` is {}", config[key])),
        "{text}"
    );
    assert!(text.contains(expected), "{text}");
    assert_eq!(text.lines().count(), 1);
}
