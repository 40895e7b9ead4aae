//! Checkpoint directories that should load, and many that should not.

use std::fs;
use std::path::Path;

use burn::tensor::FloatDType;
use half::{bf16, f16};
use models::{Checkpoint, Family, ModelError, WeightLayout, linear_layers};
use rstest::rstest;
use safetensors::Dtype;
use serde_json::json;

use crate::tiny_gpt2::{EMBD, INNER, TinyGpt2, VOCAB};

const C_FC: &str = "transformer.h.1.mlp.c_fc.weight";

fn open_error(dir: &Path) -> ModelError {
    Checkpoint::open(dir).expect_err("the directory should be refused")
}

#[test]
fn an_opened_checkpoint_shows_what_it_holds() {
    let tiny = TinyGpt2::new();
    let dir = tiny.to_dir();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.family(), Family::Gpt2);
    assert_eq!(checkpoint.config_json(), &tiny.config);
    assert!(checkpoint.blr().layers.is_empty());
    assert_eq!(checkpoint.files().len(), 1);
    assert!(checkpoint.names().eq(tiny.tensors.keys()));

    let entry = checkpoint.entry(C_FC).unwrap();
    assert_eq!(entry.dtype, Dtype::F32);
    assert_eq!(entry.shape, [EMBD, INNER]);
    assert_eq!(entry.bytes, tiny.tensors[C_FC].bytes);
    assert_eq!(checkpoint.floats(C_FC).unwrap(), tiny.values(C_FC));
    assert!(checkpoint.entry("nothing").is_none());
    let error = checkpoint.floats("nothing").unwrap_err();
    assert!(matches!(error, ModelError::UnknownTensor { tensor, .. } if tensor == "nothing"));
}

#[test]
fn half_precision_tensors_widen_to_the_same_numbers() {
    let values = [1.5, -0.25, 65504.0, 6.1e-5];
    let mut tiny = TinyGpt2::new();
    let halves = values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes());
    tiny.set_bytes("f16", Dtype::F16, &[4], halves.collect());
    let brains = values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes());
    tiny.set_bytes("bf16", Dtype::BF16, &[2, 2], brains.collect());
    let dir = tiny.to_dir();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let expected = values.map(|x| f16::from_f32(x).to_f32());
    assert_eq!(checkpoint.floats("f16").unwrap(), expected);
    let expected = values.map(|x| bf16::from_f32(x).to_f32());
    assert_eq!(checkpoint.floats("bf16").unwrap(), expected);
}

#[rstest]
#[case::with_prefix(TinyGpt2::new(), "transformer.h.0.attn.c_attn")]
#[case::bare(TinyGpt2::new().without_prefix(), "h.0.attn.c_attn")]
fn linear_layers_are_listed_in_the_order_of_the_model(#[case] tiny: TinyGpt2, #[case] first: &str) {
    let dir = tiny.to_dir();
    let layers = linear_layers(&Checkpoint::open(dir.path()).unwrap()).unwrap();
    assert_eq!(layers.len(), 8);
    assert_eq!(layers[0].name, first);
    let widths: Vec<_> = layers[4..]
        .iter()
        .map(|l| (l.in_features, l.out_features))
        .collect();
    assert_eq!(
        widths,
        [(EMBD, 3 * EMBD), (EMBD, EMBD), (EMBD, INNER), (INNER, EMBD)]
    );
    for layer in &layers {
        assert!(layer.has_bias);
        assert_eq!(layer.layout, WeightLayout::InOut);
        let stored = &tiny.tensors[&layer.weight_name()];
        assert_eq!(stored.shape, layer.weight_shape());
        assert_eq!(layer.parameters(), layer.dense_parameters());
    }
}

#[test]
fn a_directory_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("gpt3");
    let error = open_error(&missing);
    assert!(matches!(error, ModelError::NotADirectory { path } if path == missing));
    let file = dir.path().join("model.safetensors");
    fs::write(&file, b"x").unwrap();
    assert!(matches!(
        open_error(&file),
        ModelError::NotADirectory { .. }
    ));
}

#[test]
fn a_missing_or_unusable_config_is_named() {
    let dir = TinyGpt2::new().to_dir();
    let config = dir.path().join("config.json");
    fs::write(&config, "{\"model_type\": ").unwrap();
    assert!(matches!(open_error(dir.path()), ModelError::Json { path, .. } if path == config));
    fs::write(&config, "{}").unwrap();
    let error = open_error(dir.path());
    assert!(matches!(&error, ModelError::MissingKey { key, .. } if key == "model_type"));
    fs::write(&config, json!({"model_type": "bert"}).to_string()).unwrap();
    let error = open_error(dir.path());
    assert!(matches!(&error, ModelError::UnsupportedFamily { found, .. } if found == "bert"));
    assert!(error.to_string().contains("supported: gpt2"), "{error}");
    fs::remove_file(&config).unwrap();
    assert!(
        matches!(open_error(dir.path()), ModelError::MissingFile { path, .. } if path == config)
    );
}

#[test]
fn missing_weights_are_named() {
    let dir = TinyGpt2::new().to_dir();
    let weights = dir.path().join("model.safetensors");
    fs::remove_file(&weights).unwrap();
    let error = open_error(dir.path());
    assert!(matches!(error, ModelError::MissingFile { path, .. } if path == weights));
}

