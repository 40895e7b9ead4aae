//! Generation and sampling.

use models::{GenerateOptions, Gpt2, LanguageModel, ModelError, Sampler, StopReason, generate};
use rstest::rstest;
use serde_json::json;

use crate::tiny_gpt2::{POSITIONS, TinyGpt2, VOCAB, host};

/// A model that no token ends.
fn endless() -> Gpt2 {
    let mut tiny = TinyGpt2::new();
    tiny.config["eos_token_id"] = json!(null);
    tiny.model()
}

fn options(max_new_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_new_tokens,
        ..GenerateOptions::default()
    }
}

/// Greedy continuation without a cache: the whole context again for every token.
fn greedy(model: &Gpt2, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut context = prompt.to_vec();
    for _ in 0..count {
        let logits = host(
            model
                .forward(model.input_ids(&context, 1).unwrap())
                .unwrap(),
        );
        let last = &logits[(context.len() - 1) * VOCAB..];
        let best = (0..VOCAB)
            .max_by(|&a, &b| last[a].total_cmp(&last[b]))
            .unwrap();
        context.push(best as u32);
    }
    context[prompt.len()..].to_vec()
}

#[test]
fn cached_generation_equals_uncached() {
    let model = endless();
    for prompt in [vec![5], vec![3, 1, 4, 1, 5, 9], (0..12).collect()] {
        let expected = greedy(&model, &prompt, 12);
        let mut streamed = Vec::new();
        let done = generate(&model, &prompt, &options(12), |token| {
            streamed.push(token);
            true
        })
        .unwrap();
        assert_eq!(done.tokens, expected);
        assert_eq!(streamed, expected);
        assert_eq!(
            (done.prompt_tokens, done.stop),
            (prompt.len(), StopReason::MaxTokens)
        );
    }
}

#[test]
fn generation_stops_where_the_context_is_full() {
    let model = endless();
    let done = generate(&model, &[1; POSITIONS - 3], &options(100), |_| true).unwrap();
    // Three more tokens fit, and the last of them predicts one that does not have to.
    assert_eq!(done.tokens.len(), 4);
    assert_eq!(done.stop, StopReason::ContextFull);
}

#[test]
fn generation_stops_at_an_end_token_and_leaves_it_out() {
    let expected = greedy(&endless(), &[3, 1, 4], 8);
    let end = expected[5];
    let first = expected.iter().position(|&token| token == end).unwrap();
    let mut tiny = TinyGpt2::new();
    tiny.config["eos_token_id"] = json!([end]);
    let model = tiny.model();
    let done = generate(&model, &[3, 1, 4], &options(8), |_| true).unwrap();
    assert_eq!(done.tokens, expected[..first]);
    assert_eq!(done.stop, StopReason::EndOfText);
    let past = GenerateOptions {
        ignore_end: true,
        ..options(8)
    };
    let done = generate(&model, &[3, 1, 4], &past, |_| true).unwrap();
    assert_eq!(done.tokens, expected);
}

#[test]
fn generation_stops_when_the_callback_says_so() {
    let model = endless();
    let mut left = 3;
    let done = generate(&model, &[3, 1, 4], &options(10), |_| {
        left -= 1;
        left > 0
    })
    .unwrap();
    assert_eq!((done.tokens.len(), done.stop), (3, StopReason::Callback));
    let none = generate(&model, &[3, 1, 4], &options(0), |_| true).unwrap();
    assert_eq!((none.tokens.len(), none.stop), (0, StopReason::MaxTokens));
}

#[test]
fn a_seed_gives_the_same_text_and_another_seed_another() {
    let model = endless();
    let with_seed = |seed| {
        let options = GenerateOptions {
            temperature: 1.5,
            seed,
            ..options(15)
        };
        generate(&model, &[7, 8], &options, |_| true)
            .unwrap()
            .tokens
    };
    assert_eq!(with_seed(1), with_seed(1));
    assert_ne!(with_seed(1), with_seed(2));
}

