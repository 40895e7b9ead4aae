//! `blr finetune` and `blr train`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::run::{
    blr, command, demo_checkpoint, llama_with_tokenizer, read_json, refuses, repository, text,
};
use crate::safetensors_by_hand::read;

/// A part of the demo's text.
fn data(folder: &Path, name: &str, from: usize, count: usize) -> PathBuf {
    let heldout = fs::read_to_string(repository().join("demo/heldout.txt")).unwrap();
    let path = folder.join(name);
    let part: String = heldout.chars().skip(from).take(count).collect();
    fs::write(&path, part).unwrap();
    path
}

/// Images of bright and of dark squares, a folder for each.
fn squares(folder: &Path) -> PathBuf {
    let root = folder.join("squares");
    for (label, base) in [("0", 30u8), ("1", 200)] {
        fs::create_dir_all(root.join(label)).unwrap();
        for n in 0..12u8 {
            let picture = image::GrayImage::from_fn(8, 8, |x, y| {
                image::Luma([base + (x as u8 * 3 + y as u8 * 2 + n) % 20])
            });
            picture
                .save(root.join(label).join(format!("{n}.png")))
                .unwrap();
        }
    }
    root
}

fn config(name: &str) -> PathBuf {
    repository().join("configs").join(name).join("config.json")
}

/// The Llama of the tests with low-rank layers.
fn compressed_llama(folder: &Path) -> PathBuf {
    let (source, out) = (llama_with_tokenizer(), folder.join("compressed"));
    let arguments = ["compress", text(&source), "--out", text(&out)];
    let flags = [
        "--method", "blast", "--keep", "0.5", "--blocks", "2", "--steps", "5",
    ];
    blr(&[&arguments[..], &flags].concat()).expect_success();
    out
}

/// What a report says of steps and validations.
fn losses(report: &Path) -> (serde_json::Value, serde_json::Value) {
    let report = read_json(report);
    (report["steps"].clone(), report["validations"].clone())
}

fn numbers(list: &serde_json::Value, key: &str) -> Vec<f64> {
    let list = list.as_array().unwrap();
    list.iter()
        .map(|entry| entry[key].as_f64().unwrap())
        .collect()
}

#[test]
fn a_killed_run_goes_on_with_the_same_losses_and_gives_the_same_weights() {
    let folder = tempfile::tempdir().unwrap();
    let text_file = data(folder.path(), "text.txt", 0, 6000);
    let (student, teacher) = (compressed_llama(folder.path()), llama_with_tokenizer());
    let finetune = |name: &str, extra: &[&str]| {
        let out = folder.path().join(name);
        let json = folder.path().join(format!("{name}.json"));
        let mut arguments = vec!["finetune", text(&student), "--teacher", text(&teacher)];
        arguments.extend(["--data", text(&text_file), "--window", "20", "--batch", "4"]);
        arguments.extend(["--accumulate", "2", "--steps", "60", "--save-every", "7"]);
        arguments.extend(["--valid-batches", "2", "--seed", "3", "--ema", "0.9"]);
        arguments.extend(["--out", text(&out), "--json", text(&json)]);
        arguments.extend(extra);
        (command(&arguments), out, json)
    };
    let (mut whole, whole_out, whole_json) = finetune("whole", &[]);
    assert!(whole.output().unwrap().status.success());

    let (mut killed, out, json) = finetune("killed", &[]);
    let work = folder.path().join("killed.partial/.blr-train");
    let mut child = killed.spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    while !work.join("scheduler-2.bpk").exists() {
        assert!(Instant::now() < deadline, "no round was finished");
        let running = child.try_wait().unwrap().is_none();
        assert!(running, "the run ended before it could be killed");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!out.exists(), "half a checkpoint is there");

    // Without --resume, and with other settings, it is refused.
    let refused = |extra: &[&str], part: &str| {
        let output = finetune("killed", extra).0.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(part), "{stderr}");
    };
    refused(&[], "--resume");
    refused(&["--resume", "--lr", "0.5"], "options");
    assert!(
        finetune("killed", &["--resume"])
            .0
            .output()
            .unwrap()
            .status
            .success()
    );

    let resumed_at = read_json(&json)["resumed_at"].as_u64().unwrap();
    assert!((7..60).contains(&resumed_at), "{resumed_at}");
    assert_eq!(losses(&json), losses(&whole_json));
    let weights = |out: &Path| fs::read(out.join("model.safetensors")).unwrap();
    assert!(weights(&out) == weights(&whole_out), "the weights differ");
    assert!(!out.join(".blr-train").exists());
}

