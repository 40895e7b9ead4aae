//! Parts of a checkpoint, compressed apart and put together.

use std::path::{Path, PathBuf};

use crate::report::with_page;
use crate::run::{
    Finished, assert_same_files, blr, copy_checkpoint, demo_checkpoint, read_json, refuses,
    repository, text,
};
use crate::safetensors_by_hand::read;

const ATTENTION: [&str; 4] = ["--method", "low-rank", "--layers", "attn"];
const MLP: [&str; 4] = ["--method", "monarch", "--layers", "mlp"];

/// Compresses to half.
fn compress(source: &Path, out: &Path, flags: &[&str]) {
    let arguments = [
        "compress",
        text(source),
        "--out",
        text(out),
        "--keep",
        "0.5",
    ];
    blr(&[&arguments[..], flags].concat()).expect_success();
}

fn merge(parts: &[&Path], source: Option<&Path>, out: &Path) -> Finished {
    let mut arguments = vec!["merge"];
    arguments.extend(parts.iter().map(|part| text(part)));
    if let Some(source) = source {
        arguments.extend(["--source", text(source)]);
    }
    arguments.extend(["--out", text(out)]);
    blr(&arguments)
}

/// The demo's checkpoint in two shards, tensors in turn.
fn sharded(folder: &Path) -> PathBuf {
    let (whole, sharded) = (demo_checkpoint(), folder.join("sharded"));
    copy_checkpoint(&whole, &sharded);
    std::fs::remove_file(sharded.join("model.safetensors")).unwrap();
    let bytes = std::fs::read(whole.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut names = tensors.names();
    names.sort();
    let mut weight_map = serde_json::Map::new();
    for half in [0, 1] {
        let file = format!("model-0000{}-of-00002.safetensors", half + 1);
        let names = names.iter().skip(half).step_by(2);
        let views: Vec<_> = names
            .map(|name| (name.to_string(), tensors.tensor(name).unwrap()))
            .collect();
        for (name, _) in &views {
            weight_map.insert(name.clone(), file.clone().into());
        }
        safetensors::serialize_to_file(views, None, &sharded.join(file)).unwrap();
    }
    let index = serde_json::json!({"metadata": {"total_size": 0}, "weight_map": weight_map});
    let path = sharded.join("model.safetensors.index.json");
    std::fs::write(path, index.to_string()).unwrap();
    sharded
}

fn bytes_in(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap();
    let weights = entries.map(|entry| entry.unwrap());
    let weights =
        weights.filter(|entry| entry.path().extension().is_some_and(|e| e == "safetensors"));
    weights.map(|entry| entry.metadata().unwrap().len()).sum()
}

#[test]
fn parts_put_together_are_what_one_run_makes_of_all_layers() {
    let folder = tempfile::tempdir().unwrap();
    let plan = folder.path().join("plan.toml");
    std::fs::write(
        &plan,
        "[[rules]]\nlayers = 'attn'\nmethod = \"low-rank\"\nkeep = 0.5\n\
         [[rules]]\nlayers = 'mlp'\nmethod = \"monarch\"\nkeep = 0.5\n",
    )
    .unwrap();
    for source in [demo_checkpoint(), sharded(folder.path())] {
        let path = |name: &str| {
            let source = source.file_name().unwrap().to_string_lossy();
            folder.path().join(format!("{source}-{name}"))
        };
        let (whole, merged) = (path("whole"), path("merged"));
        let arguments = ["compress", text(&source), "--out", text(&whole)];
        blr(&[&arguments[..], &["--plan", text(&plan)]].concat()).expect_success();

        // As parts, which hold the factors alone.
        let (attention, mlp) = (path("attention"), path("mlp"));
        compress(&source, &attention, &[&ATTENTION[..], &["--part"]].concat());
        compress(&source, &mlp, &[&MLP[..], &["--part"]].concat());
        let parts = [attention.as_path(), mlp.as_path()];
        merge(&parts, Some(&source), &merged).expect_success();
        assert_same_files(&whole, &merged);
        let (of_parts, of_whole) = (bytes_in(&attention) + bytes_in(&mlp), bytes_in(&whole));
        assert!(of_parts < of_whole - 1_000_000, "{of_parts} {of_whole}");
        assert!(!attention.join("tokenizer.json").exists());
        let layers = |folder: &Path| {
            let layers = read_json(&folder.join("report.json"))["layers"].clone();
            let names = layers.as_array().unwrap().iter();
            names
                .map(|layer| layer["layer"].as_str().unwrap().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(layers(&merged), layers(&whole));
        with_page(&merged.join("report.html"), |page| {
            for layer in layers(&whole) {
                page.row(&[&layer]);
            }
        });

        // As whole checkpoints, without the source.
        let (attention, mlp) = (path("attention-whole"), path("mlp-whole"));
        compress(&source, &attention, &ATTENTION);
        compress(&source, &mlp, &MLP);
        let again = path("again");
        merge(&[&attention, &mlp], None, &again).expect_success();
        assert_same_files(&whole, &again);
    }
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let source = demo_checkpoint();
    let (attention, mlp, out) = (path("attention"), path("mlp"), path("out"));
    compress(&source, &attention, &[&ATTENTION[..], &["--part"]].concat());
    compress(&source, &mlp, &[&MLP[..], &["--part"]].concat());
    let refused = |parts: &[&Path], source: Option<&Path>, why: &[&str]| {
        merge(parts, source, &out).expect_refusal(why);
        assert!(!out.exists() && !path("out.partial").exists());
    };

    // A layer in two parts, as different structures; the same twice is no contradiction.
    let other = path("other");
    let flags = [
        "--method",
        "monarch",
        "--layers",
        "h.2.attn.c_attn",
        "--part",
    ];
    compress(&source, &other, &flags);
    let why = [
        "h.2.attn.c_attn",
        "compressed differently",
        "attention",
        "other",
    ];
    refused(&[&attention, &other], Some(&source), &why);
    merge(
        &[&attention, &attention, &mlp],
        Some(&source),
        &path("twice"),
    )
    .expect_success();

    // Nothing that holds the other weights.
    refused(
        &[&attention, &mlp],
        None,
        &["attention", "part", "blr merge"],
    );
    refused(&[&source], None, &["nothing to merge"]);

    // Another configuration, and other weights under the same one.
    let changed = path("changed");
    copy_checkpoint(&source, &changed);
    let mut config = read_json(&changed.join("config.json"));
    config["layer_norm_epsilon"] = 0.5.into();
    std::fs::write(changed.join("config.json"), config.to_string()).unwrap();
    refused(
        &[&attention],
        Some(&changed),
        &["layer_norm_epsilon", "0.5", "attention"],
    );
    copy_checkpoint(&source, &changed);
    let weights = changed.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let tensor = "transformer.h.3.attn.c_proj.weight";
    let place = {
        let parsed = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let data = parsed.tensor(tensor).unwrap().data();
        data.as_ptr() as usize - bytes.as_ptr() as usize
    };
    bytes[place + 1000] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let why = ["h.3.attn.c_proj", "another weight", "changed"];
    refused(&[&attention, &mlp], Some(&changed), &why);

    // A part without one of its factors, and one without a record.
    let broken = path("broken");
    copy_checkpoint(&attention, &broken);
    let bytes = std::fs::read(attention.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes)
        .unwrap()
        .tensors();
    let lost = "transformer.h.1.attn.c_attn.low_rank.v";
    let kept: Vec<_> = tensors.iter().filter(|(name, _)| name != lost).collect();
    assert_eq!(kept.len() + 1, tensors.len());
    let kept = kept
        .into_iter()
        .map(|(name, view)| (name.clone(), view.clone()));
    let file = broken.join("model.safetensors");
    safetensors::serialize_to_file(kept.collect::<Vec<_>>(), None, &file).unwrap();
    refused(&[&broken], Some(&source), &["broken", lost]);
    copy_checkpoint(&attention, &broken);
    std::fs::remove_file(broken.join("report.json")).unwrap();
    refused(&[&broken], Some(&source), &["broken", "report.json"]);

    // A part is no model.
    let part = text(&attention);
    refuses(&["inspect", part], &["attention", "blr merge"]);
    let prompt = ["generate", part, "--prompt", "let"];
    refuses(&prompt, &["attention"]);
    let again = path("again");
    let flags = ["compress", part, "--out", text(&again), "--keep", "0.5"];
    refuses(&[&flags[..], &MLP].concat(), &["attention", "blr merge"]);
}

#[test]
fn a_joined_layer_and_a_part_of_it_do_not_go_together() {
    let folder = tempfile::tempdir().unwrap();
    let source = repository().join("tests/reference/vit/hf_patch8");
    let compress_some = |name: &str, layers: &str| {
        let out = folder.path().join(name);
        compress(
            &source,
            &out,
            &["--method", "low-rank", "--layers", layers, "--part"],
        );
        out
    };
    let joined = compress_some("joined", r"attention\.qkv$");
    let key = compress_some("key", r"attention\.key$");
    let rest = compress_some("rest", "intermediate");
    let out = folder.path().join("out");
    merge(&[&joined, &key], Some(&source), &out).expect_refusal(&["weight", "differently", "key"]);
    merge(&[&joined, &rest], Some(&source), &out).expect_success();
    let tensors = read(&out.join("model.safetensors"));
    assert!(
        tensors
            .keys()
            .any(|name| name.ends_with("attention.qkv.low_rank.u"))
    );
    assert!(
        !tensors
            .keys()
            .any(|name| name.ends_with("attention.key.weight"))
    );
    assert!(
        tensors
            .keys()
            .any(|name| name.ends_with("attention.key.bias"))
    );
}

#[test]
fn a_merge_that_was_killed_begins_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (part, out, partial) = (path("part"), path("out"), path("out.partial"));
    let source = demo_checkpoint();
    compress(&source, &part, &[&MLP[..], &["--part"]].concat());
    // What a kill leaves.
    std::fs::create_dir_all(partial.join(".blr-run")).unwrap();
    std::fs::write(partial.join(".blr-run/merge"), "").unwrap();
    std::fs::write(partial.join("model.safetensors.tmp"), "half").unwrap();
    std::fs::write(partial.join("stale.json"), "{}").unwrap();
    merge(&[&part], Some(&source), &out).expect_success();
    assert!(!partial.exists() && !out.join("stale.json").exists());
    assert!(!out.join(".blr-run").exists());
    merge(&[&part], Some(&source), &out).expect_refusal(&["already exists"]);
    // A folder that somebody else made is left alone.
    std::fs::create_dir_all(path("next.partial")).unwrap();
    std::fs::write(path("next.partial/mine"), "").unwrap();
    merge(&[&part], Some(&source), &path("next")).expect_refusal(&["next.partial"]);
    // So is a compression that is not finished.
    std::fs::create_dir_all(path("run.partial/.blr-run")).unwrap();
    std::fs::write(path("run.partial/.blr-run/run.json"), "{}").unwrap();
    merge(&[&part], Some(&source), &path("run")).expect_refusal(&["run.partial"]);
}
