//! Llama: loading, cache, padding, random weights, and what it refuses.

use std::fs;

use burn::module::Module;
use burn::tensor::{Device, FloatDType};
use burn_blr::{Method, OutputOrder, Structure};
use models::{
    Checkpoint, Gpt2, Gpt2Config, LanguageModel, LeftPadding, Llama, LlamaConfig, ModelError, Plan,
    Rule, generate_batch, linear_layers,
};
use rstest::rstest;
use safetensors::SafeTensors;
use serde_json::json;

use crate::reference_case::{CaseCopy, root};
use crate::tiny_gpt2::{TinyGpt2, host, max_difference};

fn load(copy: &CaseCopy) -> Result<Llama, ModelError> {
    Llama::load(
        &Checkpoint::open(copy.path())?,
        &Device::flex(),
        FloatDType::F32,
    )
}

fn case(name: &str) -> Llama {
    load(&CaseCopy::new("llama", name)).unwrap()
}

/// Why a case does not load after `edit`; checks that the text is one line.
fn error_after(name: &str, edit: impl FnOnce(&CaseCopy)) -> ModelError {
    let copy = CaseCopy::new("llama", name);
    edit(&copy);
    let error = load(&copy).expect_err("the checkpoint should be refused");
    assert_eq!(error.to_string().lines().count(), 1, "{error}");
    error
}

fn ids(count: usize) -> Vec<u32> {
    (0..count)
        .map(|n| ((n * n * 7 + 3 * n + 1) % 97) as u32)
        .collect()
}

fn logits(model: &impl LanguageModel, tokens: &[u32], batch: usize) -> Vec<f32> {
    host(
        model
            .forward(model.input_ids(tokens, batch).unwrap())
            .unwrap(),
    )
}

/// Rewrites the weights of a copy, tensor by tensor.
fn rewrite(copy: &CaseCopy, change: impl Fn(&str, &mut Vec<u8>), add: &[(&str, Vec<f32>)]) {
    let path = copy.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut stored: Vec<_> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let mut data = view.data().to_vec();
            change(&name, &mut data);
            (name, view.dtype(), view.shape().to_vec(), data)
        })
        .collect();
    for (name, values) in add {
        let data = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let shape = vec![values.len()];
        stored.push((name.to_string(), safetensors::Dtype::F32, shape, data));
    }
    let views = stored.iter().map(|(name, dtype, shape, data)| {
        let view = safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap();
        (name, view)
    });
    safetensors::serialize_to_file(views.collect::<Vec<_>>(), None, &path).unwrap();
}

#[rstest]
#[case::one_by_one(&[1; 16])]
#[case::prompt_then_one_by_one(&[13, 1, 1, 1])]
#[case::pieces(&[5, 2, 1, 8])]
fn cached_logits_equal_uncached_ones(#[case] pieces: &[usize]) {
    let model = case("rope_llama3");
    let (tokens, vocab) = (16, model.vocab_size());
    let rows = [ids(tokens), ids(tokens + 5)[5..].to_vec()];
    let expected = logits(&model, &rows.concat(), 2);
    let mut cache = model.cache(2, tokens);
    let mut start = 0;
    for &count in pieces {
        let piece = rows.each_ref().map(|row| &row[start..start + count]);
        let input = model.input_ids(&piece.concat(), 2).unwrap();
        let output = host(model.forward_cached(input, &mut cache).unwrap());
        for row in 0..2 {
            let at = (row * tokens + start) * vocab;
            let found = &output[row * count * vocab..(row + 1) * count * vocab];
            let difference = max_difference(found, &expected[at..at + count * vocab]);
            assert!(
                difference < 2e-5,
                "row {row}, tokens from {start}: {difference}"
            );
        }
        start += count;
    }
    assert_eq!(cache.tokens(), tokens);
}

