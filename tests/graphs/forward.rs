//! Forward passes and prompts of fixed shapes, captured where the device can: on the CPU the same
//! calls take the ordinary way.

use burn::tensor::{Device, FloatDType, Int, Tensor};
use burn_blr::graph::captures;
use models::{
    CapturedForward, Context, Decoder, DiffusionSampler, GenerateOptions, LanguageModel,
    LeftPadding, ModelError, PassInputs, SampleOptions, generate_batch, sample_images,
};

use crate::devices::devices;
use crate::small_models::{VOCAB, alone, assert_close, dit, gpt2, host, llama, noise, vit};

const DTYPES: [FloatDType; 2] = [FloatDType::F32, FloatDType::BF16];

/// Runs of a captured pass against ordinary ones on the same inputs, one after the other.
fn check<I: PassInputs, const D: usize>(
    captured: &CapturedForward<'_, I, D>,
    inputs: &[I],
    expected: impl Fn(I) -> Tensor<D>,
    device: &Device,
    dtype: FloatDType,
) {
    let what = format!("{device:?} {dtype:?}");
    assert_eq!(captured.not_captured(), None, "{what}");
    assert_eq!(captured.is_captured(), captures(device), "{what}");
    // All of them before any is looked at: an output must outlive later runs.
    let outputs: Vec<_> = inputs
        .iter()
        .map(|input| captured.run(input.clone()).unwrap())
        .collect();
    let outputs: Vec<_> = outputs.into_iter().map(host).collect();
    for (found, input) in outputs.iter().zip(inputs) {
        let expected = host(expected(input.clone()));
        assert!(expected.iter().any(|value| value.abs() > 1e-4), "{what}");
        assert_close(found, &expected, dtype, &what);
    }
    assert_ne!(outputs[0], outputs[1], "{what}: inputs were not taken over");
}

#[test]
fn images_give_the_scores_of_the_ordinary_pass() {
    let _alone = alone();
    for device in devices() {
        for dtype in DTYPES {
            let model = vit(&device, dtype);
            // The second shape has its position embeddings interpolated.
            for shape in [[2, 3, 32, 32], [1, 3, 40, 24]] {
                let images: Vec<_> = (0..3).map(|_| noise(shape, &device)).collect();
                let captured = CapturedForward::vit(&model, shape).unwrap();
                let forward = |pixels| model.forward(pixels).unwrap();
                check(&captured, &images, forward, &device, dtype);
            }
        }
    }
}

#[test]
fn latents_give_the_noise_of_the_ordinary_pass() {
    let _alone = alone();
    for device in devices() {
        for dtype in DTYPES {
            let model = dit(&device, dtype);
            let inputs = |step: i64| {
                let x = noise([2, 4, 8, 8], &device);
                let t = model.timesteps(&[100 * step, 999]);
                (x, t, model.classes(&[step, 10]).unwrap())
            };
            let inputs: Vec<_> = (0..3).map(inputs).collect();
            let captured = CapturedForward::dit(&model, 2).unwrap();
            let forward = |(x, t, y)| model.forward(x, t, y).unwrap();
            check(&captured, &inputs, forward, &device, dtype);
        }
    }
}

/// Rows of ids that a small model has.
fn text(rows: usize, tokens: usize, seed: usize) -> Vec<u32> {
    (0..rows * tokens)
        .map(|n| ((n * 37 + seed * 11 + 5) % VOCAB) as u32)
        .collect()
}

#[test]
fn texts_give_the_logits_of_the_ordinary_pass() {
    let _alone = alone();
    for device in devices() {
        for dtype in DTYPES {
            for model in [llama(&device, dtype), gpt2(&device, dtype)] {
                let ids = |seed| model.input_ids(&text(2, 9, seed), 2).unwrap();
                let ids: Vec<Tensor<2, Int>> = (0..3).map(ids).collect();
                let captured = CapturedForward::text(&model, 2, 9).unwrap();
                let forward = |ids| model.forward(ids).unwrap();
                check(&captured, &ids, forward, &device, dtype);
            }
        }
    }
}

