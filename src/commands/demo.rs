//! `blr demo`: the main job on a small checkpoint, from dense to compressed, evaluated and timed.

use std::path::{Path, PathBuf};
use std::time::Instant;

use burn_blr::Method;
use models::{Checkpoint, GenerateOptions, Plan, TextTokenizer};
use serde::Serialize;
use training::LayerReport;

use super::{bench, compress, demo_report, eval, inspect};
use crate::arguments::{Common, DemoArguments};
use crate::device::ChosenDevice;
use crate::error::CommandError;
use crate::html;
use crate::output;

/// Tokens of each sample text.
const SAMPLE_TOKENS: usize = 48;

/// Token counts that layers are timed at: what generating takes, and what evaluating takes.
const TIMED_TOKENS: [usize; 2] = [1, 2048];

#[derive(Serialize)]
pub struct Report {
    pub device: String,
    pub dtype: &'static str,
    pub rows: Vec<Row>,
    pub blast_is_best_on_every_layer: bool,
}

/// One model: dense, or compressed one way.
#[derive(Serialize)]
pub struct Row {
    pub method: String,
    pub keep: f64,
    /// Of the whole model.
    pub parameters: usize,
    /// Of the weights on disk.
    pub bytes: usize,
    /// Of those, what is not linear layers.
    pub other_bytes: usize,
    /// Over the compressed layers, where there are any.
    pub mean_relative_error: Option<f64>,
    pub loss: f64,
    pub perplexity: f64,
    pub tokens: usize,
    /// Of the evaluation, whole windows at a time.
    pub eval_tokens_per_second: f64,
    /// Of generation, one token at a time.
    pub generate_tokens_per_second: f64,
    pub sample: String,
    pub compress_seconds: Option<f64>,
    /// Of the layers of one block.
    pub layer_times: Vec<LayerTime>,
    pub layers: Vec<LayerReport>,
}

/// How long a layer takes.
#[derive(Serialize)]
pub struct LayerTime {
    pub layer: String,
    pub structure: String,
    pub tokens: usize,
    /// Of one pass with random weights, which few enough passes share that caches may hold them.
    pub median_us: f64,
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
    let text = demo_report::describe(&report);
    output::print(format_args!("\n{text}"));
    demo_report::write(&report, &text, &arguments.out)?;
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

        let held = inspect::inspect(checkpoint)?;
        let errors: f64 = layers.iter().map(|layer| layer.relative_error).sum();
        let compressed = !layers.is_empty();
        Ok(Row {
            method: method.to_string(),
            keep,
            parameters: held.parameters,
            bytes: held.bytes,
            other_bytes: held.other_bytes,
            mean_relative_error: compressed.then(|| errors / layers.len() as f64),
            loss: loss.loss(),
            perplexity: loss.perplexity(),
            tokens: loss.tokens,
            eval_tokens_per_second: loss.tokens as f64 / eval_seconds,
            generate_tokens_per_second: generated.tokens.len() as f64 / generate_seconds,
            sample: self.tokenizer.decode(&generated.tokens)?,
            compress_seconds,
            layer_times: self.layer_times(checkpoint)?,
            layers,
        })
    }

    /// Times the layers of the first block.
    fn layer_times(&self, checkpoint: &Checkpoint) -> Result<Vec<LayerTime>, CommandError> {
        let mut times = vec![];
        let mut kinds = vec![];
        for layer in models::linear_layers(checkpoint)? {
            let (kind, _) = html::kind_and_block(&layer.name);
            if kinds.contains(&kind) {
                continue;
            }
            kinds.push(kind);
            let widths = (layer.in_features, layer.out_features);
            for tokens in TIMED_TOKENS {
                times.push(LayerTime {
                    layer: layer.name.clone(),
                    structure: layer.structure.to_string(),
                    tokens,
                    median_us: bench::layer_us(layer.structure, widths, tokens, self.chosen)?,
                });
            }
        }
        Ok(times)
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
