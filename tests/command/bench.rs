use std::path::Path;

use serde_json::{Value, json};

use crate::devices::cuda;
use crate::run::{Finished, blr, blr_on_cuda, read_json, repository, text};

#[test]
fn a_network_is_timed_in_every_phase_as_dense_and_structured() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("model.json");
    blr(&[
        "bench",
        "model",
        "--family",
        "gpt2s",
        "--methods",
        "dense,blast",
        "--phase",
        "prefill,decode,forward",
        "--tokens",
        "3",
        "--reps",
        "1",
        "--json",
        text(&json),
    ])
    .expect_success();
    let report = read_json(&json);
    assert_eq!(report["device"], "cpu");
    let rows = report["rows"].as_array().unwrap();
    let found: Vec<[&str; 2]> = rows
        .iter()
        .map(|row| ["phase", "method"].map(|key| row[key].as_str().unwrap()))
        .collect();
    let expected = ["prefill", "decode", "forward"]
        .map(|phase| [[phase, "dense"], [phase, "blast"]])
        .concat();
    assert_eq!(found, expected);
    for row in rows {
        for key in [
            "family",
            "batch",
            "tokens",
            "context",
            "dtype",
            "timing",
            "no_graph",
            "min_ms",
            "max_ms",
            "host_ms",
            "graph_host_ms",
            "peak_bytes",
        ] {
            assert!(row.get(key).is_some(), "{key} is missing in {row}");
        }
        let decode = row["phase"] == "decode";
        assert_eq!(row["tokens"], if decode { 1 } else { 3 });
        assert_eq!(row["context"], if decode { 3 } else { 0 });
        let per_second = row["tokens_per_s"].as_f64().unwrap();
        let median = row["median_ms"].as_f64().unwrap();
        let tokens = row["tokens"].as_f64().unwrap();
        assert!((per_second * median / 1e3 - tokens).abs() < 1e-6, "{row}");
    }
    // GPT-2 small has 124,439,808 parameters, its head being the embedding.
    assert_eq!(rows[0]["parameters"], 124_439_808);
    assert_eq!(rows[0]["weight_bytes"], 4 * 124_439_808u64);
    assert!(rows[1]["parameters"].as_u64() < rows[0]["parameters"].as_u64());
}

#[test]
fn a_phase_that_a_network_does_not_have_is_one_line() {
    for (flags, part) in [
        (vec!["--family", "vit_b", "--phase", "decode"], "--phase"),
        (vec!["--family", "dit_xl", "--tokens", "77"], "--tokens"),
        (vec!["--family", "gpt2s", "--tokens", "2000"], "2000"),
        (vec!["--family", "gpt2s", "--batch", "0"], "--batch"),
        (
            vec!["--family", "gpt2s", "--methods", "sparse"],
            "--methods",
        ),
    ] {
        blr(&[&["bench", "model"], &flags[..]].concat()).expect_refusal(&[part]);
    }
}

#[test]
fn every_row_has_the_agreed_keys_and_a_small_error() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("bench.json");
    blr(&[
        "bench",
        "layers",
        "--layer",
        "vit_b_patch16_224.mlp_fc1",
        "--tokens",
        "1,5",
        "--reps",
        "1",
        "--json",
        text(&json),
    ])
    .expect_success();
    let report = read_json(&json);
    assert_eq!(report["device"], "cpu");
    let rows = report["rows"].as_array().unwrap();
    let methods: Vec<&str> = rows
        .iter()
        .map(|row| row["method"].as_str().unwrap())
        .collect();
    let expected = ["dense", "low-rank", "monarch", "blast"];
    assert_eq!(methods, [expected, expected].concat());
    for row in rows {
        for key in [
            "layer",
            "method",
            "pass",
            "tokens",
            "in",
            "out",
            "blocks",
            "rank",
            "dtype",
            "kernel",
            "timing",
            "median_us",
            "min_us",
            "max_us",
            "tflops",
            "gbps",
            "compulsory_bytes",
            "limit_us",
            "share_of_limit",
            "rel_err",
            "host_us",
            "graph_host_us",
            "peak_bytes",
            "intermediate_bytes",
        ] {
            assert!(row.get(key).is_some(), "{key} is missing in {row}");
        }
        let number = |key: &str| row[key].as_f64().unwrap();
        assert!(number("min_us") <= number("median_us"));
        assert!(number("median_us") <= number("max_us"));
        assert!(number("rel_err") < 1e-5, "{row}");
        assert_eq!((number("in"), number("out")), (768.0, 3072.0));
        assert_eq!(row["timing"], "wall", "the CPU has no graphs");
        assert_eq!(row["pass"], "forward");
        assert_eq!(row["limit_us"], Value::Null, "nothing is known of this CPU");
    }
    let blast = &rows[3];
    assert_eq!(blast["intermediate_bytes"], 3 * 128 * 4, "b, r and f32");
    let elements = 128 * (768 + 3072 + 3 * 3) + 768 + 3072;
    assert_eq!(blast["compulsory_bytes"], 4 * elements);
}

