//! The loss over a text, window by window.

use models::{Gpt2, LanguageModel, ModelError, text_loss};
use rstest::rstest;

use crate::tiny_gpt2::{TinyGpt2, VOCAB, host};

fn text(tokens: usize) -> Vec<u32> {
    (0..tokens)
        .map(|n| ((n * n * 5 + n) % VOCAB) as u32)
        .collect()
}

/// The definition, a window at a time, from the logits.
fn by_hand(model: &Gpt2, tokens: &[u32], window: usize) -> (f64, usize) {
    let (mut nll, mut count) = (0.0, 0);
    for ids in tokens.chunks(window).filter(|ids| ids.len() >= 2) {
        let logits = host(model.forward(model.input_ids(ids, 1).unwrap()).unwrap());
        for (row, &next) in logits.chunks(VOCAB).zip(&ids[1..]) {
            let total: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
            nll += total.ln() - f64::from(row[next as usize]);
            count += 1;
        }
    }
    (nll, count)
}

#[rstest]
#[case::less_than_a_window(17, None, 24, 16)]
#[case::exactly_full_windows(48, None, 24, 46)]
#[case::a_shorter_last_window(60, None, 24, 57)]
#[case::a_last_window_of_one_token(49, None, 24, 46)]
#[case::a_last_window_of_two_tokens(50, None, 24, 47)]
#[case::shorter_windows(60, Some(7), 7, 51)]
#[case::no_longer_than_the_model(60, Some(1000), 24, 57)]
fn every_window_predicts_its_own_tokens(
    #[case] tokens: usize,
    #[case] window: Option<usize>,
    #[case] length: usize,
    #[case] predicted: usize,
    #[values(1, 2, 16)] batch: usize,
) {
    let model = TinyGpt2::new().model();
    let tokens = text(tokens);
    let (nll, count) = by_hand(&model, &tokens, length);
    let mut calls = Vec::new();
    let found = text_loss(&model, &tokens, window, batch, |done, total| {
        calls.push((done, total))
    })
    .unwrap();
    assert_eq!((found.tokens, count), (predicted, predicted));
    assert!(
        (found.nll / nll - 1.0).abs() < 1e-6,
        "{} is not {nll}",
        found.nll
    );
    assert!((found.loss() - nll / predicted as f64).abs() < 1e-5);
    assert!((found.perplexity().ln() - found.loss()).abs() < 1e-12);
    let &(done, total) = calls.last().unwrap();
    assert_eq!(done, total);
}

#[test]
fn texts_without_a_prediction_are_refused() {
    let model = TinyGpt2::new().model();
    let run = |tokens: &[u32], window, batch| {
        text_loss(&model, tokens, window, batch, |_, _| ()).unwrap_err()
    };
    for tokens in 0..2 {
        let error = run(&text(tokens), None, 1);
        assert!(
            matches!(error, ModelError::TooFewTokens { min: 2, .. }),
            "{error}"
        );
    }
    assert!(matches!(
        run(&text(9), Some(1), 1),
        ModelError::TooFewTokens { .. }
    ));
    assert!(matches!(
        run(&text(9), Some(0), 1),
        ModelError::TooFewTokens { .. }
    ));
    assert!(matches!(
        run(&text(9), None, 0),
        ModelError::InvalidOption { .. }
    ));
    assert!(matches!(
        run(&[1, 999], None, 1),
        ModelError::TokenOutOfRange { .. }
    ));
}
