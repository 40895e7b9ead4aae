//! The subcommands on vision transformers, with the names of transformers and of timm.

use std::fs;
use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rstest::rstest;

use crate::forward::logits;
use crate::run::{blr, copy_checkpoint, read_json, refuses, repository, text};
use crate::safetensors_by_hand::{Tensor, dense, read};

fn case(name: &str) -> PathBuf {
    repository().join("tests/reference/vit").join(name)
}

fn image(name: &str) -> PathBuf {
    repository().join("tests/reference/vit").join(name)
}

fn compress(source: &Path, out: &Path, flags: &[&str]) {
    let arguments = ["compress", text(source), "--out", text(out)];
    blr(&[&arguments[..], flags].concat()).expect_success();
}

fn difference(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.shape, expected.shape);
    let pairs = found.values.iter().zip(&expected.values);
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// The dense weight that a layer stands for, its parts one below the other.
fn dense_weight(weights: &std::collections::BTreeMap<String, Tensor>, layer: &str) -> Vec<f64> {
    if let Some(weight) = weights.get(&format!("{layer}.weight")) {
        return weight.values.clone();
    }
    let stem = layer.strip_suffix("qkv").unwrap();
    let parts = ["query", "key", "value"].map(|part| &weights[&format!("{stem}{part}.weight")]);
    parts.iter().flat_map(|part| part.values.clone()).collect()
}

#[test]
fn logits_equal_those_of_transformers_and_timm() {
    let names = [
        "hf_patch8",
        "hf_patch16_no_qkv_bias",
        "timm_token",
        "timm_avg",
    ];
    for case in names.map(case) {
        let inputs = case.join("expected.safetensors");
        let difference = difference(&logits(&case, &inputs), &read(&inputs)["logits"]);
        assert!(difference < 1e-4, "{}: {difference:e}", case.display());
    }
}

#[rstest]
fn a_compressed_checkpoint_is_inspected_evaluated_and_classifies(
    #[values("low-rank", "monarch", "blast")] method: &str,
    #[values("hf_patch8", "hf_bfloat16", "timm_token")] name: &str,
) {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (case(name), folder.path().join("out"));
    let plan = folder.path().join("plan.toml");
    let blocks = if method == "low-rank" {
        ""
    } else {
        "blocks = 4"
    };
    let rule = |layers: &str| {
        format!("[[rules]]\nlayers = '{layers}'\nmethod = \"{method}\"\nkeep = 0.6\n{blocks}\n")
    };
    let rules = [rule(r"(attention|attn)\.qkv$"), rule(".")].concat();
    fs::write(&plan, rules).unwrap();
    compress(&source, &out, &["--plan", text(&plan)]);

    // The factors give the error that the configuration states; weights are [out, in].
    let weights = read(&source.join("model.safetensors"));
    let factors = read(&out.join("model.safetensors"));
    let config = read_json(&out.join("config.json"));
    let layers = config["blr"]["layers"].as_object().unwrap();
    let blocks = if name == "hf_bfloat16" { 3 } else { 2 };
    assert_eq!(layers.len(), 4 * blocks);
    let joined = layers.keys().filter(|name| name.ends_with(".qkv")).count();
    assert_eq!(joined, blocks);
    for (layer, entry) in layers {
        let weight = dense_weight(&weights, layer);
        let rebuilt = dense(&factors, layer, method);
        assert_eq!(rebuilt.values.len(), weight.len());
        let pairs = weight.iter().zip(&rebuilt.values);
        let missed: f64 = pairs.map(|(w, r)| (w - r).powi(2)).sum();
        let norm: f64 = weight.iter().map(|w| w * w).sum();
        let stated = entry["relative_error"].as_f64().unwrap();
        assert!(((missed / norm).sqrt() - stated).abs() < 1e-5, "{layer}");
    }
    // Nothing but the weights of these layers is gone, biases of query, key and value neither.
    for (name, tensor) in &weights {
        match factors.get(name) {
            Some(kept) => assert_eq!(kept.values, tensor.values, "{name}"),
            None => assert!(
                name.ends_with(".weight") && tensor.shape.len() == 2,
                "{name}"
            ),
        }
    }

    let json = folder.path().join("report.json");
    blr(&["inspect", text(&out), "--json", text(&json)]).expect_success();
    let report = read_json(&json);
    assert_eq!(report["family"], "vit");
    let held: usize = factors.values().map(|tensor| tensor.values.len()).sum();
    assert_eq!(report["parameters"], held);
    let all: usize = weights.values().map(|tensor| tensor.values.len()).sum();
    assert_eq!(report["dense_parameters"], all);

    let picture = image("image.png");
    let arguments = [
        "classify",
        text(&out),
        text(&picture),
        "--json",
        text(&json),
    ];
    blr(&arguments).expect_success();
    let label = read_json(&json)["images"][0]["top"][0]["label"].clone();
    let label = label.as_u64().unwrap() as usize;
    let data = folder.path().join("data");
    for (n, label) in [label, label, (label + 1) % 7].into_iter().enumerate() {
        let class = data.join(label.to_string());
        fs::create_dir_all(&class).unwrap();
        fs::copy(&picture, class.join(format!("{n}.png"))).unwrap();
    }
    let evaluate = [
        "eval",
        text(&out),
        "--data",
        text(&data),
        "--json",
        text(&json),
    ];
    blr(&evaluate).expect_success();
    let report = read_json(&json);
    assert_eq!(report["images"], 3);
    assert!((report["accuracy"].as_f64().unwrap() - 2.0 / 3.0).abs() < 1e-12);
}

