//! GPT-2 and Llama against Hugging Face `transformers`, on the cases that `tests/reference/make_*.py`
//! made.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, FloatDType};
use models::{
    AnyLanguageModel, Checkpoint, GenerateOptions, LanguageModel, LeftPadding, ModelError,
    generate_batch,
};
use rstest::rstest;

use crate::devices::devices;
use crate::reference_case::{Expected, cases};
use crate::tiny_gpt2::{host, max_difference};

/// The expected numbers were computed in `f64` and are of order one, so all of the difference is what
/// `f32` rounds here, about 1e-6. Activations that differ are at least 5e-5 apart in some logit.
const TOLERANCE: f32 = 2e-5;

/// On CUDA, Burn's dense products round their operands to tf32, which has 11 bits.
const TF32_TOLERANCE: f32 = 2e-2;

/// The same, as a share of the largest logit: 16 roundings of an operand. On an H100 the largest of
/// all cases was 5.7e-3 (GPT-2 with tanh between its projections, logits up to 3.7).
const TF32_RELATIVE_TOLERANCE: f32 = 8e-3;

fn load(case: &Path, device: &Device, dtype: FloatDType) -> AnyLanguageModel {
    let checkpoint = Checkpoint::open(case).unwrap_or_else(|error| panic!("{error}"));
    AnyLanguageModel::load(&checkpoint, device, dtype).unwrap_or_else(|error| panic!("{error}"))
}

fn on_cpu(case: &Path) -> AnyLanguageModel {
    load(case, &Device::flex(), FloatDType::F32)
}

