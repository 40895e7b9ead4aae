use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{
    assert_same_files, blr, copy_checkpoint, demo_checkpoint, read_json, repository, text,
    text_file,
};
use crate::safetensors_by_hand::{dense, read};

/// Compresses one block of the demo checkpoint.
fn compressed(folder: &Path, method: &str, extra: &[&str]) -> PathBuf {
    let out = folder.join(method);
    let checkpoint = demo_checkpoint();
    let mut arguments = vec![
        "compress",
        text(&checkpoint),
        "--out",
        text(&out),
        "--method",
        method,
        "--layers",
        r"h\.1\.",
    ];
    arguments.extend(extra);
    blr(&arguments).expect_success();
    out
}

#[test]
fn an_independent_reader_finds_the_error_that_the_configuration_states() {
    let folder = tempfile::tempdir().unwrap();
    let source = read(&demo_checkpoint().join("model.safetensors"));
    for method in ["low-rank", "monarch", "blast"] {
        let out = compressed(folder.path(), method, &["--keep", "0.4"]);
        let tensors = read(&out.join("model.safetensors"));
        let config = read_json(&out.join("config.json"));
        assert_eq!(config["blr"]["version"], 1);
        let layers = config["blr"]["layers"].as_object().unwrap();
        assert_eq!(layers.len(), 4, "{layers:?}");
        for (name, layer) in layers {
            assert_eq!(layer["method"], method);
            assert!(
                !tensors.contains_key(&format!("{name}.weight")),
                "{name} is stored twice"
            );
            let rebuilt = dense(&tensors, name, method);
            // GPT-2 stores its weights as [in, out].
            let weight = &source[&format!("{name}.weight")];
            let (inputs, outputs) = (weight.shape[0], weight.shape[1]);
            assert_eq!(rebuilt.shape, [outputs, inputs]);
            let (mut difference, mut norm) = (0.0, 0.0);
            for row in 0..outputs {
                for column in 0..inputs {
                    let exact = weight.values[column * outputs + row];
                    difference += (exact - rebuilt.values[row * inputs + column]).powi(2);
                    norm += exact * exact;
                }
            }
            let error = (difference / norm).sqrt();
            let stated = layer["relative_error"].as_f64().unwrap();
            assert!(
                (error - stated).abs() < 1e-5,
                "{name}: {error} against {stated}"
            );
        }
        // Every other tensor is what it was.
        for (name, tensor) in &source {
            let replaced = layers
                .keys()
                .any(|layer| *name == format!("{layer}.weight"));
            if !replaced {
                assert_eq!(tensor.values, tensors[name].values, "{name}");
            }
        }
        assert!(out.join("tokenizer.json").exists());
        assert!(!out.join(".blr-run").exists());
    }
}

#[test]
fn python_with_safetensors_alone_finds_the_same() {
    let script = repository().join("tests/reference/check_compressed.py");
    let python = std::env::var("BLR_PYTHON").unwrap_or_else(|_| "python3".to_string());
    let imports = Command::new(&python)
        .args(["-c", "import numpy, safetensors"])
        .output();
    if !imports.is_ok_and(|output| output.status.success()) {
        // Past the capture of the test harness, so that a skip never looks like a pass.
        let mut stderr = std::io::stderr();
        let _ = writeln!(
            stderr,
            "SKIPPED: {python} has no numpy and safetensors (see BLR_PYTHON)"
        );
        return;
    }
    let agree = |source: &Path, out: &Path, layers: usize| {
        let output = Command::new(&python)
            .arg(&script)
            .args([source, out])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let complained = String::from_utf8_lossy(&output.stderr);
        let place = out.display();
        assert!(output.status.success(), "{place}: {said}{complained}");
        let expected = format!("{layers} layers agree");
        assert!(said.contains(&expected), "{place}: {said}");
    };
    let folder = tempfile::tempdir().unwrap();
    for method in ["low-rank", "monarch", "blast"] {
        let out = compressed(folder.path(), method, &["--keep", "0.3"]);
        agree(&demo_checkpoint(), &out, 4);
    }
    // Query, key and value joined, weights that are not transposed.
    let vit = repository().join("tests/reference/vit/hf_patch8");
    let out = folder.path().join("vit");
    let arguments = ["compress", text(&vit), "--out", text(&out)];
    let layers = r"attention\.qkv$|intermediate";
    let flags = ["--method", "blast", "--keep", "0.5", "--layers", layers];
    blr(&[&arguments[..], &flags].concat()).expect_success();
    agree(&vit, &out, 4);
}