#[rstest]
fn a_compression_without_loss_changes_no_logits(
    #[values("low-rank", "monarch", "blast")] method: &str,
    #[values("hf_patch8", "timm_token")] name: &str,
) {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (case(name), folder.path().join("out"));
    let inputs = source.join("expected.safetensors");
    let mut flags = vec!["--method", method, "--layers", r"(attention|attn)\.qkv$"];
    // The narrower side of the joined layer is 48 wide; a block of 4 is 36 x 12.
    flags.extend(["--rank", "48"]);
    if method != "low-rank" {
        flags.extend(["--blocks", "4"]);
    }
    compress(&source, &out, &flags);
    let difference = difference(&logits(&out, &inputs), &logits(&source, &inputs));
    assert!(difference < 2e-4, "{difference:e}");
    assert!(difference > 0.0, "nothing was done");
}

#[test]
fn the_layers_are_joined_across_shards() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (folder.path().join("source"), folder.path().join("out"));
    copy_checkpoint(&case("hf_patch8"), &source);
    let bytes = fs::read(source.join("model.safetensors")).unwrap();
    fs::remove_file(source.join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let shard = |name: &str| match name.contains(".query.") || name.contains(".value.") {
        true => "model-00001-of-00002.safetensors",
        false => "model-00002-of-00002.safetensors",
    };
    let mut map = serde_json::Map::new();
    for half in [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ] {
        let tensors = file.tensors();
        let tensors = tensors.iter().filter(|(name, _)| shard(name) == half);
        let tensors = tensors.map(|(name, view)| (name, view));
        safetensors::serialize_to_file(tensors, None, &source.join(half)).unwrap();
    }
    for name in file.names() {
        map.insert(name.to_string(), shard(name).into());
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map});
    fs::write(
        source.join("model.safetensors.index.json"),
        index.to_string(),
    )
    .unwrap();

    let flags = [
        "--method",
        "low-rank",
        "--rank",
        "48",
        "--layers",
        r"attention\.qkv$",
    ];
    compress(&source, &out, &flags);
    let inputs = case("hf_patch8").join("expected.safetensors");
    let difference = difference(&logits(&out, &inputs), &read(&inputs)["logits"]);
    assert!(difference < 2e-4, "{difference:e}");
    refuses(
        &[
            "compress",
            text(&out),
            "--out",
            text(&folder.path().join("again")),
            "--method",
            "blast",
            "--keep",
            "0.5",
            "--layers",
            r"attention\.qkv$",
        ],
        &["attention.attention.qkv`, which is low-rank already"],
    );
}