#[test]
fn distillation_lowers_the_perplexity_of_the_compressed_demo() {
    let folder = tempfile::tempdir().unwrap();
    let train = data(folder.path(), "train.txt", 0, 60_000);
    let other = data(folder.path(), "other.txt", 80_000, 8_000);
    let (teacher, student) = (demo_checkpoint(), folder.path().join("student"));
    let arguments = ["compress", text(&teacher), "--out", text(&student)];
    let flags = ["--method", "low-rank", "--keep", "0.3"];
    blr(&[&arguments[..], &flags].concat()).expect_success();

    let (out, json) = (folder.path().join("out"), folder.path().join("report.json"));
    let mut arguments = vec!["finetune", text(&student), "--teacher", text(&teacher)];
    arguments.extend(["--data", text(&train), "--window", "64", "--batch", "4"]);
    arguments.extend(["--steps", "30", "--lr", "1e-3", "--valid-batches", "2"]);
    arguments.extend([
        "--train",
        "layers",
        "--out",
        text(&out),
        "--json",
        text(&json),
    ]);
    blr(&arguments).expect_success();
    let (steps, validations) = losses(&json);
    let loss = numbers(&steps, "loss");
    assert!(loss[29] < 0.7 * loss[0], "{loss:?}");
    let parts = |key: &str| numbers(&steps, key);
    for key in ["task", "output", "hidden"] {
        assert!(parts(key).iter().all(|part| *part > 0.0), "{key}");
    }
    // The parts with their weights, all one, make the whole.
    assert!((loss[3] - parts("task")[3] - parts("output")[3] - parts("hidden")[3]).abs() < 1e-3);
    let validations = numbers(&validations, "loss");
    assert!(validations.last() < validations.first(), "{validations:?}");

    let perplexity = |checkpoint: &Path| {
        let json = folder.path().join("eval.json");
        let arguments = [
            "eval",
            text(checkpoint),
            "--data",
            text(&other),
            "--json",
            text(&json),
        ];
        blr(&arguments).expect_success();
        read_json(&json)["perplexity"].as_f64().unwrap()
    };
    let (before, after) = (perplexity(&student), perplexity(&out));
    assert!(after < before / 3.0, "{before} became {after}");

    // What was not to be trained has the same bytes, and the factors have others.
    let [old, new] = [&student, &out].map(|dir| read(&dir.join("model.safetensors")));
    assert!(old.keys().eq(new.keys()));
    for (name, tensor) in &old {
        let layer = name.contains("low_rank") || name.contains("attn.c_") || name.contains("mlp");
        assert_eq!(tensor.values == new[name].values, !layer, "{name}");
    }
    let section = &read_json(&out.join("config.json"))["blr"]["layers"];
    let entry = &section["transformer.h.0.attn.c_attn"];
    assert_eq!(entry["method"], "low-rank");
    assert!(entry.get("relative_error").is_none(), "{entry}");
    assert!(out.join("tokenizer.json").exists());
}

#[test]
fn two_devices_learn_what_one_does_with_the_same_batch_of_a_step() {
    let folder = tempfile::tempdir().unwrap();
    let text_file = data(folder.path(), "text.txt", 0, 6000);
    let student = compressed_llama(folder.path());
    let losses_of = |name: &str, flags: &[&str]| {
        let (out, json) = (folder.path().join(name), folder.path().join("report.json"));
        let mut arguments = vec!["finetune", text(&student), "--data", text(&text_file)];
        arguments.extend([
            "--window",
            "20",
            "--batch",
            "2",
            "--steps",
            "8",
            "--save-every",
            "4",
        ]);
        arguments.extend(["--out", text(&out), "--json", text(&json)]);
        arguments.extend(flags);
        blr(&arguments).expect_success();
        let (steps, _) = losses(&json);
        [numbers(&steps, "loss"), numbers(&steps, "learning_rate")]
    };
    let one = losses_of("one", &["--accumulate", "4"]);
    let two = losses_of(
        "two",
        &["--accumulate", "2", "--devices", "2", "--exchange", "main"],
    );
    assert_eq!(one[1], two[1]);
    for (one, two) in one[0].iter().zip(&two[0]) {
        assert!((one - two).abs() < 1e-4, "{one} and {two}");
    }
}

