//! `blr generate`.

use std::time::Instant;

use models::{Checkpoint, GenerateOptions, StopReason, TextTokenizer};
use serde::Serialize;

use super::eval;
use crate::arguments::{Common, GenerateArguments};
use crate::error::CommandError;
use crate::output;

#[derive(Serialize)]
struct Report<'a> {
    text: &'a str,
    tokens: &'a [u32],
    prompt_tokens: usize,
    stop: &'static str,
    seconds: f64,
    tokens_per_second: f64,
    device: &'a str,
    dtype: &'a str,
}

pub fn run(common: &Common, arguments: &GenerateArguments) -> Result<(), CommandError> {
    let checkpoint = Checkpoint::open(&arguments.checkpoint)?;
    let tokenizer = TextTokenizer::open(&arguments.checkpoint)?;
    let chosen = common.choose_device()?;
    let model = eval::load(&checkpoint, &chosen)?;
    let tokens = tokenizer.encode(&arguments.prompt)?;
    let options = GenerateOptions {
        max_new_tokens: arguments.max_tokens,
        temperature: arguments.temperature,
        top_k: arguments.top_k,
        top_p: arguments.top_p,
        seed: common.seed,
        ignore_end: false,
    };
    let mut stream = tokenizer.stream();
    let mut failed = None;
    let mut text = String::new();
    // Printed with the first token, so that a prompt that is refused prints nothing.
    let mut prompt = Some(&arguments.prompt);
    let started = Instant::now();
    let generated = models::generate(&model, &tokens, &options, |token| {
        if let Some(prompt) = prompt.take() {
            output::print(prompt);
        }
        match stream.push(token) {
            Ok(piece) => {
                output::print(&piece);
                text.push_str(&piece);
            }
            Err(error) => failed = Some(error),
        }
        failed.is_none()
    })?;
    let seconds = started.elapsed().as_secs_f64();
    output::line(prompt.map_or("", String::as_str));
    if let Some(error) = failed {
        return Err(error.into());
    }
    let report = Report {
        text: &text,
        tokens: &generated.tokens,
        prompt_tokens: generated.prompt_tokens,
        stop: match generated.stop {
            StopReason::MaxTokens => "max-tokens",
            StopReason::EndOfText => "end-of-text",
            StopReason::ContextFull => "context-full",
            StopReason::Callback => "stopped",
        },
        seconds,
        tokens_per_second: generated.tokens.len() as f64 / seconds,
        device: &chosen.name,
        dtype: common.dtype.as_str(),
    };
    output::write_json(common.json.as_deref(), &report)
}