#[test]
fn a_compressed_checkpoint_is_evaluated_inspected_and_not_compressed_again() {
    let folder = tempfile::tempdir().unwrap();
    let out = compressed(folder.path(), "blast", &["--rank", "64", "--blocks", "8"]);
    let json = folder.path().join("inspect.json");
    blr(&["inspect", text(&out), "--json", text(&json)]).expect_success();
    let report = read_json(&json);
    assert!(report["parameters"].as_u64() < report["dense_parameters"].as_u64());
    let structures: Vec<&str> = report["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| layer["structure"].as_str().unwrap())
        .filter(|structure| *structure != "dense")
        .collect();
    assert_eq!(structures, ["blast b 8 r 64"; 4]);

    let heldout = std::fs::read_to_string(repository().join("demo/heldout.txt")).unwrap();
    let short = folder.path().join("short.txt");
    std::fs::write(&short, heldout.chars().take(4000).collect::<String>()).unwrap();
    let stdout = blr(&["eval", text(&out), "--data", text(&short)])
        .expect_success()
        .stdout;
    assert!(stdout.contains("perplexity"), "{stdout}");

    let again = folder.path().join("again");
    let arguments = [
        "compress",
        text(&out),
        "--out",
        text(&again),
        "--method",
        "low-rank",
        "--keep",
        "0.5",
    ];
    let finished = blr(&arguments);
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("already"), "{}", finished.stderr);
    assert!(!again.exists());
}

#[test]
fn a_plan_and_flags_say_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let plan = folder.path().join("plan.toml");
    std::fs::write(
        &plan,
        "[[rules]]\nlayers = 'mlp\\.c_fc$'\nmethod = \"monarch\"\nrank = 64\nblocks = 4\n",
    )
    .unwrap();
    let by_plan = folder.path().join("by-plan");
    let checkpoint = demo_checkpoint();
    let arguments = [
        "compress",
        text(&checkpoint),
        "--out",
        text(&by_plan),
        "--plan",
        text(&plan),
    ];
    blr(&arguments).expect_success();
    let by_flags = folder.path().join("by-flags");
    let arguments = [
        "compress",
        text(&checkpoint),
        "--out",
        text(&by_flags),
        "--method",
        "monarch",
        "--rank",
        "64",
        "--blocks",
        "4",
        "--layers",
        r"mlp\.c_fc$",
    ];
    blr(&arguments).expect_success();
    assert_same_files(&by_plan, &by_flags);
}

