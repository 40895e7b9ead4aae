//! The cases under `tests/reference`: checkpoints and what `transformers` computes with them.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tempfile::TempDir;

/// The directory of a family's cases.
pub fn root(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/reference")
        .join(family)
}

/// Every case of a family, sorted by name.
pub fn cases(family: &str) -> Vec<PathBuf> {
    let root = root(family);
    let entries = fs::read_dir(&root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
    let mut cases: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("expected.safetensors").exists())
        .collect();
    cases.sort();
    assert!(!cases.is_empty(), "{}: no cases", root.display());
    cases
}

/// A copy of a case that a test may change.
pub struct CaseCopy(TempDir);

impl CaseCopy {
    /// Copies `name` of `family`.
    pub fn new(family: &str, name: &str) -> Self {
        let copy = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(root(family).join(name)).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
        Self(copy)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Changes `config.json`.
    pub fn edit_config(&self, edit: impl FnOnce(&mut Value)) {
        let path = self.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        edit(&mut config);
        fs::write(path, config.to_string()).unwrap();
    }
}

/// What `transformers` computed for one case.
pub struct Expected {
    bytes: Vec<u8>,
}

impl Expected {
    /// Reads the numbers of a case.
    pub fn of(case: &Path) -> Self {
        let bytes = fs::read(case.join("expected.safetensors")).unwrap();
        Self { bytes }
    }

    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    /// The rows of an `i64` matrix, where the case has it.
    pub fn rows(&self, name: &str) -> Option<Vec<Vec<i64>>> {
        let file = self.file();
        let view = file.tensor(name).ok()?;
        assert_eq!(view.dtype(), Dtype::I64, "{name}");
        let (chunks, _) = view.data().as_chunks::<8>();
        let values: Vec<i64> = chunks.iter().map(|c| i64::from_le_bytes(*c)).collect();
        let rows = values.chunks(view.shape()[1]).map(<[i64]>::to_vec);
        Some(rows.collect())
    }

    /// The values of an `f32` tensor, where the case has it.
    pub fn floats(&self, name: &str) -> Option<Vec<f32>> {
        let file = self.file();
        let view = file.tensor(name).ok()?;
        assert_eq!(view.dtype(), Dtype::F32, "{name}");
        let (chunks, _) = view.data().as_chunks::<4>();
        Some(chunks.iter().map(|c| f32::from_le_bytes(*c)).collect())
    }
}