#[test]
fn bf16_with_weights_in_f32_learns_as_f32_does() {
    let folder = tempfile::tempdir().unwrap();
    let text_file = data(folder.path(), "text.txt", 0, 6000);
    let (student, teacher) = (compressed_llama(folder.path()), llama_with_tokenizer());
    let last = ["f32", "bf16"].map(|dtype| {
        let (out, json) = (folder.path().join(dtype), folder.path().join("report.json"));
        let mut arguments = vec!["finetune", text(&student), "--teacher", text(&teacher)];
        arguments.extend([
            "--data",
            text(&text_file),
            "--window",
            "20",
            "--steps",
            "20",
        ]);
        arguments.extend(["--recompute", "--dtype", dtype, "--lr", "3e-3"]);
        arguments.extend(["--out", text(&out), "--json", text(&json)]);
        blr(&arguments).expect_success();
        let loss = numbers(&losses(&json).0, "loss");
        assert!(loss[19] < loss[0], "{dtype}: {loss:?}");
        loss[19]
    });
    assert!((last[0] - last[1]).abs() < 0.05 * last[0], "{last:?}");
}

#[test]
fn every_family_learns_from_scratch_dense_and_in_factors() {
    let folder = tempfile::tempdir().unwrap();
    let text_file = data(folder.path(), "text.txt", 0, 12_000);
    let pictures = squares(folder.path());
    let tokenizer = demo_checkpoint();
    let structures: [&[&str]; 2] = [&[], &["--method", "blast", "--keep", "0.5"]];
    let families = [
        ("gpt2", "gpt2-tiny"),
        ("llama", "llama-tiny"),
        ("vit", "vit-digits"),
        ("dit", "dit-digits"),
    ];
    for (family, name) in families {
        for (n, structure) in structures.iter().enumerate() {
            let out = folder.path().join(format!("{family}-{n}"));
            let (config, json) = (config(name), folder.path().join("report.json"));
            let mut arguments = vec!["train", "--family", family, "--config", text(&config)];
            arguments.extend(["--steps", "24", "--save-every", "12", "--lr", "3e-3"]);
            arguments.extend(["--out", text(&out), "--json", text(&json)]);
            match family {
                "gpt2" | "llama" => {
                    arguments.extend(["--data", text(&text_file), "--window", "32"]);
                    arguments.extend(["--tokenizer", text(&tokenizer)]);
                }
                _ => arguments.extend(["--data", text(&pictures), "--valid-share", "0.25"]),
            }
            arguments.extend(*structure);
            blr(&arguments).expect_success();
            let loss = numbers(&losses(&json).0, "loss");
            let [first, last] = [&loss[..4], &loss[20..]].map(|part| part.iter().sum::<f64>());
            assert!(last < 0.95 * first, "{family} {structure:?}: {loss:?}");
            let blr_layers = &read_json(&out.join("config.json"))["blr"]["layers"];
            assert_eq!(blr_layers.is_object(), n == 1, "{family}: {blr_layers}");

            // What was written is what the other subcommands read.
            let picture = folder.path().join("picture.png");
            let read: Vec<&str> = match family {
                "dit" => {
                    let flags = ["--class", "1", "--steps", "4", "--count", "1", "--out"];
                    let arguments = ["sample", text(&out)].into_iter().chain(flags);
                    arguments.chain([text(&picture)]).collect()
                }
                "vit" => vec!["eval", text(&out), "--data", text(&pictures)],
                _ => vec!["eval", text(&out), "--data", text(&text_file)],
            };
            blr(&read).expect_success();
        }
    }
}