#[test]
fn a_padded_row_gives_what_it_gives_alone() {
    fn check(model: &impl LanguageModel) {
        let rows = [ids(9), ids(3), ids(14)[8..].to_vec(), ids(1)];
        let rows = rows.map(|row| row.iter().map(|id| id % 37).collect::<Vec<_>>());
        let (padded, padding) = LeftPadding::pad(&rows).unwrap();
        assert_eq!(padding.counts(), [0, 6, 3, 8]);
        let vocab = model.vocab_size();
        let input = || model.input_ids(&padded, 4).unwrap();
        let whole = host(model.forward_padded(input(), &padding).unwrap());
        let mut cache = model.cache(4, 12).with_padding(padding.clone()).unwrap();
        let last = host(model.next_token_logits(input(), &mut cache).unwrap());
        let next = model.input_ids(&[5u32, 6, 7, 8], 4).unwrap();
        let next = host(model.next_token_logits(next, &mut cache).unwrap());
        for (n, row) in rows.iter().enumerate() {
            let alone = logits(model, row, 1);
            let at = (n * 9 + padding.counts()[n]) * vocab;
            let found = &whole[at..(n + 1) * 9 * vocab];
            assert!(max_difference(found, &alone) < 2e-5, "row {n}");
            let end = &alone[(row.len() - 1) * vocab..];
            let found = &last[n * vocab..(n + 1) * vocab];
            assert!(max_difference(found, end) < 2e-5, "row {n}, cached");
            let longer = [row.as_slice(), &[5 + n as u32]].concat();
            let alone = logits(model, &longer, 1);
            let found = &next[n * vocab..(n + 1) * vocab];
            let end = &alone[row.len() * vocab..];
            assert!(
                max_difference(found, end) < 2e-5,
                "row {n}, one token later"
            );
        }
    }
    check(&case("mha"));
    check(&case("gqa_tied"));
    // Positions of GPT-2 are embedded, so that a shift by the padding would show.
    check(&TinyGpt2::new().model());
}

#[test]
fn rows_of_a_batch_end_on_their_own() {
    let copy = CaseCopy::new("llama", "mha");
    let model = load(&copy).unwrap();
    let options = models::GenerateOptions {
        max_new_tokens: 8,
        ignore_end: true,
        ..Default::default()
    };
    let prompts = [ids(6), ids(2), ids(4)];
    let free = generate_batch(&model, &prompts, &options, |_, _| true).unwrap();
    // The third token of the first row ends texts from now on.
    let end = free[0].tokens[2];
    copy.edit_config(|config| config["eos_token_id"] = json!([end]));
    let model = load(&copy).unwrap();
    let options = models::GenerateOptions {
        ignore_end: false,
        ..options
    };
    let mut streamed = vec![Vec::new(); 3];
    let done = generate_batch(&model, &prompts, &options, |row, token| {
        streamed[row].push(token);
        row != 1 || streamed[row].len() < 4
    })
    .unwrap();
    for (row, (done, free)) in done.iter().zip(&free).enumerate() {
        let until = free.tokens.iter().position(|&token| token == end);
        let length = until.unwrap_or(8).min(if row == 1 { 4 } else { 8 });
        assert_eq!(done.tokens, free.tokens[..length], "row {row}");
        assert_eq!(streamed[row], done.tokens);
    }
    assert_eq!(done[0].stop, models::StopReason::EndOfText);
    assert!(done[0].tokens.len() <= 2);
}

#[test]
fn contexts_that_do_not_fit_are_refused() {
    let model = case("gqa_tied");
    assert_eq!(model.max_tokens(), 40);
    let error = model
        .forward(model.input_ids(&ids(41), 1).unwrap())
        .unwrap_err();
    assert!(
        matches!(error, ModelError::TooManyTokens { found: 41, max: 40 }),
        "{error}"
    );
    let options = models::GenerateOptions::default();
    let run =
        |prompts: &[Vec<u32>]| generate_batch(&model, prompts, &options, |_, _| true).unwrap_err();
    assert!(matches!(
        run(&[ids(3), ids(41)]),
        ModelError::TooManyTokens { found: 41, max: 40 }
    ));
    for prompts in [vec![], vec![ids(3), vec![]]] {
        assert!(matches!(
            run(&prompts),
            ModelError::TooFewTokens { found: 0, min: 1 }
        ));
    }
    let (_, padding) = LeftPadding::pad(&[ids(3), ids(2)]).unwrap();
    let one_row = model.input_ids(&ids(3), 1).unwrap();
    let error = model.forward_padded(one_row, &padding).unwrap_err();
    assert!(
        matches!(
            error,
            ModelError::PaddingMismatch {
                found: 2,
                expected: 1
            }
        ),
        "{error}"
    );
    let error = model.cache(3, 5).with_padding(padding).unwrap_err();
    assert!(matches!(error, ModelError::PaddingMismatch { .. }));
}

