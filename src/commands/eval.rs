//! `blr eval`.

use std::path::Path;
use std::time::Instant;

use models::{AnyLanguageModel, Checkpoint, Family, LanguageModel, TextLoss, TextTokenizer};

use super::eval_images;
use super::eval_report::{Evaluated, Quality};
use crate::arguments::{Common, EvalArguments};
use crate::device::ChosenDevice;
use crate::error::CommandError;
use crate::output;

/// Windows of the text that go through the model at once, and the most tokens in them; bounds the
/// memory of activations.
const WINDOWS: usize = 8;
const TOKENS_AT_ONCE: usize = 8192;

/// Longest window if none is asked for. Newer models have contexts of 131,072 tokens, whose scores
/// of every token with every other fit into no memory; perplexities are published for 2048.
pub const LONGEST_WINDOW: usize = 2048;

pub fn run(common: &Common, arguments: &EvalArguments) -> Result<(), CommandError> {
    let checkpoint = Checkpoint::open(&arguments.checkpoint)?;
    // What cannot be read shows before the model runs.
    Evaluated::beside(arguments, checkpoint.family() == Family::Vit)?;
    match checkpoint.family() {
        Family::Vit => eval_images::run(common, arguments, &checkpoint),
        _ => eval_text(common, arguments, &checkpoint),
    }
}

fn eval_text(
    common: &Common,
    arguments: &EvalArguments,
    checkpoint: &Checkpoint,
) -> Result<(), CommandError> {
    checkpoint.expect_language_model()?;
    if let Some(window) = arguments.window.filter(|&window| window < 2) {
        return Err(CommandError::Flag {
            flag: "window",
            found: window.to_string(),
            expected: "at least 2 tokens".to_string(),
        });
    }
    let text = read_text(&arguments.data)?;
    let tokenizer = TextTokenizer::open(&arguments.checkpoint)?;
    let chosen = common.choose_device()?;
    let model = load(checkpoint, &chosen)?;
    let tokens = tokenizer.encode(&text)?;
    let started = Instant::now();
    let measured = loss_with_progress(&model, &tokens, arguments.window)?;
    let seconds = started.elapsed().as_secs_f64();
    output::line(format_args!(
        "loss {:.4} nats a token, perplexity {:.3}, {} tokens in {seconds:.1} s on {}",
        measured.loss(),
        measured.perplexity(),
        measured.tokens,
        chosen.name
    ));
    let quality = Quality::Text {
        loss: measured.loss(),
        perplexity: measured.perplexity(),
        tokens: measured.tokens,
        window: window_length(&model, arguments.window),
    };
    Evaluated::new(common, arguments, checkpoint, &chosen, quality, seconds)?
        .write(common, arguments)
}

/// The loss with a bar over the windows of the text.
pub fn loss_with_progress(
    model: &AnyLanguageModel,
    tokens: &[u32],
    window: Option<usize>,
) -> Result<TextLoss, CommandError> {
    let bar = output::progress(0);
    let window = window_length(model, window);
    let windows = (TOKENS_AT_ONCE / window.max(1)).clamp(1, WINDOWS);
    let loss = models::text_loss(model, tokens, Some(window), windows, |done, count| {
        bar.set_length(count as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    Ok(loss)
}

/// Tokens of a window if `asked` are asked for.
fn window_length(model: &AnyLanguageModel, asked: Option<usize>) -> usize {
    asked.unwrap_or(LONGEST_WINDOW).min(model.max_tokens())
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
pub fn load(
    checkpoint: &Checkpoint,
    chosen: &ChosenDevice,
) -> Result<AnyLanguageModel, CommandError> {
    let model = AnyLanguageModel::load(checkpoint, &chosen.device, chosen.dtype)?;
    Ok(model)
}