#[rstest]
fn logits_and_loss_equal_those_of_transformers(#[values("gpt2", "llama")] family: &str) {
    for device in devices() {
        let tolerance = if device == Device::flex() {
            TOLERANCE
        } else {
            TF32_TOLERANCE
        };
        let mut losses = 0;
        for case in cases(family) {
            let expected = Expected::of(&case);
            let model = load(&case, &device, FloatDType::F32);
            let rows = expected.rows("input_ids").unwrap();
            let ids = model.input_ids(&rows.concat(), rows.len()).unwrap();
            let logits = host(model.forward(ids.clone()).unwrap());
            let expected_logits = expected.floats("logits").unwrap();
            let difference = max_difference(&logits, &expected_logits);
            let tolerance_of_logits = if device == Device::flex() {
                tolerance
            } else {
                let scale = expected_logits
                    .iter()
                    .fold(0.0f32, |max, x| max.max(x.abs()));
                tolerance.max(TF32_RELATIVE_TOLERANCE * scale)
            };
            assert!(
                difference < tolerance_of_logits,
                "{} on {device:?}: logits differ by {difference}",
                case.display()
            );
            // An input of one token a row predicts nothing.
            match expected.floats("loss") {
                Some(expected) => {
                    let loss = host(model.loss(ids).unwrap())[0];
                    let difference = (loss - expected[0]).abs();
                    assert!(
                        difference < tolerance,
                        "{} on {device:?}: loss {loss}, not {}",
                        case.display(),
                        expected[0]
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
}

/// Continues the prompts greedily, past end tokens.
fn greedy(
    model: &AnyLanguageModel,
    prompts: &[Vec<u32>],
    new: usize,
    cache: bool,
) -> Vec<Vec<i64>> {
    let options = GenerateOptions {
        max_new_tokens: new,
        ignore_end: true,
        use_cache: cache,
        ..GenerateOptions::default()
    };
    let done = generate_batch(model, prompts, &options, |_, _| true).unwrap();
    done.iter()
        .map(|row| row.tokens.iter().map(|&id| i64::from(id)).collect())
        .collect()
}

fn tokens(ids: &[i64]) -> Vec<u32> {
    ids.iter().map(|&id| id as u32).collect()
}

#[rstest]
fn greedy_generation_equals_that_of_transformers(
    #[values("gpt2", "llama")] family: &str,
    #[values(true, false)] cache: bool,
) {
    let mut compared = 0;
    for case in cases(family) {
        let expected = Expected::of(&case);
        let Some(generated) = expected.rows("generated") else {
            continue;
        };
        let model = on_cpu(&case);
        for (prompt, continuation) in expected.rows("input_ids").unwrap().iter().zip(&generated) {
            let found = greedy(&model, &[tokens(prompt)], continuation.len(), cache);
            assert_eq!(found[0], *continuation, "{}", case.display());
            compared += 1;
        }
    }
    assert!(compared > 0, "no case has generated tokens");
}

/// The cases with rows of different lengths, and the rows without their padding.
fn padded_cases() -> Vec<(PathBuf, Expected, Vec<Vec<u32>>)> {
    let mut found = Vec::new();
    for case in cases("llama") {
        let expected = Expected::of(&case);
        let Some(ids) = expected.rows("padded_ids") else {
            continue;
        };
        let mask = expected.rows("padded_mask").unwrap();
        let rows = ids.iter().zip(&mask).map(|(ids, mask)| {
            let pads = mask.iter().take_while(|&&seen| seen == 0).count();
            tokens(&ids[pads..])
        });
        let rows: Vec<_> = rows.collect();
        assert_eq!(rows.len(), 3);
        assert!(rows.iter().any(|row| row.len() < ids[0].len()));
        found.push((case, expected, rows));
    }
    assert!(!found.is_empty(), "no case has padding");
    found
}

#[test]
fn logits_of_padded_rows_equal_those_of_transformers() {
    for (case, expected, rows) in padded_cases() {
        let model = on_cpu(&case);
        let (ids, padding) = LeftPadding::pad(&rows).unwrap();
        let ids = model.input_ids(&ids, rows.len()).unwrap();
        let logits = host(model.forward_padded(ids, &padding).unwrap());
        let expected = expected.floats("padded_logits").unwrap();
        let longest = rows.iter().map(Vec::len).max().unwrap();
        let vocab = model.vocab_size();
        for (row, &pads) in padding.counts().iter().enumerate() {
            let seen = (row * longest + pads) * vocab..(row + 1) * longest * vocab;
            let difference = max_difference(&logits[seen.clone()], &expected[seen]);
            assert!(
                difference < TOLERANCE,
                "{}, row {row}: logits differ by {difference}",
                case.display()
            );
        }
    }
}

#[rstest]
fn greedy_generation_of_padded_rows_equals_that_of_transformers(
    #[values(true, false)] cache: bool,
) {
    for (case, expected, rows) in padded_cases() {
        let expected = expected.rows("padded_generated").unwrap();
        let found = greedy(&on_cpu(&case), &rows, expected[0].len(), cache);
        assert_eq!(found, expected, "{}", case.display());
    }
}

#[rstest]
#[case::f16(FloatDType::F16, 11)]
#[case::bf16(FloatDType::BF16, 8)]
fn half_precision_llama_stays_within_rounding_of_f32(#[case] dtype: FloatDType, #[case] bits: i32) {
    for device in devices() {
        for case in cases("llama") {
            let expected = Expected::of(&case);
            let rows = expected.rows("input_ids").unwrap();
            let narrow = load(&case, &device, dtype);
            assert_eq!(narrow.head().dtype(), dtype.into());
            let ids = narrow.input_ids(&rows.concat(), rows.len()).unwrap();
            let narrow = host(narrow.forward(ids).unwrap());
            let wide = expected.floats("logits").unwrap();
            let scale = wide.iter().fold(0f32, |max, x| max.max(x.abs()));
            let error = max_difference(&narrow, &wide);
            // Some forty roundings of numbers of the size of the result lie between input and logits.
            let allowed = 16.0 * scale * 2f32.powi(-bits);
            assert!(
                error < allowed,
                "{} on {device:?}: {error} of {allowed}",
                case.display()
            );
            assert!(error > 0.0, "{}: nothing was rounded", case.display());
        }
    }
}