#[test]
fn shards_stay_shards_with_the_same_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, sharded) = (demo_checkpoint(), folder.path().join("sharded"));
    copy_checkpoint(&whole, &sharded);
    std::fs::remove_file(sharded.join("model.safetensors")).unwrap();
    let bytes = std::fs::read(whole.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes)
        .unwrap()
        .tensors();
    let shard = |odd: usize| format!("model-0000{}-of-00002.safetensors", odd + 1);
    let mut weight_map = serde_json::Map::new();
    for odd in [0, 1] {
        let part = tensors
            .iter()
            .enumerate()
            .filter(|(index, _)| index % 2 == odd);
        let part: Vec<_> = part
            .map(|(_, (name, view))| (name.clone(), view.clone()))
            .collect();
        for (name, _) in &part {
            weight_map.insert(name.clone(), shard(odd).into());
        }
        let path = sharded.join(shard(odd));
        safetensors::serialize_to_file(part, None, &path).unwrap();
    }
    let index = serde_json::json!({"metadata": {"total_size": 0}, "weight_map": weight_map});
    std::fs::write(
        sharded.join("model.safetensors.index.json"),
        index.to_string(),
    )
    .unwrap();

    let mut outs = Vec::new();
    for (source, name) in [(&whole, "from-whole"), (&sharded, "from-shards")] {
        let out = folder.path().join(name);
        let keep = ["--method", "monarch", "--keep", "0.4"];
        let arguments = ["compress", text(source), "--out", text(&out)];
        blr(&[&arguments[..], &keep[..]].concat()).expect_success();
        outs.push(out);
    }
    let expected = read(&outs[0].join("model.safetensors"));
    let index = read_json(&outs[1].join("model.safetensors.index.json"));
    let weight_map = index["weight_map"].as_object().unwrap();
    assert_eq!(weight_map.len(), expected.len());
    for odd in [0, 1] {
        for (name, tensor) in read(&outs[1].join(shard(odd))) {
            assert_eq!(weight_map[&name], shard(odd));
            assert_eq!(tensor.values, expected[&name].values, "{name}");
        }
    }
    assert!(!outs[1].join("model.safetensors").exists());
    blr(&[
        "generate",
        text(&outs[1]),
        "--prompt",
        "let",
        "--max-tokens",
        "2",
    ])
    .expect_success();
}

#[test]
fn a_full_precision_checkpoint_is_compressed_in_full_precision() {
    let folder = tempfile::tempdir().unwrap();
    let cases = crate::run::gpt2_cases();
    let source = folder.path().join("source");
    let case = cases.iter().find(|case| {
        read_json(&case.join("config.json"))["n_embd"]
            .as_u64()
            .is_some_and(|width| width % 4 == 0)
    });
    copy_checkpoint(case.unwrap(), &source);
    let out = folder.path().join("out");
    let arguments = [
        "compress",
        text(&source),
        "--out",
        text(&out),
        "--method",
        "low-rank",
        "--keep",
        "0.6",
        "--layers",
        "c_fc",
    ];
    blr(&arguments).expect_success();
    let config = read_json(&out.join("config.json"));
    let (name, _) = config["blr"]["layers"]
        .as_object()
        .unwrap()
        .iter()
        .next()
        .unwrap();
    let tensors = read(&out.join("model.safetensors"));
    assert!(tensors.contains_key(&format!("{name}.low_rank.u")));
}

fn perplexity(checkpoint: &Path, data: &Path, json: &Path) -> f64 {
    let arguments = ["eval", text(checkpoint), "--data", text(data)];
    blr(&[&arguments[..], &["--json", text(json)]].concat()).expect_success();
    read_json(json)["perplexity"].as_f64().unwrap()
}

#[test]
fn samples_lower_the_perplexity_of_other_text() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = demo_checkpoint();
    let samples = text_file(folder.path(), "samples.txt", 60_000, 40_000);
    let held_out = text_file(folder.path(), "held-out.txt", 0, 12_000);
    let json = folder.path().join("report.json");
    for method in ["low-rank", "blast"] {
        let run = |name: &str, extra: &[&str]| {
            let out = folder.path().join(format!("{method}-{name}"));
            let mut arguments = vec!["compress", text(&checkpoint), "--out", text(&out)];
            arguments.extend(["--method", method, "--keep", "0.5", "--steps", "100"]);
            arguments.extend(["--json", text(&json)]);
            arguments.extend(extra);
            blr(&arguments).expect_success();
            let report = read_json(&json);
            (report, perplexity(&out, &held_out, &json))
        };
        let (plain, without) = run("plain", &[]);
        let (seen, with) = run("seen", &["--calibration", text(&samples)]);
        eprintln!("{method}: perplexity {without:.1}, with samples {with:.1}");
        assert!(with < 0.8 * without, "{method}: {without} and {with}");
        for (plain, seen) in layers(&plain).iter().zip(layers(&seen)) {
            assert_eq!(plain["parameters"], seen["parameters"]);
            assert!(plain.get("output_error").is_none(), "{plain}");
            let [error, output] = ["relative_error", "output_error"].map(|key| &seen[key]);
            assert!(error.as_f64() >= plain["relative_error"].as_f64(), "{seen}");
            assert!(output.as_f64() < error.as_f64(), "{seen}");
        }
    }
}

