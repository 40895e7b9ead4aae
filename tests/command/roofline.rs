//! Limits of layers on GPUs that need not be there.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::run::{blr, read_json, refuses, repository, text};

const GATE: [&str; 5] = [
    "roofline",
    "--layer",
    "llama1b.gate_proj",
    "--dtype",
    "bf16",
];

/// The rows of a run.
fn rows(arguments: &[&str]) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("roofline.json");
    blr(&[arguments, &["--json", text(&path)]].concat()).expect_success();
    read_json(&path)["rows"].as_array().unwrap().clone()
}

fn number(row: &Value, key: &str) -> f64 {
    row[key].as_f64().unwrap()
}

/// A report of bench layers with one row, changed by `change`.
fn report(folder: &Path, change: impl FnOnce(&mut Value)) -> PathBuf {
    let mut report = json!({
        "device": "NVIDIA H100 80GB HBM3",
        "rows": [{
            "layer": "llama1b.gate_proj", "method": "blast", "pass": "forward", "tokens": 1024,
            "dtype": "bf16", "kernel": "auto", "median_us": 27.6, "rel_err": 0.002,
        }],
    });
    change(&mut report);
    let path = folder.join("bench.json");
    std::fs::write(&path, report.to_string()).unwrap();
    path
}

#[test]
fn limits_are_what_the_arithmetic_of_a_layer_says() {
    // llama1b.gate_proj: 2048 -> 8192, 1024 tokens, BLAST of 16 blocks and rank 512; the H100 does
    // 798 TFLOP/s and 3 TB/s.
    let found = rows(&GATE);
    let methods: Vec<_> = found.iter().map(|row| &row["method"]).collect();
    assert_eq!(methods, ["dense", "low-rank", "monarch", "blast"]);
    let weights = [2048 * 8192, 512 * 10240, 512 * 10240, 512 * (10240 + 256)];
    for (row, weights) in found.iter().zip(weights) {
        let flops = 2.0 * 1024.0 * f64::from(weights);
        let bytes = 2.0 * (f64::from(weights) + 1024.0 * 10240.0);
        assert_eq!(number(row, "flops"), flops);
        assert_eq!(number(row, "bytes"), bytes);
        assert!(
            (number(row, "limit_us") - flops / 798e6).abs() < 1e-9,
            "{row}"
        );
        assert_eq!(row["bound"], "products");
        assert!(row["measured_us"].is_null());
    }
    // One token reads every weight for two operations each.
    for row in rows(&[&GATE[..], &["--tokens", "1"]].concat()) {
        assert_eq!(row["bound"], "memory");
        assert!((number(&row, "limit_us") - number(&row, "bytes") / 3e6).abs() < 1e-9);
    }
    // Our f32 products are not on tensor cores, Burn's dense ones are, as tf32.
    let found = rows(&["roofline", "--layer", "llama1b.gate_proj"]);
    assert!((number(&found[0], "limit_tflops") - 494.7).abs() < 1e-9);
    assert!((number(&found[3], "limit_tflops") - 66.9).abs() < 1e-9);
}

#[test]
fn families_gpus_and_layers_of_ones_own_can_be_named() {
    let found = rows(&[
        "roofline",
        "--family",
        "vit_b,gpt2s",
        "--gpu",
        "a40,orin-nano",
        "--methods",
        "monarch",
    ]);
    assert_eq!(found.len(), 2 * 7);
    assert!(found[..7].iter().all(|row| row["gpu"] == "a40"));
    assert!(found[7..].iter().all(|row| row["gpu"] == "orin-nano"));
    let own = [
        "roofline", "--in", "96", "--out", "64", "--tokens", "10", "--dtype", "f16",
    ];
    let found = rows(&[&own[..], &["--rank", "16", "--blocks", "4"]].concat());
    assert_eq!(found.len(), 4);
    assert_eq!(
        number(&found[3], "flops"),
        20.0 * 16.0 * (96.0 + 64.0 + 16.0)
    );
    let found = rows(&[&own[..], &["--methods", "dense"]].concat());
    assert_eq!(
        number(&found[0], "bytes"),
        2.0 * (96.0 * 64.0 + 10.0 * 160.0)
    );
}

