//! GPT-2 against Hugging Face `transformers`, on the cases that `tests/reference/make_gpt2.py` made.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, FloatDType};
use models::{Checkpoint, GenerateOptions, Gpt2, LanguageModel, ModelError, generate};
use safetensors::{Dtype, SafeTensors};

use crate::tiny_gpt2::{host, max_difference};

/// The expected numbers were computed in `f64` and are of order one, so all of the difference is what
/// `f32` rounds here, about 1e-6. Activations that differ are at least 5e-5 apart in some logit.
const TOLERANCE: f32 = 2e-5;

fn cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/gpt2");
    let entries = fs::read_dir(&root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
    let mut cases: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("expected.safetensors").exists())
        .collect();
    cases.sort();
    assert!(!cases.is_empty(), "{}: no cases", root.display());
    cases
}

/// What `transformers` computed for one case.
struct Expected {
    input_ids: Vec<i64>,
    batch: usize,
    logits: Vec<f32>,
    /// None for an input of one token a row, which predicts nothing.
    loss: Option<f32>,
    /// Greedy continuation of each row.
    generated: Option<Vec<i64>>,
}

fn expected(case: &Path) -> Expected {
    let bytes = fs::read(case.join("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let integers = |name: &str| {
        let view = file.tensor(name).ok()?;
        assert_eq!(view.dtype(), Dtype::I64, "{name}");
        let (chunks, _) = view.data().as_chunks::<8>();
        Some((
            view.shape().to_vec(),
            chunks.iter().map(|c| i64::from_le_bytes(*c)).collect(),
        ))
    };
    let floats = |name: &str| -> Option<Vec<f32>> {
        let view = file.tensor(name).ok()?;
        assert_eq!(view.dtype(), Dtype::F32, "{name}");
        let (chunks, _) = view.data().as_chunks::<4>();
        Some(chunks.iter().map(|c| f32::from_le_bytes(*c)).collect())
    };
    let (shape, input_ids): (Vec<usize>, Vec<i64>) = integers("input_ids").unwrap();
    Expected {
        input_ids,
        batch: shape[0],
        logits: floats("logits").unwrap(),
        loss: floats("loss").map(|loss| loss[0]),
        generated: integers("generated").map(|(_, ids)| ids),
    }
}

fn load(case: &Path) -> Gpt2 {
    let checkpoint = Checkpoint::open(case).unwrap_or_else(|error| panic!("{error}"));
    Gpt2::load(&checkpoint, &Device::flex(), FloatDType::F32)
        .unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn logits_and_loss_equal_those_of_transformers() {
    let mut losses = 0;
    for case in cases() {
        let (model, expected) = (load(&case), expected(&case));
        let ids = model
            .input_ids(&expected.input_ids, expected.batch)
            .unwrap();
        let logits = host(model.forward(ids.clone()).unwrap());
        let difference = max_difference(&logits, &expected.logits);
        assert!(
            difference < TOLERANCE,
            "{}: logits differ by {difference}",
            case.display()
        );
        match expected.loss {
            Some(expected) => {
                let loss = host(model.loss(ids).unwrap())[0];
                let difference = (loss - expected).abs();
                assert!(
                    difference < TOLERANCE,
                    "{}: loss {loss}, not {expected}",
                    case.display()
                );
                losses += 1;
            }
            None => assert!(matches!(
                model.loss(ids),
                Err(ModelError::TooFewTokens { found: 1, min: 2 })
            )),
        }
    }
    assert!(losses > 0, "no case has a loss");
}

#[test]
fn greedy_generation_equals_that_of_transformers() {
    let mut compared = 0;
    for case in cases() {
        let expected = expected(&case);
        let Some(generated) = &expected.generated else {
            continue;
        };
        let model = load(&case);
        let prompts = expected
            .input_ids
            .chunks(expected.input_ids.len() / expected.batch);
        let continuations = generated.chunks(generated.len() / expected.batch);
        for (prompt, continuation) in prompts.zip(continuations) {
            let prompt: Vec<u32> = prompt.iter().map(|&id| id as u32).collect();
            let options = GenerateOptions {
                max_new_tokens: continuation.len(),
                ignore_end: true,
                ..GenerateOptions::default()
            };
            let done = generate(&model, &prompt, &options, |_| true).unwrap();
            let found: Vec<i64> = done.tokens.iter().map(|&id| i64::from(id)).collect();
            assert_eq!(found, continuation, "{}", case.display());
            compared += 1;
        }
    }
    assert!(compared > 0, "no case has generated tokens");
}