#[test]
fn a_missing_shard_is_named() {
    let error = error_after("sharded", |copy| {
        fs::remove_file(copy.path().join("model-00003-of-00004.safetensors")).unwrap();
    });
    assert!(
        error
            .to_string()
            .contains("model-00003-of-00004.safetensors, which is not there"),
        "{error}"
    );
}

#[test]
fn weights_that_do_not_fit_the_configuration_are_named() {
    let error = error_after("mha", |copy| {
        copy.edit_config(|config| config["num_key_value_heads"] = json!(2));
    });
    assert!(
        matches!(&error, ModelError::TensorShape { tensor, found, expected, .. }
            if tensor == "model.layers.0.self_attn.k_proj.weight"
                && *found == [48, 48] && *expected == [24, 48]),
        "{error}"
    );
    let error = error_after("mha", |copy| {
        copy.edit_config(|config| config["num_hidden_layers"] = json!(3));
    });
    assert!(
        matches!(&error, ModelError::MissingTensor { tensor, .. } if tensor.contains("layers.2.")),
        "{error}"
    );
    let error = error_after("mha", |copy| {
        copy.edit_config(|config| config["num_hidden_layers"] = json!(1));
    });
    assert!(
        matches!(&error, ModelError::UnusedTensor { tensor, more: 8, .. } if tensor.contains("layers.1.")),
        "{error}"
    );
    let error = error_after("biases", |copy| {
        copy.edit_config(|config| config["mlp_bias"] = json!(false));
    });
    assert!(matches!(&error, ModelError::UnusedTensor { .. }), "{error}");
    let error = error_after("mha", |copy| {
        copy.edit_config(|config| config["attention_bias"] = json!(true));
    });
    assert!(
        matches!(&error, ModelError::MissingTensor { tensor, .. } if tensor.ends_with("q_proj.bias")),
        "{error}"
    );
    let error = error_after("mha", |copy| {
        copy.edit_config(|config| config["tie_word_embeddings"] = json!(true));
    });
    assert!(
        matches!(&error, ModelError::TiedTensorDiffers { tied_to, .. }
            if tied_to == "model.embed_tokens.weight"),
        "{error}"
    );
}

#[test]
fn a_checkpoint_of_another_family_is_refused() {
    let dir = TinyGpt2::new().to_dir();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let error = Llama::load(&checkpoint, &Device::flex(), FloatDType::F32).unwrap_err();
    assert!(
        matches!(
            error,
            ModelError::WrongFamily {
                found: "gpt2",
                expected: "llama",
                ..
            }
        ),
        "{error}"
    );
    let checkpoint = Checkpoint::open(root("llama").join("mha")).unwrap();
    let error = Gpt2::load(&checkpoint, &Device::flex(), FloatDType::F32).unwrap_err();
    assert!(matches!(error, ModelError::WrongFamily { .. }), "{error}");
}

#[test]
fn the_saved_frequencies_of_older_versions_are_not_used() {
    let copy = CaseCopy::new("llama", "mha");
    let expected = logits(&load(&copy).unwrap(), &ids(5), 1);
    let name = "model.layers.0.self_attn.rotary_emb.inv_freq";
    rewrite(&copy, |_, _| (), &[(name, vec![0.5; 6])]);
    assert_eq!(logits(&load(&copy).unwrap(), &ids(5), 1), expected);
}

