//! Token after token, captured where the device can.

use burn::tensor::FloatDType;
use models::{
    AnyLanguageModel, Context, Decoder, GenerateOptions, LanguageModel, LeftPadding, ModelError,
    generate_batch,
};

use crate::devices::devices;
use crate::small_models::{VOCAB, alone, gpt2, llama, tolerance};

fn likeliest(logits: &[f32]) -> Vec<u32> {
    let best = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
    logits
        .chunks(VOCAB)
        .map(|row| best(row).unwrap() as u32)
        .collect()
}

/// Steps of a decoder against the whole context at once, through a cache with `padding`.
fn check(model: &AnyLanguageModel, prompts: &[Vec<u32>], dtype: FloatDType, what: &str) {
    let (ids, padding) = LeftPadding::pad(prompts).unwrap();
    let rows = prompts.len();
    let mut cache = model.cache(rows, 40).with_padding(padding.clone()).unwrap();
    let input = model.input_ids(&ids, rows).unwrap();
    let logits = model
        .last_logits(input, Context::Cached(&mut cache))
        .unwrap();
    let mut logits: Vec<f32> = logits.try_into_vec_as().unwrap();
    let mut context: Vec<Vec<u32>> = ids
        .chunks(ids.len() / rows)
        .map(|row| row.to_vec())
        .collect();
    let mut decoder = Decoder::new(model, cache).unwrap();
    for step in 0..20 {
        if step == 12 {
            // The cache may change hands.
            let cache = decoder.into_cache();
            assert_eq!(cache.tokens(), context[0].len(), "{what}");
            decoder = Decoder::eager(model, cache);
        }
        let next = likeliest(&logits);
        for (row, &token) in context.iter_mut().zip(&next) {
            row.push(token);
        }
        logits = decoder.step(&next).unwrap();
        let all = model.input_ids(&context.concat(), rows).unwrap();
        let expected = model.last_logits(all, Context::Padded(&padding)).unwrap();
        let expected: Vec<f32> = expected.try_into_vec_as().unwrap();
        for (found, expected) in logits.iter().zip(&expected) {
            assert!(
                (found - expected).abs() <= tolerance(dtype),
                "{what}, step {step}: {found}, expected {expected}"
            );
        }
    }
}

#[test]
fn steps_give_the_logits_of_the_whole_context() {
    let _alone = alone();
    for device in devices() {
        for dtype in [FloatDType::F32, FloatDType::BF16] {
            for model in [llama(&device, dtype), gpt2(&device, dtype)] {
                let what = format!("{device:?} {dtype:?}");
                check(&model, &[vec![3, 1, 4, 1, 5]], dtype, &what);
                let ragged = [vec![3, 1, 4, 1, 5, 9], vec![2], vec![7, 1, 8]];
                check(&model, &ragged, dtype, &what);
            }
        }
    }
}

#[test]
fn a_device_that_captures_graphs_captures_the_steps() {
    let _alone = alone();
    for device in devices() {
        let model = llama(&device, FloatDType::BF16);
        let mut cache = model.cache(1, 40);
        let ids = model.input_ids(&[1u32, 2], 1).unwrap();
        model.last_logits(ids, Context::Cached(&mut cache)).unwrap();
        let decoder = Decoder::new(&model, cache).unwrap();
        assert_eq!(decoder.not_captured(), None, "{device:?}");
        assert_eq!(
            decoder.is_captured(),
            burn_blr::graph::captures(&device),
            "{device:?}"
        );
    }
}

#[test]
fn a_full_cache_and_unknown_ids_are_errors() {
    let _alone = alone();
    for device in devices() {
        let model = llama(&device, FloatDType::F32);
        let mut cache = model.cache(1, 4);
        let ids = model.input_ids(&[1u32, 2], 1).unwrap();
        model.last_logits(ids, Context::Cached(&mut cache)).unwrap();
        let mut decoder = Decoder::new(&model, cache).unwrap();
        assert!(matches!(
            decoder.step(&[VOCAB as u32]),
            Err(ModelError::TokenOutOfRange { .. })
        ));
        assert!(matches!(
            decoder.step(&[1, 2, 3]),
            Err(ModelError::InputShape { tensor: "input_ids", found, expected })
                if found == [1, 3] && expected == [1, 1]
        ));
        decoder.step(&[1]).unwrap();
        decoder.step(&[2]).unwrap();
        assert!(matches!(
            decoder.step(&[3]),
            Err(ModelError::TooManyTokens { found: 5, max: 4 })
        ));
    }
}

#[test]
fn captured_generations_agree_with_short_ones_that_are_not() {
    let _alone = alone();
    // The long one captures its steps where the device can, the short one does not.
    for device in devices() {
        let model = llama(&device, FloatDType::F32);
        let prompts = [vec![3u32, 1, 4], vec![1, 5]];
        let tokens = |count: usize| {
            let options = GenerateOptions {
                max_new_tokens: count,
                ignore_end: true,
                capture: true,
                ..GenerateOptions::default()
            };
            let rows = generate_batch(&model, &prompts, &options, |_, _| true).unwrap();
            rows.into_iter().map(|row| row.tokens).collect::<Vec<_>>()
        };
        let (long, short) = (tokens(24), tokens(8));
        for (long, short) in long.iter().zip(&short) {
            assert_eq!(&long[..8], short, "{device:?}");
        }
    }
}