fn layers(report: &serde_json::Value) -> &[serde_json::Value] {
    report["layers"].as_array().unwrap()
}

#[test]
fn ranks_by_error_keep_the_budget_and_their_plan_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = demo_checkpoint();
    let samples = text_file(folder.path(), "samples.txt", 0, 12_000);
    let (json, plan) = (
        folder.path().join("report.json"),
        folder.path().join("plan.toml"),
    );
    for method in ["low-rank", "monarch"] {
        let run = |name: &str, flags: &[&str]| {
            let out = folder.path().join(format!("{method}-{name}"));
            let mut arguments = vec!["compress", text(&checkpoint), "--out", text(&out)];
            arguments.extend(["--calibration", text(&samples), "--json", text(&json)]);
            arguments.extend(flags);
            blr(&arguments).expect_success();
            (out, read_json(&json))
        };
        let keep = ["--method", method, "--keep", "0.5"];
        let (_, uniform) = run("uniform", &keep);
        let by_error = ["--ranks", "by-error", "--plan-out", text(&plan)];
        let (spread_out, spread) = run("spread", &[&keep[..], &by_error[..]].concat());
        let (planned_out, _) = run("planned", &["--plan", text(&plan)]);
        assert_same_files(&spread_out, &planned_out);

        let total = |report| -> u64 {
            let parameters = layers(report).iter().map(|layer| &layer["parameters"]);
            parameters
                .map(|parameters| parameters.as_u64().unwrap())
                .sum()
        };
        let dense: u64 = layers(&spread)
            .iter()
            .map(|layer| layer["dense_parameters"].as_u64().unwrap())
            .sum();
        assert!(2 * total(&spread) <= dense, "{} of {dense}", total(&spread));
        assert!(total(&spread) * 100 > 95 * total(&uniform));
        let ranks: Vec<_> = layers(&spread)
            .iter()
            .map(|layer| &layer["structure"])
            .collect();
        let same = |ranks: &[&serde_json::Value]| ranks.iter().all(|rank| *rank == ranks[0]);
        assert!(!same(&ranks[..8]), "{ranks:?}");
    }
}

#[test]
fn a_vit_is_calibrated_with_a_folder_of_images() {
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    std::fs::create_dir_all(images.join("more")).unwrap();
    let reference = repository().join("tests/reference/vit");
    std::fs::copy(reference.join("image.png"), images.join("a.png")).unwrap();
    std::fs::copy(reference.join("image.jpg"), images.join("more/b.jpg")).unwrap();
    let json = folder.path().join("report.json");
    for (case, layers_pattern) in [
        ("hf_patch8", r"attention\.qkv$|intermediate"),
        ("timm_token", "."),
    ] {
        let (source, out) = (reference.join(case), folder.path().join(case));
        let mut arguments = vec!["compress", text(&source), "--out", text(&out)];
        arguments.extend([
            "--method",
            "low-rank",
            "--keep",
            "0.5",
            "--json",
            text(&json),
        ]);
        arguments.extend(["--layers", layers_pattern, "--calibration", text(&images)]);
        blr(&arguments).expect_success();
        for layer in layers(&read_json(&json)) {
            let [error, output] = ["relative_error", "output_error"].map(|key| layer[key].as_f64());
            assert!(output.is_some() && output < error, "{layer}");
        }
    }
}
