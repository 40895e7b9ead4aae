//! The subcommands on Llama checkpoints, which go the same ways as those of GPT-2.

use std::path::{Path, PathBuf};

use crate::forward::logits;
use crate::run::{blr, llama_with_tokenizer, read_json, refuses, repository, text};
use crate::safetensors_by_hand::{dense, read};

fn compress(source: &Path, out: &Path, flags: &[&str]) {
    let arguments = ["compress", text(source), "--out", text(out)];
    blr(&[&arguments[..], flags].concat()).expect_success();
}

/// A text for the tokenizer of the case.
fn data(folder: &Path) -> PathBuf {
    let path = folder.join("data.txt");
    let sentence = "The blocks of a matrix can share a layer on their right.\n";
    std::fs::write(&path, sentence.repeat(8)).unwrap();
    path
}

fn difference(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f64::max)
}

#[test]
fn a_compressed_checkpoint_is_inspected_evaluated_continued_and_run() {
    let folder = tempfile::tempdir().unwrap();
    let source = llama_with_tokenizer();
    let weights = read(&source.join("model.safetensors"));
    let data = data(folder.path());
    for method in ["low-rank", "monarch", "blast"] {
        let out = folder.path().join(method);
        compress(&source, &out, &["--method", method, "--keep", "0.6"]);

        // The factors give the error that the configuration states; weights are [out, in].
        let factors = read(&out.join("model.safetensors"));
        let config = read_json(&out.join("config.json"));
        let layers = config["blr"]["layers"].as_object().unwrap();
        assert_eq!(layers.len(), 14);
        for (name, layer) in layers {
            let weight = &weights[&format!("{name}.weight")];
            let rebuilt = dense(&factors, name, method);
            assert_eq!(rebuilt.shape, weight.shape);
            let pairs = weight.values.iter().zip(&rebuilt.values);
            let missed: f64 = pairs.map(|(w, r)| (w - r).powi(2)).sum();
            let norm: f64 = weight.values.iter().map(|w| w * w).sum();
            let stated = layer["relative_error"].as_f64().unwrap();
            assert!(
                ((missed / norm).sqrt() - stated).abs() < 1e-5,
                "{method}, {name}"
            );
        }

        let json = folder.path().join("report.json");
        blr(&["inspect", text(&out), "--json", text(&json)]).expect_success();
        let report = read_json(&json);
        assert_eq!(report["family"], "llama");
        let held: usize = factors.values().map(|tensor| tensor.values.len()).sum();
        assert_eq!(report["parameters"], held);

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
        assert!(report["perplexity"].as_f64().unwrap() > 1.0, "{report}");
        assert_eq!(report["window"], 40);

        let generate = [
            "generate",
            text(&out),
            "--prompt",
            "def",
            "--max-tokens",
            "3",
        ];
        blr(&generate).expect_success();
    }
}

#[test]
fn a_compression_without_loss_changes_no_logits() {
    let folder = tempfile::tempdir().unwrap();
    let source = llama_with_tokenizer();
    let inputs = source.join("expected.safetensors");
    let expected = logits(&source, &inputs);
    // The smallest width of all layers is 16, that of key and value.
    let flags = ["--layers", "(k|v)_proj", "--rank", "16"];
    for method in ["low-rank", "monarch", "blast"] {
        let out = folder.path().join(method);
        let mut flags = [&["--method", method], &flags[..]].concat();
        if method != "low-rank" {
            flags.extend(["--blocks", "4"]);
        }
        compress(&source, &out, &flags);
        let found = logits(&out, &inputs);
        let difference = difference(&found.values, &expected.values);
        assert!(difference < 1e-4, "{method}: {difference:e}");
        assert!(difference > 0.0, "{method} did nothing");
    }
}

#[test]
fn the_layers_of_a_published_blast_checkpoint_stay_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let source = repository().join("tests/reference/llama/blast_llama");
    let json = folder.path().join("report.json");
    blr(&["inspect", text(&source), "--json", text(&json)]).expect_success();
    let structures: Vec<String> = read_json(&json)["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| layer["structure"].as_str().unwrap().to_string())
        .collect();
    assert_eq!(structures[7], "blast b 4 r 10");
    assert_eq!(structures[0], "dense");

    let out = folder.path().join("out");
    let flags = ["--method", "low-rank", "--rank", "48", "--layers"];
    compress(
        &source,
        &out,
        &[&flags[..], &[r"layers\.0\..*q_proj"]].concat(),
    );
    let inputs = source.join("expected.safetensors");
    let expected = read(&inputs).remove("logits").unwrap();
    let difference = difference(&logits(&out, &inputs).values, &expected.values);
    assert!(difference < 1e-4, "{difference:e}");

    let again = folder.path().join("again");
    let arguments = ["compress", text(&source), "--out", text(&again)];
    let finished = blr(&[&arguments[..], &flags[..], &["q_proj"]].concat());
    assert_eq!(finished.code, Some(2));
    assert!(
        finished.stderr.contains("layers.1.self_attn.q_proj")
            && finished.stderr.contains("blast already"),
        "{}",
        finished.stderr
    );
}

