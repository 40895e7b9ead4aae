//! The subcommands on diffusion models.

use std::path::{Path, PathBuf};

use crate::forward::output;
use crate::run::{blr, copy_checkpoint, read_json, refuses, repository, text};
use crate::safetensors_by_hand::{dense, read};

fn case(name: &str) -> PathBuf {
    repository().join("tests/reference/dit").join(name)
}

fn cases() -> Vec<PathBuf> {
    ["fixed_sigma", "latent", "pixel_gray", "pixel_rgb"]
        .map(case)
        .to_vec()
}

fn difference(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f64::max)
}

/// The largest difference of what `checkpoint` predicts from what `inputs` expects.
fn error(checkpoint: &Path, inputs: &Path) -> f64 {
    let found = output(checkpoint, inputs, "sample");
    let expected = &read(inputs)["sample"];
    assert_eq!(found.shape, expected.shape);
    difference(&found.values, &expected.values)
}

#[test]
fn predictions_equal_those_of_the_official_code() {
    for case in cases() {
        let error = error(&case, &case.join("expected.safetensors"));
        assert!(error < 1e-4, "{}: {error:e}", case.display());
    }
}

#[test]
fn a_compressed_checkpoint_is_inspected_and_drawn_with() {
    let folder = tempfile::tempdir().unwrap();
    let source = case("latent");
    let weights = read(&source.join("model.safetensors"));
    for method in ["low-rank", "monarch", "blast"] {
        let out = folder.path().join(method);
        let arguments = ["compress", text(&source), "--out", text(&out)];
        let flags = ["--method", method, "--keep", "0.6"];
        blr(&[arguments, flags].concat()).expect_success();
        // The factors give the error that the configuration states.
        let factors = read(&out.join("model.safetensors"));
        let config = read_json(&out.join("config.json"));
        let layers = config["blr"]["layers"].as_object().unwrap();
        assert_eq!(layers.len(), 10);
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
        assert_eq!(report["family"], "dit");
        let held: usize = factors.values().map(|tensor| tensor.values.len()).sum();
        assert_eq!(report["parameters"], held);
        let png = folder.path().join("grid.png");
        let draw = ["sample", text(&out), "--class", "3", "--steps", "2"];
        blr(&[&draw[..], &["--out", text(&png)]].concat()).expect_success();
    }
}

#[test]
fn a_compression_without_loss_changes_no_prediction() {
    let folder = tempfile::tempdir().unwrap();
    let source = case("pixel_rgb");
    let inputs = source.join("expected.safetensors");
    let dense = output(&source, &inputs, "sample");
    for method in ["low-rank", "monarch", "blast"] {
        let out = folder.path().join(method);
        let arguments = ["compress", text(&source), "--out", text(&out)];
        let flags = ["--method", method, "--rank", "48", "--layers"];
        let mut all = [&arguments[..], &flags, &["qkv|fc1|adaLN"]].concat();
        if method != "low-rank" {
            all.extend(["--blocks", "4"]);
        }
        blr(&all).expect_success();
        let found = output(&out, &inputs, "sample");
        let difference = difference(&found.values, &dense.values);
        assert!(difference < 1e-4, "{method}: {difference:e}");
        assert!(difference > 0.0, "{method} did nothing");
    }
}

#[test]
fn the_official_files_are_imported() {
    let folder = tempfile::tempdir().unwrap();
    let root = repository().join("tests/reference/dit_pt");
    let inputs = root.join("expected.safetensors");
    for name in ["plain", "train"] {
        let out = folder.path().join(name);
        let file = root.join(name).with_extension("pt");
        let arguments = ["import", "dit", text(&file), "--out", text(&out)];
        let flags = ["--heads", "2", "--image-size", "8"];
        let said = blr(&[&arguments[..], &flags].concat()).expect_success();
        assert!(said.stdout.contains("7 classes"), "{}", said.stdout);
        let error = error(&out, &inputs);
        assert!(error < 1e-4, "{name}: {error:e}");
        refuses(
            &[&arguments[..], &flags].concat(),
            &[text(&out), "exists already"],
        );
    }
}

#[test]
fn files_that_are_not_a_dit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let root = repository().join("tests/reference");
    let out = folder.path().join("out");
    let refused = |file: &Path, flags: &[&str], parts: &[&str]| {
        let arguments = ["import", "dit", text(file), "--out", text(&out)];
        refuses(&[&arguments[..], flags].concat(), parts);
        assert!(!out.exists());
        assert!(!out.with_file_name("out.partial").exists());
    };
    let plain = root.join("dit_pt/plain.pt");
    refused(&plain, &[], &["heads", "not given", "the width 16"]);
    refused(
        &plain,
        &["--heads", "3"],
        &["heads", "a divisor of the width 16"],
    );
    refused(
        &plain,
        &["--heads", "2", "--image-size", "7"],
        &["image-size", "7", "expected 8"],
    );
    refused(&root.join("none.pt"), &[], &["none.pt"]);
    let weights = root.join("dit/latent/model.safetensors");
    refused(&weights, &[], &["not a PyTorch checkpoint"]);
    refused(
        &root.join("make_dit.py"),
        &[],
        &["not a PyTorch checkpoint"],
    );
    let whole = std::fs::read(&plain).unwrap();
    for length in [0, 1, 100, whole.len() / 2, whole.len() - 1] {
        let cut = folder.path().join("cut.pt");
        std::fs::write(&cut, &whole[..length]).unwrap();
        refused(&cut, &["--heads", "2"], &["cut.pt"]);
    }
}

