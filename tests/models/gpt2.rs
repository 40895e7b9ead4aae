//! The forward pass of GPT-2: cache, dtypes, loss, and what it refuses.

use burn::tensor::{FloatDType, Int, Tensor};
use models::{Gpt2, LanguageModel, ModelError};
use rstest::rstest;
use serde_json::json;

use crate::tiny_gpt2::{POSITIONS, TinyGpt2, VOCAB, host, max_difference};

/// Ids that use most of the vocabulary.
fn some_ids(count: usize) -> Vec<u32> {
    (0..count)
        .map(|n| ((n * n * 7 + 3 * n + 1) % VOCAB) as u32)
        .collect()
}

fn ids(model: &Gpt2, ids: &[u32], batch: usize) -> Tensor<2, Int> {
    model.input_ids(ids, batch).unwrap()
}

fn logits(model: &Gpt2, tokens: &[u32], batch: usize) -> Vec<f32> {
    host(model.forward(ids(model, tokens, batch)).unwrap())
}

#[test]
fn logits_have_a_row_per_token() {
    let model = TinyGpt2::new().model();
    let output = model.forward(ids(&model, &some_ids(10), 2)).unwrap();
    assert_eq!(output.dims(), [2, 5, VOCAB]);
    assert!(host(output).iter().all(|x| x.is_finite()));
}

#[test]
fn names_without_the_prefix_are_the_same_model() {
    let tokens = some_ids(8);
    let with_prefix = logits(&TinyGpt2::new().model(), &tokens, 1);
    let bare = logits(&TinyGpt2::new().without_prefix().model(), &tokens, 1);
    assert_eq!(with_prefix, bare);
}

#[rstest]
#[case::one_by_one(&[1; 24])]
#[case::prompt_then_one_by_one(&[21, 1, 1, 1])]
#[case::pieces(&[5, 7, 1, 11])]
#[case::all_at_once(&[24])]
fn cached_logits_equal_uncached_ones(#[case] pieces: &[usize]) {
    let model = TinyGpt2::new().model();
    let rows = [some_ids(POSITIONS), some_ids(POSITIONS + 5)[5..].to_vec()];
    let expected = logits(&model, &rows.concat(), 2);
    let mut cache = model.cache(2, POSITIONS);
    let mut start = 0;
    for &count in pieces {
        let piece = [
            &rows[0][start..start + count],
            &rows[1][start..start + count],
        ]
        .concat();
        let output = model
            .forward_cached(ids(&model, &piece, 2), &mut cache)
            .unwrap();
        let output = host(output);
        for row in 0..2 {
            let at = (row * POSITIONS + start) * VOCAB;
            let expected = &expected[at..at + count * VOCAB];
            let found = &output[row * count * VOCAB..(row + 1) * count * VOCAB];
            let difference = max_difference(found, expected);
            assert!(
                difference < 2e-5,
                "row {row}, tokens from {start}: {difference}"
            );
        }
        start += count;
    }
    assert_eq!(cache.tokens(), POSITIONS);
}

#[test]
fn a_cleared_cache_starts_over() {
    let model = TinyGpt2::new().model();
    let mut cache = model.cache(1, 8);
    let first = model
        .next_token_logits(ids(&model, &some_ids(6), 1), &mut cache)
        .unwrap();
    cache.clear();
    let again = model
        .next_token_logits(ids(&model, &some_ids(6), 1), &mut cache)
        .unwrap();
    assert_eq!(host(first), host(again));
}

#[test]
fn the_next_token_logits_are_the_last_row() {
    let model = TinyGpt2::new().model();
    let all = logits(&model, &some_ids(9), 1);
    let mut cache = model.cache(1, 9);
    let last = model
        .next_token_logits(ids(&model, &some_ids(9), 1), &mut cache)
        .unwrap();
    assert_eq!(last.dims(), [1, VOCAB]);
    assert!(max_difference(&host(last), &all[8 * VOCAB..]) < 2e-5);
}

#[test]
fn a_token_changes_no_logits_before_it() {
    let model = TinyGpt2::new().model();
    let tokens = some_ids(12);
    let mut changed = tokens.clone();
    changed[7] = (changed[7] + 1) % VOCAB as u32;
    let (a, b) = (logits(&model, &tokens, 1), logits(&model, &changed, 1));
    assert_eq!(a[..7 * VOCAB], b[..7 * VOCAB]);
    for row in 7..12 {
        let range = row * VOCAB..(row + 1) * VOCAB;
        assert!(
            max_difference(&a[range.clone()], &b[range]) > 1e-3,
            "row {row}"
        );
    }
}

#[test]
fn rows_of_a_batch_do_not_see_each_other() {
    let model = TinyGpt2::new().model();
    let (a, b) = (some_ids(7), some_ids(14)[7..].to_vec());
    let joined = logits(&model, &[a.clone(), b.clone()].concat(), 2);
    let apart = [logits(&model, &a, 1), logits(&model, &b, 1)].concat();
    assert!(max_difference(&joined, &apart) < 1e-5);
}