#[rstest]
#[case::top_k(Some(1), None)]
#[case::top_p(None, Some(1e-6))]
fn sampling_from_one_token_is_greedy(#[case] top_k: Option<usize>, #[case] top_p: Option<f64>) {
    let model = endless();
    let options = GenerateOptions {
        temperature: 2.0,
        top_k,
        top_p,
        ..options(10)
    };
    let done = generate(&model, &[7, 8], &options, |_| true).unwrap();
    assert_eq!(done.tokens, greedy(&model, &[7, 8], 10));
}

#[test]
fn prompts_that_cannot_be_continued_are_refused() {
    let model = endless();
    let run = |prompt: &[u32]| generate(&model, prompt, &options(1), |_| true).unwrap_err();
    assert!(matches!(
        run(&[]),
        ModelError::TooFewTokens { found: 0, min: 1 }
    ));
    let error = run(&[1; POSITIONS + 1]);
    assert!(
        matches!(error, ModelError::TooManyTokens { found: 25, max: 24 }),
        "{error}"
    );
    assert!(matches!(
        run(&[VOCAB as u32]),
        ModelError::TokenOutOfRange { .. }
    ));
}

#[rstest]
#[case::negative(-1.0, None, None, "temperature")]
#[case::nan(f64::NAN, None, None, "temperature")]
#[case::no_tokens(1.0, Some(0), None, "top-k")]
#[case::no_probability(1.0, None, Some(0.0), "top-p")]
#[case::too_much_probability(1.0, None, Some(1.1), "top-p")]
fn options_that_cannot_be_used_are_named(
    #[case] temperature: f64,
    #[case] top_k: Option<usize>,
    #[case] top_p: Option<f64>,
    #[case] expected: &str,
) {
    let error = Sampler::new(temperature, top_k, top_p, 0).unwrap_err();
    assert!(
        matches!(&error, ModelError::InvalidOption { option, .. } if *option == expected),
        "{error}"
    );
}

/// How often each token is chosen in `count` draws.
fn shares(sampler: &mut Sampler, logits: &[f32], count: usize) -> Vec<f64> {
    let mut shares = vec![0.0; logits.len()];
    for _ in 0..count {
        shares[sampler.choose(logits).unwrap() as usize] += 1.0 / count as f64;
    }
    shares
}

/// Probabilities 0.5, 0.3, 0.15, 0.05, not in order.
const LOGITS: [f32; 4] = [-1.897_12, -std::f32::consts::LN_2, -2.995_732, -1.203_973];

#[rstest]
#[case::all(1.0, None, None, [0.15, 0.5, 0.05, 0.3])]
#[case::hot(2.0, None, None, [0.2081, 0.3799, 0.1201, 0.2943])]
#[case::two_largest(1.0, Some(2), None, [0.0, 0.625, 0.0, 0.375])]
#[case::most_probable(1.0, None, Some(0.75), [0.0, 0.625, 0.0, 0.375])]
#[case::reached_by_the_third(1.0, None, Some(0.81), [0.1579, 0.5263, 0.0, 0.3158])]
#[case::both(1.0, Some(3), Some(0.5), [0.0, 1.0, 0.0, 0.0])]
fn tokens_are_drawn_with_their_probabilities(
    #[case] temperature: f64,
    #[case] top_k: Option<usize>,
    #[case] top_p: Option<f64>,
    #[case] expected: [f64; 4],
) {
    let mut sampler = Sampler::new(temperature, top_k, top_p, 3).unwrap();
    let found = shares(&mut sampler, &LOGITS, 40_000);
    for (found, expected) in found.iter().zip(expected) {
        // Four standard deviations of a share near a half are 0.01.
        assert!((found - expected).abs() < 0.01, "{found} is not {expected}");
        assert_eq!(*found == 0.0, expected == 0.0);
    }
}

#[test]
fn of_equal_logits_the_first_is_likeliest() {
    let mut sampler = Sampler::new(0.0, None, None, 0).unwrap();
    assert_eq!(sampler.choose(&[1.0, 2.0, 2.0, 0.0]).unwrap(), 1);
}

#[test]
fn logits_that_are_not_finite_are_refused() {
    for temperature in [0.0, 1.0] {
        let mut sampler = Sampler::new(temperature, None, None, 0).unwrap();
        let error = sampler.choose(&[0.0, f32::NAN]).unwrap_err();
        assert!(
            matches!(error, ModelError::NonFiniteLogit { token: 1, .. }),
            "{error}"
        );
    }
}