#[test]
fn sixteen_bit_weights_are_loaded_as_they_are_and_checked() {
    let copy = CaseCopy::new("llama", "bfloat16");
    let open = || Checkpoint::open(copy.path()).unwrap();
    let model = Llama::load(&open(), &Device::flex(), FloatDType::BF16).unwrap();
    let name = "model.embed_tokens.weight";
    let stored = open().floats(name).unwrap();
    assert_eq!(host(model.embed_tokens.weight.val()), stored);
    let damage = |bits: u16| {
        let change = |tensor: &str, data: &mut Vec<u8>| {
            if tensor == name {
                data[20..22].copy_from_slice(&bits.to_le_bytes());
            }
        };
        rewrite(&copy, change, &[]);
        Llama::load(&open(), &Device::flex(), FloatDType::BF16).unwrap_err()
    };
    for bits in [0x7fc0, 0xff80] {
        let error = damage(bits); // NaN, then minus infinity
        assert!(
            matches!(&error, ModelError::NonFiniteWeight { tensor, index: 10, .. } if tensor == name),
            "{error}"
        );
    }
}

/// A configuration that no checkpoint is needed for.
fn tiny() -> LlamaConfig {
    LlamaConfig {
        vocab_size: 61,
        hidden_size: 32,
        intermediate_size: 64,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 8,
        max_position_embeddings: 20,
        ..LlamaConfig::llama_3_2_1b()
    }
}

fn rule(layers: &str, method: Method, rank: usize) -> Rule {
    Rule {
        layers: layers.to_string(),
        method,
        rank: Some(rank),
        keep: None,
        blocks: (method != Method::LowRank).then_some(4),
        output_order: None,
    }
}

#[rstest]
#[case::dense(None, 2)]
#[case::low_rank(Some(Method::LowRank), 4)]
#[case::monarch(Some(Method::Monarch), 4)]
#[case::blast(Some(Method::Blast), 4)]
fn a_joined_model_gives_the_same_logits(#[case] method: Option<Method>, #[case] key_heads: usize) {
    let config = LlamaConfig {
        num_key_value_heads: key_heads,
        ..tiny()
    };
    let plan = method.map(|method| Plan {
        rules: vec![rule("(q|k|v|gate|up)_proj", method, 8)],
    });
    let device = Device::flex();
    let model = Llama::init(&config, plan.as_ref(), &device, FloatDType::F32).unwrap();
    let parameters = model.num_params();
    let logits = |model: &Llama| {
        let ids: Vec<u32> = (0..12).map(|n| n * 17 % 61).collect();
        let ids = model.input_ids(&ids, 2).unwrap();
        host(model.forward(ids).unwrap())
    };
    let apart = logits(&model);
    let joined = model.joined();
    for block in &joined.blocks {
        assert_eq!(block.attention.qkv.layers().len(), 1);
        assert!(block.mlp.gate.is_none());
    }
    assert_eq!(joined.num_params(), parameters);
    assert!(max_difference(&logits(&joined), &apart) < 1e-5);
}

#[test]
fn layers_that_differ_stay_apart() {
    let plan = Plan {
        rules: vec![rule("(q|up)_proj", Method::LowRank, 6)],
    };
    let device = Device::flex();
    let model = Llama::init(&tiny(), Some(&plan), &device, FloatDType::F32).unwrap();
    for block in &model.joined().blocks {
        assert_eq!(block.attention.qkv.layers().len(), 3);
        assert!(block.mlp.gate.is_some());
    }
}