#[rstest]
#[case::f16(FloatDType::F16, 11)]
#[case::bf16(FloatDType::BF16, 8)]
fn half_precision_stays_within_rounding_of_f32(#[case] dtype: FloatDType, #[case] bits: i32) {
    let tiny = TinyGpt2::new();
    let tokens = some_ids(20);
    let wide = logits(&tiny.model(), &tokens, 1);
    let narrow = tiny.load(dtype).unwrap();
    assert_eq!(narrow.token_embedding.weight.val().dtype(), dtype.into());
    assert_eq!(
        narrow.blocks[0].attention_norm.scale.val().dtype(),
        FloatDType::F32.into()
    );
    let narrow = logits(&narrow, &tokens, 1);
    let scale = wide.iter().fold(0f32, |max, x| max.max(x.abs()));
    let error = max_difference(&narrow, &wide);
    // Some thirty roundings of numbers of the size of the result lie between input and logits.
    let allowed = 16.0 * scale * 2f32.powi(-bits);
    assert!(error < allowed, "{error} of {allowed}");
    assert!(error > 0.0, "the weights were not rounded");
}

#[test]
fn the_loss_is_the_mean_cross_entropy_of_the_next_token() {
    let model = TinyGpt2::new().model();
    let (batch, tokens) = (3, 8);
    let all = some_ids(batch * tokens);
    let rows = logits(&model, &all, batch);
    let mut expected = 0.0;
    for (n, logits) in rows.chunks(VOCAB).enumerate() {
        if n % tokens == tokens - 1 {
            continue; // the last token of a row predicts nothing
        }
        let total: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        expected += total.ln() - f64::from(logits[all[n + 1] as usize]);
    }
    expected /= (batch * (tokens - 1)) as f64;
    let loss = host(model.loss(ids(&model, &all, batch)).unwrap());
    assert!(
        (f64::from(loss[0]) - expected).abs() < 1e-5,
        "{} is not {expected}",
        loss[0]
    );
}

#[test]
fn the_loss_of_a_large_vocabulary_is_summed_in_pieces() {
    // 299 rows of 60,000 logits are more than are held at a time.
    let (vocab, tokens) = (60_000, 300);
    let model = TinyGpt2::with_config(json!({
        "model_type": "gpt2", "vocab_size": vocab, "n_positions": tokens,
        "n_embd": 4, "n_layer": 1, "n_head": 1, "n_inner": 4,
    }))
    .model();
    let all: Vec<u32> = (0..tokens)
        .map(|n| (n * 199 + 7) as u32 % vocab as u32)
        .collect();
    let rows = logits(&model, &all, 1);
    let mut expected = 0.0;
    for (logits, &next) in rows.chunks(vocab).zip(&all[1..]) {
        let total: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        expected += total.ln() - f64::from(logits[next as usize]);
    }
    let nll = f64::from(host(model.nll(ids(&model, &all, 1)).unwrap())[0]);
    assert!(
        (nll / expected - 1.0).abs() < 1e-5,
        "{nll} is not {expected}"
    );
}

#[test]
fn more_tokens_than_positions_are_refused() {
    let model = TinyGpt2::new().model();
    let error = model
        .forward(ids(&model, &some_ids(POSITIONS + 1), 1))
        .unwrap_err();
    assert!(
        matches!(error, ModelError::TooManyTokens { found: 25, max: 24 }),
        "{error}"
    );
    let mut cache = model.cache(1, 1000);
    assert_eq!(cache.capacity(), POSITIONS);
    model
        .forward_cached(ids(&model, &some_ids(POSITIONS), 1), &mut cache)
        .unwrap();
    let error = model
        .forward_cached(ids(&model, &[1], 1), &mut cache)
        .unwrap_err();
    assert!(
        matches!(error, ModelError::TooManyTokens { found: 25, max: 24 }),
        "{error}"
    );
}

#[test]
fn a_cache_that_does_not_fit_is_refused() {
    let model = TinyGpt2::new().model();
    let mut small = model.cache(1, 4);
    let error = model
        .forward_cached(ids(&model, &some_ids(5), 1), &mut small)
        .unwrap_err();
    assert!(
        matches!(error, ModelError::TooManyTokens { found: 5, max: 4 }),
        "{error}"
    );
    let error = model
        .forward_cached(ids(&model, &some_ids(4), 2), &mut small)
        .unwrap_err();
    assert!(
        matches!(error, ModelError::CacheMismatch { key: "rows", .. }),
        "{error}"
    );
    let mut config = TinyGpt2::new().config;
    config["n_layer"] = json!(3);
    let other = TinyGpt2::with_config(config).model();
    let error = other
        .forward_cached(ids(&model, &some_ids(2), 1), &mut small)
        .unwrap_err();
    assert!(
        matches!(error, ModelError::CacheMismatch { key: "layers", .. }),
        "{error}"
    );
    assert_eq!(small.tokens(), 0);
}

#[test]
fn ids_outside_the_vocabulary_are_refused() {
    let model = TinyGpt2::new().model();
    let error = model.input_ids(&[1i64, 2, VOCAB as i64], 1).unwrap_err();
    assert!(
        matches!(
            error,
            ModelError::TokenOutOfRange {
                found: 37,
                position: 2,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(
        error.to_string(),
        "token id 37 at position 2; expected 0 to 36"
    );
    let error = model.input_ids(&[-1i64], 1).unwrap_err();
    assert!(
        matches!(error, ModelError::TokenOutOfRange { found: -1, .. }),
        "{error}"
    );
}

#[test]
fn ids_that_do_not_fill_the_rows_are_refused() {
    let model = TinyGpt2::new().model();
    for (count, batch) in [(5, 2), (3, 0), (0, 1)] {
        let error = model.input_ids(&some_ids(count), batch).unwrap_err();
        assert!(
            matches!(error, ModelError::Batch { .. }),
            "{count}, {batch}: {error}"
        );
    }
    let error = model.loss(ids(&model, &[1], 1)).unwrap_err();
    assert!(
        matches!(error, ModelError::TooFewTokens { found: 1, min: 2 }),
        "{error}"
    );
}
