//! `blr eval`.

use std::path::Path;
use std::time::Instant;

use models::{Checkpoint, Gpt2, TextLoss, TextTokenizer};
use serde::Serialize;

use crate::arguments::{Common, EvalArguments};
use crate::device::ChosenDevice;
use crate::error::CommandError;
use crate::output;

/// Windows of the text that go through the model at once; bounds the memory of activations.
const WINDOWS: usize = 8;

#[derive(Serialize)]
struct Report<'a> {
    loss: f64,
    perplexity: f64,
    tokens: usize,
    seconds: f64,
    device: &'a str,
    dtype: &'a str,
}

pub fn run(common: &Common, arguments: &EvalArguments) -> Result<(), CommandError> {
    let text = read_text(&arguments.data)?;
    let checkpoint = Checkpoint::open(&arguments.checkpoint)?;
    let tokenizer = TextTokenizer::open(&arguments.checkpoint)?;
    let chosen = common.choose_device()?;
    let model = load(&checkpoint, &chosen)?;
    let tokens = tokenizer.encode(&text)?;
    let started = Instant::now();
    let measured = loss_with_progress(&model, &tokens)?;
    let report = Report {
        loss: measured.loss(),
        perplexity: measured.perplexity(),
        tokens: measured.tokens,
        seconds: started.elapsed().as_secs_f64(),
        device: &chosen.name,
        dtype: common.dtype.as_str(),
    };
    output::line(format_args!(
        "loss {:.4} nats a token, perplexity {:.3}, {} tokens in {:.1} s on {}",
        report.loss, report.perplexity, report.tokens, report.seconds, report.device
    ));
    output::write_json(common.json.as_deref(), &report)
}

/// The loss with a bar over the windows of the text.
pub fn loss_with_progress(model: &Gpt2, tokens: &[u32]) -> Result<TextLoss, CommandError> {
    let bar = output::progress(0);
    let loss = models::text_loss(model, tokens, None, WINDOWS, |done, count| {
        bar.set_length(count as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    Ok(loss)
}

/// Reads a text file.
pub fn read_text(path: &Path) -> Result<String, CommandError> {
    let bytes = std::fs::read(path).map_err(|source| CommandError::Io {
        path: path.to_path_buf(),
        source,
    })?;
    String::from_utf8(bytes).map_err(|error| CommandError::NotText {
        path: path.to_path_buf(),
        source: error.utf8_error(),
    })
}

/// Loads a language model onto the chosen device.
pub fn load(checkpoint: &Checkpoint, chosen: &ChosenDevice) -> Result<Gpt2, CommandError> {
    Ok(Gpt2::load(checkpoint, &chosen.device, chosen.dtype)?)
}