/// Width and height of a PNG file, from its header.
fn size(png: &[u8]) -> (u32, u32) {
    assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");
    let side = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
    (side(16), side(20))
}

#[test]
fn images_are_drawn_into_a_grid() {
    let folder = tempfile::tempdir().unwrap();
    let png = folder.path().join("grid.png");
    let draw = |name: &str, flags: &[&str]| {
        let checkpoint = case(name);
        let arguments = [
            "sample",
            text(&checkpoint),
            "--class",
            "1,2",
            "--steps",
            "3",
        ];
        let all = [&arguments[..], &["--out", text(&png)], flags].concat();
        let said = blr(&all).expect_success().stdout;
        (said, std::fs::read(&png).unwrap())
    };
    // Three columns for six images of 16 pixels, and the gaps.
    let (said, first) = draw("pixel_rgb", &["--count", "3"]);
    assert!(
        said.starts_with("6 images") && said.contains("pixels"),
        "{said}"
    );
    assert_eq!(size(&first), (3 * 18 + 2, 2 * 18 + 2));
    assert_eq!(draw("pixel_rgb", &["--count", "3"]).1, first);
    assert_ne!(draw("pixel_rgb", &["--count", "3", "--seed", "1"]).1, first);
    assert_ne!(
        draw("pixel_rgb", &["--count", "3", "--guidance", "1"]).1,
        first
    );
    assert_ne!(
        draw("pixel_rgb", &["--count", "3", "--sampler", "ddim"]).1,
        first
    );
    draw("pixel_gray", &[]);

    let (said, _) = draw("latent", &["--count", "1"]);
    assert!(said.contains("these are latents, not images"), "{said}");
    let vae = repository().join("tests/reference/vae");
    for (name, side) in [("three_blocks", 32), ("one_channel", 16)] {
        let decoder = vae.join(name);
        let (said, file) = draw("latent", &["--count", "1", "--vae", text(&decoder)]);
        assert!(said.contains("decoded images"), "{said}");
        assert_eq!(size(&file), (2 * (side + 2) + 2, side + 4));
    }
}

#[test]
fn what_cannot_be_drawn_or_run_is_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("grid.png");
    let latent = case("latent");
    let vae = repository().join("tests/reference/vae/three_blocks");
    let sample = |checkpoint: &Path, flags: &[&str], parts: &[&str]| {
        let arguments = ["sample", text(checkpoint), "--out", text(&out)];
        refuses(&[&arguments[..], flags].concat(), parts);
        assert!(!out.exists());
    };
    sample(&latent, &["--class", "10"], &["class 10", "0 to 9"]);
    sample(
        &latent,
        &["--class", "1", "--steps", "0"],
        &["steps", "1 to 1000"],
    );
    sample(
        &latent,
        &["--class", "1", "--guidance", "NaN"],
        &["guidance"],
    );
    sample(
        &case("pixel_rgb"),
        &["--class", "1", "--vae", text(&vae)],
        &["--vae", "3 channels"],
    );
    sample(
        &latent,
        &["--class", "1", "--vae", text(folder.path())],
        &["config.json"],
    );
    let llama = repository().join("tests/reference/llama/mha");
    sample(&llama, &["--class", "1"], &["llama model", "dit model"]);
    let broken = folder.path().join("broken");
    copy_checkpoint(&latent, &broken);
    let mut config = read_json(&broken.join("config.json"));
    config["num_heads"] = 5.into();
    std::fs::write(broken.join("config.json"), config.to_string()).unwrap();
    let heads = ["`num_heads` is 5", "a divisor of hidden_size 48"];
    sample(&broken, &["--class", "1"], &heads);
    let nowhere = folder.path().join("none/grid.png");
    let arguments = ["sample", text(&latent), "--class", "1", "--out"];
    refuses(&[&arguments[..], &[text(&nowhere)]].concat(), &["--out"]);

    let outputs = folder.path().join("outputs.safetensors");
    let forward = |inputs: &Path, parts: &[&str]| {
        let arguments = ["forward", text(&latent), "--inputs", text(inputs)];
        refuses(
            &[&arguments[..], &["--outputs", text(&outputs)]].concat(),
            parts,
        );
    };
    forward(
        &case("pixel_rgb").join("expected.safetensors"),
        &["`x`", "16", "8"],
    );
    forward(
        &llama.join("expected.safetensors"),
        &["`x`", "not in the file"],
    );
    let half = case("latent").join("model.safetensors");
    forward(&half, &["`x`", "F32 [batch, channels, height, width]"]);
    let data = repository().join("README.md");
    let reason = ["holds a dit model; expected a language model"];
    refuses(&["generate", text(&latent), "--prompt", "a"], &reason);
    refuses(&["eval", text(&latent), "--data", text(&data)], &reason);
}

#[test]
fn captured_steps_change_no_picture() {
    let folder = tempfile::tempdir().unwrap();
    let source = case("pixel_rgb");
    let drawn = |name: &str, flags: &[&str]| {
        let png = folder.path().join(name);
        let draw = ["sample", text(&source), "--class", "1", "--steps", "2"];
        blr(&[&draw[..], flags, &["--out", text(&png)]].concat()).expect_success();
        std::fs::read(png).unwrap()
    };
    assert_eq!(drawn("a.png", &["--capture"]), drawn("b.png", &[]));
}
