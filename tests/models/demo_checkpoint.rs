//! The trained checkpoint in `demo/` against what `transformers` computed with it
//! (`demo/reference.json`, written by `demo/train.py`).

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, FloatDType};
use models::{Checkpoint, GenerateOptions, Gpt2, TextTokenizer, generate, text_loss};
use serde_json::Value;

fn demo(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("demo")
        .join(file)
}

fn reference() -> Value {
    serde_json::from_str(&fs::read_to_string(demo("reference.json")).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().unwrap().iter();
    ids.map(|id| id.as_u64().unwrap() as u32).collect()
}

fn load() -> Gpt2 {
    let checkpoint = Checkpoint::open(demo("checkpoint")).unwrap();
    Gpt2::load(&checkpoint, &Device::flex(), FloatDType::F32).unwrap()
}

#[test]
fn the_held_out_loss_is_that_of_transformers() {
    let reference = reference();
    let tokenizer = TextTokenizer::open(demo("checkpoint")).unwrap();
    let text = fs::read_to_string(demo("heldout.txt")).unwrap();
    let tokens = tokenizer.encode(&text).unwrap();
    assert_eq!(
        Some(tokens.len() as u64),
        reference["heldout_tokens"].as_u64()
    );
    let found = text_loss(&load(), &tokens, None, 8, |_, _| ()).unwrap();
    assert_eq!(Some(found.tokens as u64), reference["tokens"].as_u64());
    let expected = reference["loss"].as_f64().unwrap();
    // Two sums of 69,000 numbers in `f32`, each grouped in its own way.
    let difference = (found.loss() - expected).abs();
    assert!(difference < 1e-5, "loss {}, not {expected}", found.loss());
}

#[test]
fn the_greedy_sample_is_that_of_transformers() {
    let greedy = &reference()["greedy"];
    let tokenizer = TextTokenizer::open(demo("checkpoint")).unwrap();
    let prompt = tokenizer
        .encode(greedy["prompt"].as_str().unwrap())
        .unwrap();
    assert_eq!(prompt, ids(&greedy["prompt_ids"]));
    let expected = ids(&greedy["generated_ids"]);
    let options = GenerateOptions {
        max_new_tokens: expected.len(),
        ignore_end: true,
        ..GenerateOptions::default()
    };
    let done = generate(&load(), &prompt, &options, |_| true).unwrap();
    assert_eq!(done.tokens, expected);
}