/// Writes a checkpoint of one block that is wide enough for the ranks of the paper.
fn wide_checkpoint(folder: &Path, timm: bool) {
    const WIDTH: usize = 132;
    const INNER: usize = 264;
    let config = if timm {
        serde_json::json!({
            "architecture": "vit_tiny_patch16_224", "num_classes": 5, "pretrained_cfg": {},
            "model_args": {"img_size": 16, "patch_size": 8, "embed_dim": WIDTH, "depth": 1,
                "num_heads": 3, "mlp_ratio": 2.0},
        })
    } else {
        serde_json::json!({
            "model_type": "vit", "hidden_size": WIDTH, "intermediate_size": INNER,
            "num_hidden_layers": 1, "num_attention_heads": 3, "image_size": 16, "patch_size": 8,
            "num_labels": 5,
        })
    };
    let mut shapes = Vec::new();
    let mut layer = |name: &str, shape: &[usize]| {
        shapes.push((format!("{name}.weight"), shape.to_vec()));
        shapes.push((format!("{name}.bias"), shape[..1].to_vec()));
    };
    let patch = [WIDTH, 3, 8, 8];
    if timm {
        layer("patch_embed.proj", &patch);
        layer("blocks.0.attn.qkv", &[3 * WIDTH, WIDTH]);
        layer("blocks.0.attn.proj", &[WIDTH, WIDTH]);
        layer("blocks.0.mlp.fc1", &[INNER, WIDTH]);
        layer("blocks.0.mlp.fc2", &[WIDTH, INNER]);
        for norm in ["blocks.0.norm1", "blocks.0.norm2", "norm"] {
            layer(norm, &[WIDTH]);
        }
        layer("head", &[5, WIDTH]);
        shapes.push(("cls_token".to_string(), vec![1, 1, WIDTH]));
        shapes.push(("pos_embed".to_string(), vec![1, 5, WIDTH]));
    } else {
        layer("vit.embeddings.patch_embeddings.projection", &patch);
        let mut block = |name: &str, shape: &[usize]| {
            layer(&format!("vit.encoder.layer.0.{name}"), shape);
        };
        for part in ["query", "key", "value"] {
            block(&format!("attention.attention.{part}"), &[WIDTH, WIDTH]);
        }
        block("attention.output.dense", &[WIDTH, WIDTH]);
        block("intermediate.dense", &[INNER, WIDTH]);
        block("output.dense", &[WIDTH, INNER]);
        block("layernorm_before", &[WIDTH]);
        block("layernorm_after", &[WIDTH]);
        layer("vit.layernorm", &[WIDTH]);
        layer("classifier", &[5, WIDTH]);
        shapes.push(("vit.embeddings.cls_token".to_string(), vec![1, 1, WIDTH]));
        shapes.push((
            "vit.embeddings.position_embeddings".to_string(),
            vec![1, 5, WIDTH],
        ));
    }
    let mut rng = SmallRng::seed_from_u64(3);
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let count = shape.iter().product();
            let values = (0..count).map(|_| rng.random_range(-0.2f32..0.2));
            (name, shape, values.flat_map(f32::to_le_bytes).collect())
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let dtype = safetensors::Dtype::F32;
        let view = safetensors::tensor::TensorView::new(dtype, shape.clone(), bytes).unwrap();
        (name, view)
    });
    fs::create_dir_all(folder).unwrap();
    let path = folder.join("model.safetensors");
    safetensors::serialize_to_file(views.collect::<Vec<_>>(), None, &path).unwrap();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

#[rstest]
fn the_preset_of_the_paper_applies_to_both_schemes_of_names(
    #[values("low-rank", "monarch", "blast")] method: &str,
    #[values(true, false)] timm: bool,
) {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (folder.path().join("source"), folder.path().join("out"));
    wide_checkpoint(&source, timm);
    compress(
        &source,
        &out,
        &["--method", method, "--preset", "vit_b", "--steps", "3"],
    );
    let config = read_json(&out.join("config.json"));
    let layers = config["blr"]["layers"].as_object().unwrap();
    let names: Vec<_> = layers.keys().map(String::as_str).collect();
    let expected = if timm {
        ["blocks.0.attn.qkv", "blocks.0.mlp.fc1", "blocks.0.mlp.fc2"]
    } else {
        [
            "vit.encoder.layer.0.attention.attention.qkv",
            "vit.encoder.layer.0.intermediate.dense",
            "vit.encoder.layer.0.output.dense",
        ]
    };
    assert_eq!(names, expected);
    let blocks = match method {
        "low-rank" => 1,
        "monarch" => 4,
        _ => 3,
    };
    for layer in layers.values() {
        assert_eq!(
            (layer["rank"].as_u64(), layer["blocks"].as_u64()),
            (Some(128), Some(blocks))
        );
    }
    // The images of this case are larger, and their positions interpolated.
    let inputs = case("hf_patch8").join("expected.safetensors");
    let (found, dense) = (logits(&out, &inputs), logits(&source, &inputs));
    assert_eq!(found.shape, [2, 5]);
    let change = difference(&found, &dense);
    assert!(change > 0.0 && change.is_finite(), "{change}");
}

