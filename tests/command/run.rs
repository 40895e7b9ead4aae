//! Running the command, and the checkpoints it runs on.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a run left.
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `blr` on the CPU, so that results do not depend on the machine.
pub fn blr(arguments: &[&str]) -> Finished {
    finish(command(arguments))
}

/// Runs `blr` on the first CUDA device.
pub fn blr_on_cuda(arguments: &[&str]) -> Finished {
    let mut command = Command::new(env!("CARGO_BIN_EXE_blr"));
    command.args(arguments).args(["--device", "cuda"]);
    finish(command)
}

fn finish(mut command: Command) -> Finished {
    let output = command.output().unwrap();
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The same as a command that is not run yet.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_blr"));
    command
        .args(arguments)
        .args(["--device", "cpu"])
        .stdin(Stdio::null());
    command
}

impl Finished {
    /// Fails with what the command said unless it succeeded.
    pub fn expect_success(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self
    }

    /// Fails unless the command said why not, in one line that holds all of `parts`.
    pub fn expect_refusal(self, parts: &[&str]) {
        assert_eq!(self.code, Some(2), "{}", self.stderr);
        assert_eq!(self.stdout, "");
        let lines = self.stderr.lines().filter(|line| !line.is_empty());
        assert_eq!(lines.count(), 1, "{}", self.stderr);
        for part in parts {
            assert!(
                self.stderr.contains(part),
                "{part} is not in {}",
                self.stderr
            );
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}

/// Runs, and fails unless that is refused as [`Finished::expect_refusal`] says.
pub fn refuses(arguments: &[&str], parts: &[&str]) {
    blr(arguments).expect_refusal(parts);
}

pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn demo_checkpoint() -> PathBuf {
    repository().join("demo/checkpoint")
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub fn read_json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Directories of the GPT-2 checkpoints that transformers made.
pub fn gpt2_cases() -> Vec<PathBuf> {
    cases("gpt2")
}

/// Directories of the Llama checkpoints.
pub fn llama_cases() -> Vec<PathBuf> {
    cases("llama")
}

/// A Llama checkpoint with a tokenizer, grouped queries and a tied head.
pub fn llama_with_tokenizer() -> PathBuf {
    repository().join("tests/reference/llama/gqa_tied")
}

fn cases(family: &str) -> Vec<PathBuf> {
    let root = repository().join("tests/reference").join(family);
    let mut cases: Vec<PathBuf> = std::fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("config.json").exists())
        .collect();
    cases.sort();
    assert!(cases.len() > 10, "only {} cases are there", cases.len());
    cases
}

/// Copies the files of a checkpoint.
pub fn copy_checkpoint(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// A file with some characters of the demo's text.
pub fn text_file(folder: &Path, name: &str, from: usize, count: usize) -> PathBuf {
    let heldout = std::fs::read_to_string(repository().join("demo/heldout.txt")).unwrap();
    let path = folder.join(name);
    let part: String = heldout.chars().skip(from).take(count).collect();
    std::fs::write(&path, part).unwrap();
    path
}

/// Files that state times, which differ from run to run.
const TIMED: [&str; 2] = ["report.html", "report.json"];

/// Fails unless the same files lie in both folders, with the same bytes but for times.
pub fn assert_same_files(one: &Path, other: &Path) {
    let names = |folder: &Path| {
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(one), names(other));
    for name in names(one) {
        if TIMED.iter().any(|&timed| name == timed) {
            continue;
        }
        let (one, other) = (one.join(&name), other.join(&name));
        assert!(
            std::fs::read(&one).unwrap() == std::fs::read(&other).unwrap(),
            "{name:?} differs"
        );
    }
}