#[test]
fn training_passes_are_timed_beside_plain_ones_and_their_gradients_are_right() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("bench.json");
    let flags = ["--pass", "training", "--plain", "--methods", "dense,blast"];
    layers(&flags, &json).expect_success();
    let rows = read_json(&json)["rows"].as_array().unwrap().clone();
    let kernels: Vec<&str> = rows
        .iter()
        .map(|row| row["kernel"].as_str().unwrap())
        .collect();
    assert_eq!(kernels, ["auto", "auto", "plain"]);
    for row in rows {
        assert_eq!(row["pass"], "training");
        assert!(row["rel_err"].as_f64().unwrap() < 1e-4, "{row}");
    }
}

#[test]
fn on_cuda_every_pass_is_timed_in_a_graph_that_writes_its_results() {
    if cuda().is_none() {
        return;
    }
    for pass in ["forward", "training"] {
        let folder = tempfile::tempdir().unwrap();
        let json = folder.path().join("bench.json");
        let layer = ["--layer", "gpt2s.c_attn", "--tokens", "1,48", "--plain"];
        let rest = ["--dtype", "bf16", "--pass", pass, "--json", text(&json)];
        blr_on_cuda(&[&["bench", "layers"], &layer[..], &rest].concat()).expect_success();
        for row in read_json(&json)["rows"].as_array().unwrap() {
            assert_eq!(row["timing"], "graph", "{row}");
            // The results are NaN until a replay writes them.
            assert!(row["rel_err"].as_f64().unwrap() < 2e-2, "{row}");
            let number = |key: &str| row[key].as_u64().unwrap();
            let least = number("compulsory_bytes") / if pass == "training" { 2 } else { 1 };
            assert!(number("peak_bytes") >= least, "{row}");
        }
    }
}

#[test]
fn the_list_is_what_the_script_of_the_peers_reads() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("layers.json");
    blr(&["bench", "layers", "--list", "--json", text(&json)]).expect_success();
    let stored = repository().join("benches/peers/layers.json");
    assert_eq!(
        read_json(&json),
        read_json(&stored),
        "write it anew: blr bench layers --list --json benches/peers/layers.json"
    );
}

#[test]
fn a_report_sets_ours_beside_the_peers() {
    let folder = tempfile::tempdir().unwrap();
    let row = |method: &str, kernel: &str, median_us: Value| {
        json!({
            "layer": "gpt2s.c_attn", "method": method, "tokens": 384, "dtype": "bf16",
            "kernel": kernel, "timing": "graph", "median_us": median_us, "share_of_limit": 0.25,
            "rel_err": 3e-3,
        })
    };
    let ours = folder.path().join("ours.json");
    write_json(
        &ours,
        &json!({"device": "GPU", "rows": [
            row("dense", "auto", json!(30.0)), row("blast", "auto", json!(8.0)),
        ]}),
    );
    let peers = folder.path().join("peers.json");
    write_json(
        &peers,
        &json!({"device": "GPU", "rows": [
            row("dense", "torch.eager", json!(10.0)),
            row("blast", "reference.a", json!(14.0)),
            row("blast", "reference.b", json!(12.0)),
            row("blast", "reference.c", Value::Null),
        ]}),
    );
    let json = folder.path().join("report.json");
    let paths = ["bench", "report", text(&ours), text(&peers)];
    let shown = blr(&[&paths[..], &["--markdown", "--json", text(&json)]].concat());
    let shown = shown.expect_success().stdout;
    let line = shown.lines().find(|line| line.contains("gpt2s.c_attn"));
    let end = "| 12.0 | 8.0 | 1.50 | 1.25 | 25% |";
    assert!(line.unwrap().ends_with(end), "{shown}");
    let means = read_json(&json)["geometric_means"].clone();
    let blast = means.as_array().unwrap().iter();
    let blast: Vec<&Value> = blast.filter(|mean| mean["method"] == "blast").collect();
    assert_eq!(blast.len(), 1);
    let mean = blast[0]["over_peer"]["geometric_mean"].as_f64().unwrap();
    assert!((mean - 1.5).abs() < 1e-9);
}