#[test]
fn what_cannot_be_trained_is_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let text_file = data(folder.path(), "text.txt", 0, 3000);
    let short = data(folder.path(), "short.txt", 0, 40);
    let pictures = squares(folder.path());
    let student = compressed_llama(folder.path());
    let (llama, demo) = (llama_with_tokenizer(), demo_checkpoint());
    let out = folder.path().join("out");
    let finetune = |flags: &[&str], parts: &[&str]| {
        let arguments = [
            "finetune",
            text(&student),
            "--out",
            text(&out),
            "--steps",
            "2",
        ];
        let mut arguments = arguments.to_vec();
        for (flag, value) in [("--data", text(&text_file)), ("--window", "20")] {
            if !flags.contains(&flag) {
                arguments.extend([flag, value]);
            }
        }
        refuses(&[&arguments[..], flags].concat(), parts);
        assert!(!out.exists());
    };
    finetune(&["--data", "none.txt"], &["none.txt"]);
    finetune(&["--data", text(&short)], &["tokens of text", "window"]);
    finetune(&["--teacher", text(&demo)], &["teacher is gpt2", "student"]);
    finetune(&["--teacher", "none"], &["none: not a directory"]);
    finetune(
        &["--teacher", text(&llama), "--hidden-weight", "1,2,3"],
        &["--hidden-weight 3", "2 blocks"],
    );
    finetune(&["--window", "41"], &["--window 41", "at most 40"]);
    finetune(&["--lr", "0"], &["--lr 0", "above 0"]);
    finetune(&["--batch", "0"], &["--batch 0", "at least 1"]);
    finetune(&["--ema", "2"], &["--ema 2", "share"]);
    finetune(&["--dtype", "f16"], &["--dtype f16", "bf16"]);
    finetune(&["--valid-share", "1"], &["--valid-share 1"]);
    finetune(
        &["--devices", "2", "--exchange", "all-reduce"],
        &["--exchange all-reduce", "main"],
    );
    let arguments = [
        "finetune",
        text(&llama),
        "--out",
        text(&out),
        "--train",
        "layers",
    ];
    let flags = ["--data", text(&text_file), "--window", "20"];
    refuses(
        &[&arguments[..], &flags].concat(),
        &["no layer of the model is in factors"],
    );
    refuses(
        &[
            "finetune",
            text(&student),
            "--data",
            text(&text_file),
            "--out",
            text(&student),
        ],
        &["already exists"],
    );

    let gpt2 = config("gpt2-tiny");
    let train = |family: &str, config: &Path, flags: &[&str], parts: &[&str]| {
        let arguments = ["train", "--family", family, "--config", text(config)];
        let arguments = [
            &arguments[..],
            &["--out", text(&out), "--steps", "2"],
            flags,
        ]
        .concat();
        refuses(&arguments, parts);
        assert!(!out.exists());
    };
    let text_data = ["--data", text(&text_file), "--window", "32"];
    train("gpt2", &gpt2, &text_data, &["--tokenizer not given"]);
    train("llama", &gpt2, &text_data, &["--family llama", "gpt2"]);
    train("gpt2", Path::new("none.json"), &text_data, &["none.json"]);
    let with_tokenizer = [&text_data[..], &["--tokenizer", text(&demo)]].concat();
    let no_size = [&with_tokenizer[..], &["--method", "blast"]].concat();
    train("gpt2", &gpt2, &no_size, &["--keep"]);
    let window = ["--data", text(&pictures), "--window", "5"];
    train("vit", &config("vit-digits"), &window, &["--window 5"]);
    // A vocabulary that is smaller than that of the tokenizer.
    let small = folder.path().join("small.json");
    let small_config = fs::read_to_string(&gpt2).unwrap().replace("2048", "100");
    fs::write(&small, small_config.replace("2047", "1")).unwrap();
    train("gpt2", &small, &with_tokenizer, &["token id", "0 to 99"]);
    // A diffusion model of latents, and one with a variance that nothing would teach.
    let latents = folder.path().join("latents.json");
    let digits = fs::read_to_string(config("dit-digits")).unwrap();
    fs::write(
        &latents,
        digits.replace("\"in_channels\": 1", "\"in_channels\": 4"),
    )
    .unwrap();
    train(
        "dit",
        &latents,
        &["--data", text(&pictures)],
        &["4 channels", "1 or 3"],
    );
    let sigma = folder.path().join("sigma.json");
    fs::write(
        &sigma,
        digits.replace("\"learn_sigma\": false", "\"learn_sigma\": true"),
    )
    .unwrap();
    train(
        "dit",
        &sigma,
        &["--data", text(&pictures)],
        &["learn_sigma"],
    );
}
