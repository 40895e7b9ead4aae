//! `blr demo`: the main job on a small checkpoint, from dense to compressed, evaluated and timed.

use std::path::{Path, PathBuf};
use std::time::Instant;

use burn_blr::Method;
use models::{Checkpoint, GenerateOptions, Plan, TextTokenizer};
use serde::Serialize;
use training::LayerReport;

use super::{compress, eval, inspect};
use crate::arguments::{Common, DemoArguments};
use crate::device::ChosenDevice;
use crate::error::CommandError;
use crate::output::{self, Table};

/// Tokens of each sample text.
const SAMPLE_TOKENS: usize = 48;

#[derive(Serialize)]
struct Report {
    device: String,
    dtype: &'static str,
    rows: Vec<Row>,
    blast_is_best_on_every_layer: bool,
}

/// One model: dense, or compressed one way.
#[derive(Serialize)]
struct Row {
    method: String,
    keep: f64,
    /// Of the whole model.
    parameters: usize,
    /// Of the weights on disk.
    bytes: usize,
    /// Over the compressed layers, where there are any.
    mean_relative_error: Option<f64>,
    loss: f64,
    perplexity: f64,
    tokens: usize,
    /// Of the evaluation, whole windows at a time.
    eval_tokens_per_second: f64,
    /// Of generation, one token at a time.
    generate_tokens_per_second: f64,
    sample: String,
    compress_seconds: Option<f64>,
    layers: Vec<LayerReport>,
}

pub fn run(common: &Common, arguments: &DemoArguments) -> Result<(), CommandError> {
    if let Some(keep) = arguments
        .keep
        .iter()
        .find(|&&keep| !(keep > 0.0 && keep < 1.0))
    {
        return Err(CommandError::Flag {
            flag: "keep",
            found: keep.to_string(),
            expected: "fractions between 0 and 1".to_string(),
        });
    }
    let directory = from_repository(arguments.checkpoint.as_deref(), "demo/checkpoint")?;
    let text = from_repository(arguments.text.as_deref(), "demo/heldout.txt")?;
    let chosen = common.choose_device()?;
    let source = Checkpoint::open(&directory)?;
    let tokenizer = TextTokenizer::open(&directory)?;
    let tokens = tokenizer.encode(&eval::read_text(&text)?)?;
    let io = |source| CommandError::Io {
        path: arguments.out.clone(),
        source,
    };
    std::fs::create_dir_all(&arguments.out).map_err(io)?;

    output::line(format_args!(
        "Compressing {} on {} and evaluating on {} ({} tokens)",
        directory.display(),
        chosen.name,
        text.display(),
        tokens.len()
    ));
    let measure = Measure {
        chosen: &chosen,
        tokenizer: &tokenizer,
        tokens: &tokens,
        arguments,
        seed: common.seed,
    };
    let mut rows = vec![measure.row("dense", 1.0, &source, vec![], None)?];
    for &keep in &arguments.keep {
        for method in Method::ALL {
            let out = arguments.out.join(format!("{method}-{keep}"));
            remove_earlier(&out)?;
            let plan = Plan::keep(method, keep);
            let started = Instant::now();
            let layers = compress::compress_with_progress(
                &compress::request(&source, &out, &plan, &chosen.device),
                None,
            )?;
            let seconds = started.elapsed().as_secs_f64();
            let compressed = Checkpoint::open(&out)?;
            rows.push(measure.row(method.as_str(), keep, &compressed, layers, Some(seconds))?);
        }
    }
    let report = Report {
        device: chosen.name.clone(),
        dtype: common.dtype.as_str(),
        blast_is_best_on_every_layer: blast_is_best(&rows, &arguments.keep),
        rows,
    };
    let text = describe(&report);
    output::print(format_args!("\n{text}"));
    write_reports(&report, &text, &arguments.out)?;
    output::write_json(common.json.as_deref(), &report)
}

/// What every row is measured with.
struct Measure<'a> {
    chosen: &'a ChosenDevice,
    tokenizer: &'a TextTokenizer,
    tokens: &'a [u32],
    arguments: &'a DemoArguments,
    seed: u64,
}