#[test]
fn a_truncated_weight_file_is_refused_wherever_it_was_cut() {
    let dir = TinyGpt2::new().to_dir();
    let weights = dir.path().join("model.safetensors");
    let whole = fs::read(&weights).unwrap();
    let header = 8 + u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize;
    for length in [
        0,
        1,
        7,
        8,
        header / 2,
        header,
        header + 1,
        whole.len() / 2,
        whole.len() - 1,
    ] {
        fs::write(&weights, &whole[..length]).unwrap();
        let error = open_error(dir.path());
        assert!(
            matches!(&error, ModelError::InvalidWeights { path, bytes, .. }
                if *path == weights && *bytes == length),
            "{length} bytes: {error}"
        );
        assert_eq!(error.to_string().lines().count(), 1);
    }
    let mut longer = whole.clone();
    longer.push(0);
    fs::write(&weights, &longer).unwrap();
    assert!(matches!(
        open_error(dir.path()),
        ModelError::InvalidWeights { .. }
    ));
    fs::write(
        &weights,
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00",
    )
    .unwrap();
    assert!(matches!(
        open_error(dir.path()),
        ModelError::InvalidWeights { .. }
    ));
}

#[test]
fn a_missing_tensor_is_named_with_its_shape() {
    let mut tiny = TinyGpt2::new();
    tiny.tensors.remove(C_FC);
    let error = tiny.error();
    assert!(
        matches!(&error, ModelError::MissingTensor { tensor, expected, .. }
            if tensor == C_FC && *expected == [EMBD, INNER]),
        "{error}"
    );
}

#[test]
fn a_tensor_of_another_shape_is_named_with_both_shapes() {
    let mut tiny = TinyGpt2::new();
    // As a family that stores [out, in] would have it.
    tiny.random(C_FC, &[INNER, EMBD], 0.5, 0.0);
    let error = tiny.error();
    assert!(
        matches!(&error, ModelError::TensorShape { tensor, found, expected, .. }
            if tensor == C_FC && *found == [INNER, EMBD] && *expected == [EMBD, INNER]),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains("[20, 12]") && text.contains("[12, 20]"),
        "{text}"
    );
}

#[test]
fn tensors_without_a_place_are_refused_and_counted() {
    let mut tiny = TinyGpt2::new();
    tiny.random("score.weight", &[2, EMBD], 0.5, 0.0);
    tiny.random("transformer.h.2.ln_1.weight", &[EMBD], 0.5, 0.0);
    let error = tiny.error();
    assert!(
        matches!(&error, ModelError::UnusedTensor { tensor, found, more: 1, .. }
            if tensor == "score.weight" && *found == [2, EMBD]),
        "{error}"
    );
}

#[test]
fn the_buffers_of_attention_are_ignored() {
    let mut tiny = TinyGpt2::new();
    for n in 0..2 {
        tiny.set_bytes(
            &format!("transformer.h.{n}.attn.bias"),
            Dtype::BOOL,
            &[1, 1, 2, 2],
            vec![1; 4],
        );
        tiny.set(&format!("transformer.h.{n}.attn.masked_bias"), &[], &[-1e4]);
    }
    tiny.model();
}

#[test]
fn a_tied_head_may_be_repeated_but_not_changed() {
    let mut tiny = TinyGpt2::new();
    let wte = tiny.tensors["transformer.wte.weight"].clone();
    tiny.tensors.insert("lm_head.weight".into(), wte);
    tiny.model();
    tiny.random("lm_head.weight", &[VOCAB, EMBD], 0.5, 0.0);
    let error = tiny.error();
    assert!(
        matches!(&error, ModelError::TiedTensorDiffers { tensor, tied_to, .. }
            if tensor == "lm_head.weight" && tied_to == "transformer.wte.weight"),
        "{error}"
    );
}

#[test]
fn an_untied_head_must_be_there() {
    let mut tiny = TinyGpt2::new();
    tiny.config["tie_word_embeddings"] = json!(false);
    let error = tiny.error();
    assert!(
        matches!(&error, ModelError::MissingTensor { tensor, .. } if tensor == "lm_head.weight"),
        "{error}"
    );
    tiny.random("lm_head.weight", &[VOCAB, EMBD], 0.5, 0.0);
    assert!(tiny.model().head.is_some());
}

#[test]
fn a_tensor_of_integers_is_not_read_as_weights() {
    let mut tiny = TinyGpt2::new();
    tiny.set_bytes(C_FC, Dtype::I32, &[EMBD, INNER], vec![0; 4 * EMBD * INNER]);
    let error = tiny.error();
    assert!(
        matches!(&error, ModelError::TensorDtype { tensor, found: Dtype::I32, .. } if tensor == C_FC),
        "{error}"
    );
}

#[rstest]
#[case::nan(f32::NAN)]
#[case::infinity(f32::INFINITY)]
#[case::minus_infinity(f32::NEG_INFINITY)]
fn a_weight_that_is_not_finite_is_named_with_its_index(#[case] value: f32) {
    let mut tiny = TinyGpt2::new();
    let mut values = tiny.values(C_FC);
    values[77] = value;
    tiny.set(C_FC, &[EMBD, INNER], &values);
    let error = tiny.error();
    assert!(
        matches!(&error, ModelError::NonFiniteWeight { tensor, index: 77, .. } if tensor == C_FC),
        "{error}"
    );
}

#[test]
fn a_weight_past_the_range_of_f16_is_refused_in_f16_alone() {
    let mut tiny = TinyGpt2::new();
    let mut values = tiny.values(C_FC);
    values[5] = -70000.0;
    tiny.set(C_FC, &[EMBD, INNER], &values);
    tiny.model();
    let error = tiny.load(FloatDType::F16).unwrap_err();
    assert!(
        matches!(&error, ModelError::NonFiniteWeight { tensor, index: 5, dtype: "f16", .. }
            if tensor == C_FC),
        "{error}"
    );
}