#[test]
fn prompts_of_one_length_give_the_logits_and_the_cache_of_the_ordinary_pass() {
    let _alone = alone();
    let (rows, length) = (2, 9);
    for device in devices() {
        for dtype in DTYPES {
            for model in [llama(&device, dtype), gpt2(&device, dtype)] {
                let what = format!("{device:?} {dtype:?}");
                let ragged = [vec![1u32; length], vec![1; 5]];
                let (_, padding) = LeftPadding::pad(&ragged).unwrap();
                let unpadded = LeftPadding::pad(&[vec![1u32], vec![1]]).unwrap().1;
                for padding in [unpadded, padding] {
                    let empty = || {
                        let cache = model.cache(rows, 20);
                        cache.with_padding(padding.clone()).unwrap()
                    };
                    let mut prompts = Decoder::with_length(&model, empty(), length).unwrap();
                    assert_eq!(prompts.not_captured(), None, "{what}");
                    assert_eq!(prompts.is_captured(), captures(&device), "{what}");
                    for seed in 0..3 {
                        prompts.rewind(0).unwrap();
                        let ids = text(rows, length, seed);
                        let found = prompts.step(&ids).unwrap();
                        let ids = model.input_ids(&ids, rows).unwrap();
                        let expected = model.last_logits(ids, Context::Padded(&padding)).unwrap();
                        assert_close(&found, &host(expected), dtype, &what);
                    }
                    // What follows sees the last prompt alone.
                    let cache = prompts.into_cache();
                    assert_eq!(cache.tokens(), length, "{what}");
                    let next = text(rows, 1, 7);
                    let found = Decoder::eager(&model, cache).step(&next).unwrap();
                    let mut whole = Vec::new();
                    for (row, next) in text(rows, length, 2).chunks(length).zip(&next) {
                        whole.extend(row);
                        whole.push(*next);
                    }
                    let whole = model.input_ids(&whole, rows).unwrap();
                    let expected = model.last_logits(whole, Context::Padded(&padding)).unwrap();
                    assert_close(&found, &host(expected), dtype, &what);
                }
            }
        }
    }
}

#[test]
fn longer_texts_go_through_in_pieces() {
    let _alone = alone();
    for device in devices() {
        let model = llama(&device, FloatDType::BF16);
        let mut pieces = Decoder::with_length(&model, model.cache(1, 24), 8).unwrap();
        let ids = text(1, 24, 0);
        let mut found = Vec::new();
        for piece in ids.chunks(8) {
            found = pieces.step(piece).unwrap();
        }
        let ids = model.input_ids(&ids, 1).unwrap();
        let expected = model.last_logits(ids, Context::Empty).unwrap();
        assert_close(&found, &host(expected), FloatDType::BF16, "in pieces");
        assert!(matches!(
            pieces.step(&text(1, 8, 0)),
            Err(ModelError::TooManyTokens { found: 32, max: 24 })
        ));
        assert!(matches!(
            pieces.rewind(25),
            Err(ModelError::TooManyTokens { found: 25, max: 24 })
        ));
    }
}

#[test]
fn a_captured_pass_alone_writes_its_output_anew() {
    let _alone = alone();
    for device in devices() {
        let model = vit(&device, FloatDType::BF16);
        let forward = CapturedForward::vit(&model, [1, 3, 32, 32]).unwrap();
        let expected = host(forward.run(noise([1, 3, 32, 32], &device)).unwrap());
        match forward.into_captured() {
            Ok(pass) => {
                assert!(pass.spoil_output(), "{device:?}");
                let spoiled = host(pass.output().clone());
                assert!(spoiled.iter().all(|value| value.is_nan()), "{device:?}");
                pass.replay().unwrap();
                assert_eq!(host(pass.output().clone()), expected, "{device:?}");
            }
            Err(error) => {
                assert!(!captures(&device), "{device:?}: {error}");
                assert_eq!(error.reason, "the device captures no graphs");
            }
        }
    }
}