impl Measure<'_> {
    fn row(
        &self,
        method: &str,
        keep: f64,
        checkpoint: &Checkpoint,
        layers: Vec<LayerReport>,
        compress_seconds: Option<f64>,
    ) -> Result<Row, CommandError> {
        let model = eval::load(checkpoint, self.chosen)?;
        let prompt = self.tokenizer.encode(&self.arguments.prompt)?;
        // The likeliest text of so small a model repeats itself; these settings read best.
        let options = GenerateOptions {
            capture: true,
            max_new_tokens: SAMPLE_TOKENS,
            temperature: 0.7,
            top_p: Some(0.9),
            seed: self.seed,
            ignore_end: true,
            ..GenerateOptions::default()
        };
        // Once unmeasured: a GPU compiles its kernels on first use.
        models::generate(&model, &prompt, &options, |_| true)?;
        let started = Instant::now();
        let generated = models::generate(&model, &prompt, &options, |_| true)?;
        let generate_seconds = started.elapsed().as_secs_f64();
        eval::loss_with_progress(&model, &self.tokens[..self.tokens.len().min(1024)], None)?;
        let started = Instant::now();
        let loss = eval::loss_with_progress(&model, self.tokens, None)?;
        let eval_seconds = started.elapsed().as_secs_f64();

        let (parameters, bytes) = inspect::totals(checkpoint);
        let errors: f64 = layers.iter().map(|layer| layer.relative_error).sum();
        let compressed = !layers.is_empty();
        Ok(Row {
            method: method.to_string(),
            keep,
            parameters,
            bytes,
            mean_relative_error: compressed.then(|| errors / layers.len() as f64),
            loss: loss.loss(),
            perplexity: loss.perplexity(),
            tokens: loss.tokens,
            eval_tokens_per_second: loss.tokens as f64 / eval_seconds,
            generate_tokens_per_second: generated.tokens.len() as f64 / generate_seconds,
            sample: self.tokenizer.decode(&generated.tokens)?,
            compress_seconds,
            layers,
        })
    }
}

/// Whether at every kept fraction BLAST's error is below the others' on every layer.
fn blast_is_best(rows: &[Row], keeps: &[f64]) -> bool {
    let layers = |method: Method, keep: f64| {
        let row = rows
            .iter()
            .find(|row| row.method == method.as_str() && row.keep == keep);
        row.map_or(&[][..], |row| row.layers.as_slice())
    };
    keeps.iter().all(|&keep| {
        [Method::LowRank, Method::Monarch].into_iter().all(|other| {
            let (blast, other) = (layers(Method::Blast, keep), layers(other, keep));
            blast.len() == other.len()
                && blast.iter().zip(other).all(|(blast, other)| {
                    blast.layer == other.layer && blast.relative_error < other.relative_error
                })
        })
    })
}

fn summary(report: &Report) -> Table {
    let mut table = Table::new([
        "method",
        "keep",
        "parameters",
        "bytes",
        "mean error",
        "perplexity",
        "eval tok/s",
        "generate tok/s",
        "compress s",
    ]);
    for row in &report.rows {
        table.row([
            row.method.clone(),
            row.keep.to_string(),
            row.parameters.to_string(),
            output::bytes(row.bytes),
            row.mean_relative_error
                .map_or_else(String::new, |error| format!("{error:.4}")),
            format!("{:.3}", row.perplexity),
            format!("{:.0}", row.eval_tokens_per_second),
            format!("{:.0}", row.generate_tokens_per_second),
            row.compress_seconds
                .map_or_else(String::new, |seconds| format!("{seconds:.1}")),
        ]);
    }
    table
}

fn describe(report: &Report) -> String {
    let mut text = summary(report).text();
    text.push_str(
        "\nkeep: share of the parameters of the compressed layers. No fine-tuning was done.\n",
    );
    text.push_str(match report.blast_is_best_on_every_layer {
        true => "BLAST has the lowest error of the three on every layer.\n",
        false => "BLAST does not have the lowest error of the three on every layer.\n",
    });
    for row in &report.rows {
        let sample = row.sample.replace('\n', " ");
        text.push_str(&format!(
            "\n{} {}: {}\n",
            row.method,
            row.keep,
            sample.trim()
        ));
    }
    text
}

fn write_reports(report: &Report, text: &str, out: &Path) -> Result<(), CommandError> {
    let samples = text.split_once("\nkeep:").map_or("", |(_, rest)| rest);
    let markdown = format!(
        "# Demo on {} ({})\n\n{}\nkeep:{samples}",
        report.device,
        report.dtype,
        summary(report).markdown()
    );
    output::write_file(&out.join("report.md"), markdown.as_bytes())?;
    output::write_json(Some(&out.join("report.json")), report)?;
    output::line(format_args!(
        "\nReport and compressed checkpoints are in {}",
        out.display()
    ));
    Ok(())
}

/// Removes what an earlier demo left under a name that only the demo gives.
fn remove_earlier(out: &Path) -> Result<(), CommandError> {
    for path in [out.to_path_buf(), training::partial_path(out)] {
        match std::fs::remove_dir_all(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(CommandError::Io { path, source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// The path given, or one in this repository, which `cargo run` tells and the working directory
/// may be.
fn from_repository(given: Option<&Path>, path: &str) -> Result<PathBuf, CommandError> {
    if let Some(given) = given {
        return Ok(given.to_path_buf());
    }
    let here = PathBuf::from(path);
    let root = std::env::var_os("CARGO_MANIFEST_DIR")
        .map(PathBuf::from)
        .unwrap_or_default();
    let candidates = [here.clone(), root.join(path)];
    let found = candidates.into_iter().find(|candidate| candidate.exists());
    found.ok_or(CommandError::NoDemoCheckpoint { path: here })
}