#[test]
fn several_prompts_are_continued_as_they_are_alone() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("generated.json");
    let checkpoint = llama_with_tokenizer();
    let run = |arguments: &[&str]| {
        let all = [
            "generate",
            text(&checkpoint),
            "--max-tokens",
            "9",
            "--json",
            text(&json),
        ];
        let stdout = blr(&[&all[..], arguments].concat()).expect_success().stdout;
        (stdout, read_json(&json))
    };
    let prompts = ["The weights of", "A", "product of low"];
    let alone = prompts.map(|prompt| run(&["--prompt", prompt]));
    for cache in [&[][..], &["--no-cache"]] {
        let mut arguments: Vec<&str> = prompts.iter().flat_map(|p| ["--prompt", p]).collect();
        arguments.extend(cache);
        let (stdout, report) = run(&arguments);
        let rows = report["rows"].as_array().unwrap();
        assert_eq!(rows.len(), 3);
        for ((row, (printed, alone)), prompt) in rows.iter().zip(&alone).zip(prompts) {
            for key in ["text", "tokens", "prompt_tokens", "stop"] {
                assert_eq!(row[key], alone[key], "{prompt}");
            }
            assert!(stdout.contains(printed.trim_end()), "{stdout}");
        }
    }
}

#[test]
fn wrong_inputs_are_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy");
    crate::run::copy_checkpoint(&repository().join("tests/reference/llama/sharded"), &copy);
    let config = copy.join("config.json");
    let original = std::fs::read_to_string(&config).unwrap();
    let edit = |key: &str, value: serde_json::Value| {
        let mut config_json: serde_json::Value = serde_json::from_str(&original).unwrap();
        config_json[key] = value;
        std::fs::write(&config, config_json.to_string()).unwrap();
    };
    let inspect = ["inspect", text(&copy)];
    edit(
        "rope_scaling",
        serde_json::json!({"rope_type": "yarn", "factor": 4.0}),
    );
    refuses(&inspect, &["config.json", "rope_type", "yarn", "llama3"]);
    edit("num_key_value_heads", 3.into());
    refuses(
        &inspect,
        &[
            "num_key_value_heads",
            "3",
            "a divisor of num_attention_heads 4",
        ],
    );
    edit("num_attention_heads", 5.into());
    refuses(
        &inspect,
        &["num_key_value_heads", "2", "num_attention_heads 5"],
    );
    std::fs::write(&config, &original).unwrap();
    blr(&inspect).expect_success();

    let generate = ["generate", text(&copy), "--prompt", "a"];
    refuses(&generate, &["tokenizer.json", "no such file"]);
    std::fs::write(copy.join("tokenizer.model"), b"unk").unwrap();
    refuses(
        &generate,
        &["tokenizer.model", "sentencepiece", "tokenizer.json"],
    );

    std::fs::remove_file(copy.join("model-00002-of-00004.safetensors")).unwrap();
    refuses(
        &inspect,
        &["index.json", "model-00002-of-00004.safetensors"],
    );

    let checkpoint = llama_with_tokenizer();
    let long = "matrix? ".repeat(60);
    let generate = ["generate", text(&checkpoint), "--prompt", &long];
    refuses(&generate, &["tokens", "at most 40"]);
    let data = data(folder.path());
    let evaluate = [
        "eval",
        text(&checkpoint),
        "--data",
        text(&data),
        "--window",
        "1",
    ];
    refuses(&evaluate, &["--window 1", "at least 2"]);
    let out = folder.path().join("out");
    let compress = [
        "compress",
        text(&checkpoint),
        "--out",
        text(&out),
        "--method",
        "blast",
    ];
    // The preset is for layers of Llama 7B.
    let preset = [&compress[..], &["--preset", "llama7b"]].concat();
    refuses(&preset, &["model.layers.0.self_attn.q_proj", "1024"]);
}