#[test]
fn other_shapes_are_refused_and_those_that_a_model_cannot_take() {
    let _alone = alone();
    for device in devices() {
        let (vit, dit) = (vit(&device, FloatDType::F32), dit(&device, FloatDType::F32));
        let llama = llama(&device, FloatDType::F32);
        let forward = CapturedForward::vit(&vit, [2, 3, 32, 32]).unwrap();
        for shape in [[1, 3, 32, 32], [2, 3, 40, 32]] {
            assert!(matches!(
                forward.run(noise(shape, &device)),
                Err(ModelError::InputShape { tensor: "pixels", found, expected })
                    if found == shape && expected == [2, 3, 32, 32]
            ));
        }
        assert!(matches!(
            CapturedForward::vit(&vit, [1, 4, 32, 32]),
            Err(ModelError::PixelShape { .. })
        ));

        let forward = CapturedForward::dit(&dit, 2).unwrap();
        let inputs = (
            noise([2, 4, 8, 8], &device),
            dit.timesteps(&[3]),
            dit.classes(&[1, 2]).unwrap(),
        );
        assert!(matches!(
            forward.run(inputs),
            Err(ModelError::InputShape { tensor: "t", .. })
        ));
        assert!(matches!(
            CapturedForward::dit(&dit, 0),
            Err(ModelError::InputShape { tensor: "x", .. })
        ));

        let forward = CapturedForward::text(&llama, 1, 4).unwrap();
        let ids = llama.input_ids(&text(1, 5, 0), 1).unwrap();
        assert!(matches!(
            forward.run(ids),
            Err(ModelError::InputShape {
                tensor: "input_ids",
                ..
            })
        ));
        assert!(matches!(
            CapturedForward::text(&llama, 1, 65),
            Err(ModelError::TooManyTokens { found: 65, max: 64 })
        ));
        assert!(matches!(
            CapturedForward::text(&llama, 1, 0),
            Err(ModelError::TooFewTokens { .. })
        ));
        assert!(matches!(
            CapturedForward::text(&llama, 0, 4),
            Err(ModelError::Batch { .. })
        ));
        let mut prompts = Decoder::with_length(&llama, llama.cache(1, 8), 4).unwrap();
        assert!(matches!(
            prompts.step(&text(1, 3, 0)),
            Err(ModelError::InputShape {
                tensor: "input_ids",
                ..
            })
        ));
    }
}

#[test]
fn captured_steps_draw_the_images_of_ordinary_ones() {
    let _alone = alone();
    for device in devices() {
        let model = dit(&device, FloatDType::F32);
        for sampler in [DiffusionSampler::Ddpm, DiffusionSampler::Ddim] {
            // Nine images go through in batches of eight and one: two captures.
            for (images, guidance) in [(2, 1.0), (9, 3.0)] {
                let draw = |capture| {
                    let options = SampleOptions {
                        classes: (0..images).map(|n| n % 10).collect(),
                        sampler,
                        steps: 3,
                        guidance,
                        seed: 4,
                        capture,
                    };
                    host(sample_images(&model, &options, |_, _| ()).unwrap())
                };
                let what = format!("{device:?} {sampler:?} {images}");
                // An error of a step is multiplied on the way: pixels are up to some tens.
                assert_close(&draw(true), &draw(false), FloatDType::F32, &what);
            }
        }
    }
}

#[test]
fn captured_prompts_are_continued_as_ordinary_ones() {
    let _alone = alone();
    for device in devices() {
        let model = llama(&device, FloatDType::F32);
        let prompts = [vec![3u32, 1, 4], vec![1, 5]];
        let tokens = |capture_prompt| {
            let options = GenerateOptions {
                max_new_tokens: 8,
                ignore_end: true,
                capture_prompt,
                ..GenerateOptions::default()
            };
            let rows = generate_batch(&model, &prompts, &options, |_, _| true).unwrap();
            rows.into_iter().map(|row| row.tokens).collect::<Vec<_>>()
        };
        assert_eq!(tokens(true), tokens(false), "{device:?}");
    }
}
