//! What the command says when it cannot do what it was asked to.

use std::path::PathBuf;

use burn_blr::BlrError;
use models::ModelError;
use thiserror::Error;
use training::TrainingError;

use crate::arguments::Dtype;

/// A reason to stop, one line each.
#[derive(Debug, Error)]
pub enum CommandError {
    #[error(transparent)]
    Blr(#[from] BlrError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Training(#[from] TrainingError),
    #[error("{}: {source}", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("--device cuda:{index}: {count} CUDA devices answer; use --device cpu or auto")]
    NoCudaDevice { index: usize, count: usize },
    #[error("--dtype {}: {device} does not compute in it; use --dtype f32", dtype.as_str())]
    UnsupportedDtype { device: String, dtype: Dtype },
    #[error("one of --rank, --keep, --preset and --plan is needed")]
    NoSize,
    #[error("{}: not UTF-8 text: {source}", path.display())]
    NotText {
        path: PathBuf,
        source: std::str::Utf8Error,
    },
    #[error("{}: not a safetensors file: {reason}", path.display())]
    NotSafetensors { path: PathBuf, reason: String },
    #[error("{}: tensor `{tensor}`: {found}, expected {expected}", path.display())]
    Input {
        path: PathBuf,
        tensor: &'static str,
        found: String,
        expected: &'static str,
    },
    #[error("{}: not a report of bench layers: {reason}", path.display())]
    NotBenchReport { path: PathBuf, reason: String },
    #[error("{}: not a report of eval --json: {reason}", path.display())]
    NotEvalReport { path: PathBuf, reason: String },
    #[error("{}: no demo checkpoint; run from the repository or pass --checkpoint", path.display())]
    NoDemoCheckpoint { path: PathBuf },
    #[error("--{flag} {found}: expected {expected}")]
    Flag {
        flag: &'static str,
        found: String,
        expected: String,
    },
    #[error("the model drew values that are not finite; use a wider --dtype")]
    NonFiniteImage,
    #[error("cannot write a PNG: {reason}")]
    Png { reason: String },
    #[error("the device failed: {reason}")]
    Device { reason: String },
}
