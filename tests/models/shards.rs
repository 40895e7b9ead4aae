//! Checkpoints in several weight files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::{Device, FloatDType};
use models::{Checkpoint, Gpt2, LanguageModel, ModelError};
use serde_json::json;
use tempfile::TempDir;

use crate::tiny_gpt2::{TinyGpt2, host, write_tensors};

const SHARDS: [&str; 2] = [
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
];

/// Writes every second tensor to the second file; the index maps names to files.
fn sharded(tiny: &TinyGpt2) -> (TempDir, BTreeMap<String, String>) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), tiny.config.to_string()).unwrap();
    let mut map = BTreeMap::new();
    for (n, shard) in SHARDS.iter().enumerate() {
        let part = tiny.tensors.iter().skip(n).step_by(2);
        write_tensors(part.clone(), &dir.path().join(shard));
        map.extend(part.map(|(name, _)| (name.clone(), shard.to_string())));
    }
    write_index(dir.path(), &map);
    (dir, map)
}

fn write_index(dir: &Path, map: &BTreeMap<String, String>) {
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
    fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

fn open_error(dir: &Path) -> ModelError {
    Checkpoint::open(dir).expect_err("the shards should be refused")
}

#[test]
fn a_sharded_checkpoint_is_the_same_model() {
    let tiny = TinyGpt2::new();
    let (dir, _) = sharded(&tiny);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.files().len(), 2);
    let sharded = Gpt2::load(&checkpoint, &Device::flex(), FloatDType::F32).unwrap();
    let whole = tiny.model();
    let logits = |model: &Gpt2| {
        host(
            model
                .forward(model.input_ids(&[1, 2, 3], 1).unwrap())
                .unwrap(),
        )
    };
    assert_eq!(logits(&sharded), logits(&whole));
}

#[test]
fn a_missing_shard_is_named() {
    let (dir, _) = sharded(&TinyGpt2::new());
    fs::remove_file(dir.path().join(SHARDS[1])).unwrap();
    let error = open_error(dir.path());
    assert!(
        matches!(&error, ModelError::InvalidIndex { shard, .. } if shard == SHARDS[1]),
        "{error}"
    );
}

#[test]
fn a_truncated_shard_is_named() {
    let (dir, _) = sharded(&TinyGpt2::new());
    let path = dir.path().join(SHARDS[0]);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
    let error = open_error(dir.path());
    assert!(
        matches!(&error, ModelError::InvalidWeights { path: found, .. } if *found == path),
        "{error}"
    );
}

#[test]
fn an_index_that_points_to_the_wrong_shard_is_refused() {
    let (dir, mut map) = sharded(&TinyGpt2::new());
    let name = "transformer.wte.weight";
    let other = if map[name] == SHARDS[0] {
        SHARDS[1]
    } else {
        SHARDS[0]
    };
    map.insert(name.into(), other.into());
    write_index(dir.path(), &map);
    let error = open_error(dir.path());
    assert!(
        matches!(&error, ModelError::InvalidIndex { tensor, .. } if tensor == name),
        "{error}"
    );
}

#[test]
fn an_index_cannot_name_files_outside_the_directory() {
    let (dir, mut map) = sharded(&TinyGpt2::new());
    map.insert(
        "transformer.wte.weight".into(),
        "../secret.safetensors".into(),
    );
    write_index(dir.path(), &map);
    let error = open_error(dir.path());
    assert!(
        error.to_string().contains("not a plain file name"),
        "{error}"
    );
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let tiny = TinyGpt2::new();
    let (dir, _) = sharded(&tiny);
    write_tensors(tiny.tensors.iter(), &dir.path().join(SHARDS[0]));
    assert!(matches!(
        open_error(dir.path()),
        ModelError::DuplicateTensor { .. }
    ));
}