#[test]
fn a_report_of_something_else_is_one_line_and_status_two() {
    let folder = tempfile::tempdir().unwrap();
    let good = folder.path().join("good.json");
    let row = |median_us: f64| {
        json!({
            "layer": "gpt2s.c_attn", "method": "blast", "tokens": 1, "dtype": "f32",
            "kernel": "auto", "timing": "wall", "median_us": median_us, "share_of_limit": null,
            "rel_err": 1e-7,
        })
    };
    write_json(&good, &json!({"device": "cpu", "rows": [row(1.0)]}));
    let bad = folder.path().join("bad.json");
    let missing = folder.path().join("missing.json");
    for (content, said) in [
        (json!([1, 2]).to_string(), "not a report of bench layers"),
        ("{".to_string(), "not a report of bench layers"),
        (json!({"rows": []}).to_string(), "device"),
        (
            json!({"device": "cpu", "rows": [{"layer": 1}]}).to_string(),
            "layer",
        ),
        (
            json!({"device": "cpu", "rows": [row(0.0)]}).to_string(),
            "median_us",
        ),
    ] {
        std::fs::write(&bad, content).unwrap();
        for paths in [[&bad, &good], [&good, &bad]] {
            refuses(
                &["bench", "report", text(paths[0]), text(paths[1])],
                &["bad.json", said],
            );
        }
    }
    refuses(
        &["bench", "report", text(&good), text(&missing)],
        &["missing.json"],
    );
    std::fs::write(&bad, json!({"device": "cpu", "rows": []}).to_string()).unwrap();
    refuses(
        &["bench", "report", text(&bad), text(&good)],
        &["bad.json", "no low-rank"],
    );
}

#[test]
fn flags_that_name_nothing_are_refused() {
    fn layers<'a>(flags: &[&'a str]) -> Vec<&'a str> {
        [&["bench", "layers"], flags].concat()
    }
    refuses(
        &layers(&["--layer", "gpt2s,nowhere"]),
        &["--layer nowhere", "gpt2s.c_attn"],
    );
    refuses(
        &layers(&["--methods", "butterfly"]),
        &["--methods butterfly", "monarch"],
    );
    refuses(&layers(&["--reps", "0"]), &["--reps 0"]);
    for tokens in ["0", "-1", "some"] {
        let flag = format!("--tokens={tokens}");
        let finished = blr(&layers(&[&flag]));
        assert_eq!(finished.code, Some(2));
        assert!(finished.stderr.contains("paper"), "{}", finished.stderr);
    }
}

fn layers(flags: &[&str], json: &Path) -> Finished {
    let layer = ["--layer", "vit_b_patch16_224.mlp_fc1", "--tokens", "1"];
    let rest = ["--reps", "1", "--json", text(json)];
    blr(&[&["bench", "layers"], &layer[..], flags, &rest].concat())
}

fn write_json(path: &Path, value: &Value) {
    std::fs::write(path, value.to_string()).unwrap();
}

fn refuses(arguments: &[&str], parts: &[&str]) {
    blr(arguments).expect_refusal(parts);
}

#[test]
fn kernels_cannot_be_forced_where_there_are_none() {
    let layer = ["bench", "layers", "--layer", "gpt2s.c_attn"];
    let flags = ["--strategy", "auto,tensor-cores"];
    blr(&[&layer[..], &flags].concat()).expect_refusal(&[
        "--strategy tensor-cores",
        "expected auto",
        "CPU",
    ]);
}