#[rstest]
#[case::f32(FloatDType::F32)]
#[case::bf16(FloatDType::BF16)]
fn random_models_have_the_structures_of_their_plan(#[case] dtype: FloatDType) {
    let plan = Plan {
        rules: vec![
            rule("q_proj", Method::LowRank, 6),
            rule("mlp", Method::Blast, 10),
            rule("o_proj", Method::Monarch, 8),
        ],
    };
    let device = Device::flex();
    let model = Llama::init(&tiny(), Some(&plan), &device, dtype).unwrap();
    let mut parameters = 61 * 32 + 5 * 32;
    for block in &model.blocks {
        let [query, key, value] = block.attention.qkv.layers()[..] else {
            panic!("not three layers");
        };
        let found = [
            (query, Structure::LowRank { rank: 6 }, 32, 32),
            (key, Structure::Dense, 32, 16),
            (value, Structure::Dense, 32, 16),
            (
                &block.attention.proj,
                Structure::Monarch {
                    blocks: 4,
                    rank: 8,
                    order: OutputOrder::Contiguous,
                },
                32,
                32,
            ),
            (
                block.mlp.gate.as_ref().unwrap(),
                Structure::Blast {
                    blocks: 4,
                    rank: 10,
                },
                32,
                64,
            ),
            (
                &block.mlp.proj,
                Structure::Blast {
                    blocks: 4,
                    rank: 10,
                },
                64,
                32,
            ),
        ];
        for (layer, structure, inputs, outputs) in found {
            assert_eq!(layer.structure(), structure);
            assert_eq!(layer.features(), (inputs, outputs));
            assert_eq!(
                layer.bytes(),
                layer.parameters() * burn::tensor::DType::from(dtype).size()
            );
            parameters += layer.parameters();
        }
        parameters += block.mlp.fc.parameters();
    }
    assert_eq!(model.num_params(), parameters);
    let values = logits(&model, &ids(9).map_to(61), 1);
    assert!(values.iter().all(|x| x.is_finite()));
    let spread = values.iter().fold(0f32, |max, x| max.max(x.abs()));
    assert!(spread > 1e-3, "the logits are all {spread}");
}

#[test]
fn random_dense_models_run_in_every_family() {
    let device = Device::flex();
    let llama = Llama::init(&tiny(), None, &device, FloatDType::F32).unwrap();
    assert!(llama.head.is_none());
    assert_eq!(logits(&llama, &ids(6).map_to(61), 2).len(), 6 * 61);
    let config = Gpt2Config {
        vocab_size: 61,
        n_positions: 20,
        n_embd: 24,
        n_layer: 2,
        n_head: 3,
        ..Gpt2Config::gpt2_small()
    };
    let plan = Plan::single(rule("c_fc", Method::Monarch, 8));
    let gpt2 = Gpt2::init(&config, Some(&plan), &device, FloatDType::F32).unwrap();
    assert_eq!(logits(&gpt2, &ids(6).map_to(61), 2).len(), 6 * 61);
    let of = |block: usize| gpt2.blocks[block].mlp.fc.structure().method();
    assert_eq!(
        (of(0), of(1)),
        (Some(Method::Monarch), Some(Method::Monarch))
    );
}

#[test]
fn random_models_need_a_plan_that_fits() {
    let device = Device::flex();
    let run = |rule| {
        Llama::init(&tiny(), Some(&Plan::single(rule)), &device, FloatDType::F32).unwrap_err()
    };
    assert!(matches!(
        run(rule("c_attn", Method::Blast, 4)),
        ModelError::PatternMatchesNothing { .. }
    ));
    assert!(matches!(
        run(rule("k_proj", Method::LowRank, 17)),
        ModelError::Structure { .. }
    ));
}

#[test]
fn layers_are_listed_in_the_order_of_the_model() {
    let checkpoint = Checkpoint::open(root("llama").join("gqa_tied")).unwrap();
    let layers = linear_layers(&checkpoint).unwrap();
    let names: Vec<_> = layers[..8]
        .iter()
        .map(|layer| layer.name.as_str())
        .collect();
    let of_block = [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ];
    for (name, expected) in names.iter().zip(of_block) {
        assert_eq!(*name, format!("model.layers.0.{expected}"));
    }
    assert_eq!(names[7], "model.layers.1.self_attn.q_proj");
    for layer in &layers {
        let stored = checkpoint.entry(&layer.weight_name()).unwrap();
        assert_eq!(stored.shape, layer.weight_shape());
    }
    let bare = Checkpoint::open(root("llama").join("bare_names")).unwrap();
    assert_eq!(
        linear_layers(&bare).unwrap()[0].name,
        "layers.0.self_attn.q_proj"
    );
}

/// Ids of a smaller vocabulary.
trait MapTo {
    fn map_to(self, vocab: u32) -> Vec<u32>;
}

impl MapTo for Vec<u32> {
    fn map_to(self, vocab: u32) -> Vec<u32> {
        self.into_iter().map(|id| id % vocab).collect()
    }
}