#[test]
fn what_was_measured_stands_beside_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let path = report(folder.path(), |_| ());
    let found = rows(&[&GATE[..], &["--measured", text(&path)]].concat());
    assert_eq!(found[3]["measured_us"], 27.6);
    let share = number(&found[3], "limit_us") / 27.6;
    assert_eq!(number(&found[3], "share_of_limit"), share);
    assert!(found[..3].iter().all(|row| row["measured_us"].is_null()));
    // On another GPU nothing was measured.
    let flags = ["--gpu", "h100,a100", "--measured", text(&path)];
    let found = rows(&[&GATE[..], &flags].concat());
    assert_eq!(found[3]["measured_us"], 27.6);
    assert!(found[4..].iter().all(|row| row["measured_us"].is_null()));
}

#[test]
fn the_picture_names_what_it_shows() {
    let folder = tempfile::tempdir().unwrap();
    let (svg, json) = (folder.path().join("a.svg"), report(folder.path(), |_| ()));
    let flags = ["--measured", text(&json), "--svg", text(&svg)];
    blr(&[&GATE[..], &flags].concat()).expect_success();
    let picture = std::fs::read_to_string(&svg).unwrap();
    for part in [
        "NVIDIA H100 80GB HBM3, bf16",
        "llama1b.gate_proj",
        "1024 tokens",
        "FLOP per byte",
        "time of the layer, us",
        "798 TFLOP/s",
        "3 TB/s",
        ">27.6<",
        "prefers-color-scheme: dark",
    ] {
        assert!(picture.contains(part), "{part}");
    }
    assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
    assert!(!picture.contains("NaN") && !picture.contains("inf"));
}

/// The pictures of docs/kernels.md are those that the command draws of the committed times.
#[test]
fn the_pictures_of_the_documentation_are_up_to_date() {
    let docs = repository().join("docs");
    let folder = tempfile::tempdir().unwrap();
    let drawn = folder.path().join("drawn.svg");
    let times = docs.join("h100_bf16_layers.json");
    for family in ["gpt2s", "llama1b", "llama7b", "vit_b", "dit_xl"] {
        let flags = ["roofline", "--dtype", "bf16", "--family", family];
        let files = ["--measured", text(&times), "--svg", text(&drawn)];
        let tokens = match family {
            "llama7b" => &["--tokens", "1,16,paper"][..],
            _ => &[],
        };
        blr(&[&flags[..], &files, tokens].concat()).expect_success();
        let committed = docs.join(format!("roofline_{family}.svg"));
        let committed = std::fs::read_to_string(committed).unwrap();
        assert_eq!(
            committed,
            std::fs::read_to_string(&drawn).unwrap(),
            "{family}"
        );
    }
}

#[test]
fn what_cannot_be_looked_up_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let gpu = ["--gpu", "h100,b200"];
    refuses(
        &[&GATE[..], &gpu].concat(),
        &["--gpu b200", "h200, a100", "orin-nano"],
    );
    refuses(
        &["roofline", "--layer", "bert"],
        &["--layer bert", "gpt2s.c_attn"],
    );
    let both = ["roofline", "--family", "gpt2s", "--layer", "llama1b"];
    refuses(&both, &["--layer llama1b", "--family"]);
    let own = ["roofline", "--in", "96", "--out", "64"];
    refuses(&own, &["--tokens paper"]);
    let own = [&own[..], &["--tokens", "4"]].concat();
    refuses(&own, &["--methods low-rank", "--rank"]);
    let monarch = ["--methods", "monarch", "--rank", "18", "--blocks", "4"];
    refuses(&[&own[..], &monarch].concat(), &["18", "4"]);

    let refused = |change: fn(&mut Value), parts: &[&str]| {
        let path = report(folder.path(), change);
        let parts = [&["bench.json"][..], parts].concat();
        refuses(&[&GATE[..], &["--measured", text(&path)]].concat(), &parts);
    };
    refused(
        |report| report["device"] = json!("cpu"),
        &["cpu", "NVIDIA A40"],
    );
    refused(
        |report| report["rows"][0]["median_us"] = json!(0),
        &["above 0"],
    );
    refused(|report| report["rows"] = json!(3), &["not a report"]);
    for (key, value) in [
        ("rel_err", json!(null)),
        ("rel_err", json!(0.5)),
        ("dtype", json!("f16")),
        ("pass", json!("training")),
        ("kernel", json!("plain")),
        ("tokens", json!(7)),
    ] {
        let path = report(folder.path(), |report| report["rows"][0][key] = value);
        let flags = ["--measured", text(&path)];
        refuses(&[&GATE[..], &flags].concat(), &["no forward pass in bf16"]);
    }
    let missing = folder.path().join("nothing.json");
    refuses(
        &[&GATE[..], &["--measured", text(&missing)]].concat(),
        &["nothing.json"],
    );
}