#[test]
fn images_get_the_likeliest_labels_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("report.json");
    for name in ["hf_patch8", "timm_token"] {
        let (source, png, jpg) = (case(name), image("image.png"), image("image.jpg"));
        let arguments = [
            "classify",
            text(&source),
            text(&png),
            text(&jpg),
            "--top",
            "2",
        ];
        let finished = blr(&[&arguments[..], &["--json", text(&json)]].concat()).expect_success();
        let lines: Vec<_> = finished.stdout.lines().collect();
        assert_eq!(lines.len(), 6, "{}", finished.stdout);
        assert!(lines[0].ends_with("image.png") && lines[3].ends_with("image.jpg"));
        let report = read_json(&json);
        let images = report["images"].as_array().unwrap();
        assert_eq!(images.len(), 2);
        let names = read_json(&source.join("config.json"));
        for found in images {
            let top = found["top"].as_array().unwrap();
            assert_eq!(top.len(), 2);
            let label = top[0]["label"].as_u64().unwrap() as usize;
            let name = match names.get("label_names") {
                Some(names) => &names[label],
                None => &names["id2label"][label.to_string()],
            };
            assert_eq!(top[0]["name"], *name);
            let probability = |n: usize| top[n]["probability"].as_f64().unwrap();
            assert!(probability(0) > probability(1) && probability(0) <= 1.0);
        }
        let best = images[0]["top"][0]["name"].as_str().unwrap();
        assert!(lines[1].ends_with(best), "{}", lines[1]);
    }
}

#[test]
fn bad_input_is_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let source = case("hf_patch8");
    let png = image("image.png");
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let (classify, source_text) = ("classify", text(&source));
    let not_an_image = file("text.png", "not an image");
    refuses(
        &[classify, source_text, text(&png), text(&not_an_image)],
        &["text.png", "not a readable image", "PNG or JPEG"],
    );
    refuses(
        &[classify, source_text, "none.png"],
        &["none.png: no such file"],
    );
    refuses(
        &[classify, source_text, text(&png), "--top", "0"],
        &["--top 0"],
    );
    let gpt2 = repository().join("demo/checkpoint");
    refuses(
        &[classify, text(&gpt2), text(&png)],
        &["holds a gpt2 model", "vit"],
    );
    refuses(
        &["generate", source_text, "--prompt", "a"],
        &["holds a vit model; expected a language model"],
    );

    let list = file("list.csv", &format!("{},9\n", png.display()));
    refuses(
        &["eval", source_text, "--data", text(&list)],
        &["list.csv, line 1", "label 9; expected 0 to 6"],
    );
    refuses(
        &["eval", source_text, "--data", text(&list), "--window", "7"],
        &["--window 7"],
    );
    let json = file("list.json", r#"[{"image": "text.png", "label": "lynx"}]"#);
    refuses(
        &["eval", source_text, "--data", text(&json)],
        &["text.png", "not a readable image"],
    );
    refuses(
        &["eval", source_text, "--data", "none"],
        &["none: no such file"],
    );

    let broken = folder.path().join("broken");
    copy_checkpoint(&source, &broken);
    let mut config = read_json(&broken.join("config.json"));
    config["num_attention_heads"] = 5.into();
    fs::write(broken.join("config.json"), config.to_string()).unwrap();
    refuses(
        &[classify, text(&broken), text(&png)],
        &["`num_attention_heads` is 5", "a divisor of hidden_size 48"],
    );
    let timm = folder.path().join("timm");
    copy_checkpoint(&case("timm_token"), &timm);
    let mut config = read_json(&timm.join("config.json"));
    config.as_object_mut().unwrap().remove("num_classes");
    fs::write(timm.join("config.json"), config.to_string()).unwrap();
    refuses(
        &[classify, text(&timm), text(&png)],
        &["no key `num_classes`"],
    );
    let inputs = repository().join("tests/reference/gpt2/heads1/expected.safetensors");
    let outputs = folder.path().join("outputs.safetensors");
    refuses(
        &[
            "forward",
            source_text,
            "--inputs",
            text(&inputs),
            "--outputs",
            text(&outputs),
        ],
        &["pixel_values", "not in the file"],
    );
    assert!(!outputs.exists());
}
