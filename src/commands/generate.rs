//! `blr generate`.

use std::time::Instant;

use models::{
    Checkpoint, GenerateOptions, Generation, LanguageModel, StopReason, TextStream, TextTokenizer,
};
use serde::Serialize;

use super::eval;
use crate::arguments::{Common, GenerateArguments};
use crate::error::CommandError;
use crate::output;

/// The numbers of one prompt are those of the report itself; of several, a list.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    one: Option<RowReport<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rows: Vec<RowReport<'a>>,
    seconds: f64,
    tokens_per_second: f64,
    device: &'a str,
    dtype: &'a str,
}

#[derive(Serialize)]
struct RowReport<'a> {
    text: &'a str,
    tokens: &'a [u32],
    prompt_tokens: usize,
    stop: &'static str,
}

pub fn run(common: &Common, arguments: &GenerateArguments) -> Result<(), CommandError> {
    let checkpoint = Checkpoint::open(&arguments.checkpoint)?;
    checkpoint.expect_language_model()?;
    let tokenizer = TextTokenizer::open(&arguments.checkpoint)?;
    let chosen = common.choose_device()?;
    let model = eval::load(&checkpoint, &chosen)?.for_inference();
    let options = GenerateOptions {
        // Nothing else runs beside it.
        capture: true,
        capture_prompt: arguments.capture,
        max_new_tokens: arguments.max_tokens,
        temperature: arguments.temperature,
        top_k: arguments.top_k,
        top_p: arguments.top_p,
        seed: common.seed,
        ignore_end: false,
        use_cache: !arguments.no_cache,
    };
    let prompts = &arguments.prompt;
    let started = Instant::now();
    let (generated, texts) = continue_texts(&model, &tokenizer, prompts, &options)?;
    let seconds = started.elapsed().as_secs_f64();
    let tokens: usize = generated.iter().map(|row| row.tokens.len()).sum();
    let mut rows: Vec<_> = generated
        .iter()
        .zip(&texts)
        .map(|(generated, text)| row_report(generated, text))
        .collect();
    let report = Report {
        one: if rows.len() == 1 { rows.pop() } else { None },
        rows,
        seconds,
        tokens_per_second: tokens as f64 / seconds,
        device: &chosen.name,
        dtype: common.dtype.as_str(),
    };
    output::write_json(common.json.as_deref(), &report)
}

/// Continues the texts and prints them: one token by token, several one after the other.
fn continue_texts(
    model: &impl LanguageModel,
    tokenizer: &TextTokenizer,
    prompts: &[String],
    options: &GenerateOptions,
) -> Result<(Vec<Generation>, Vec<String>), CommandError> {
    let tokens = prompts
        .iter()
        .map(|prompt| tokenizer.encode(prompt))
        .collect::<Result<Vec<_>, _>>()?;
    let mut rows: Vec<TextRow> = prompts
        .iter()
        .map(|prompt| TextRow {
            prompt,
            stream: tokenizer.stream(),
            text: String::new(),
        })
        .collect();
    let streaming = rows.len() == 1;
    let mut failed = None;
    let generated = models::generate_batch(model, &tokens, options, |n, token| {
        let Some(row) = rows.get_mut(n) else {
            return false;
        };
        // Printed with the first token, so that a prompt that is refused prints nothing.
        if streaming && row.text.is_empty() {
            output::print(row.unprinted_prompt());
        }
        match row.stream.push(token) {
            Ok(piece) => {
                if streaming {
                    output::print(&piece);
                }
                row.text.push_str(&piece);
            }
            Err(error) => failed = Some(error),
        }
        failed.is_none()
    })?;
    if let Some(error) = failed {
        output::line("");
        return Err(error.into());
    }
    for row in &mut rows {
        if streaming {
            output::line(row.unprinted_prompt());
        } else {
            output::line(format_args!("{}{}\n", row.prompt, row.text));
        }
    }
    Ok((generated, rows.into_iter().map(|row| row.text).collect()))
}

/// One text that is being continued.
struct TextRow<'a> {
    /// The prompt, empty once it was printed.
    prompt: &'a str,
    stream: TextStream<'a>,
    text: String,
}

impl<'a> TextRow<'a> {
    fn unprinted_prompt(&mut self) -> &'a str {
        std::mem::take(&mut self.prompt)
    }
}

fn row_report<'a>(generated: &'a Generation, text: &'a str) -> RowReport<'a> {
    RowReport {
        text,
        tokens: &generated.tokens,
        prompt_tokens: generated.prompt_tokens,
        stop: match generated.stop {
            StopReason::MaxTokens => "max-tokens",
            StopReason::EndOfText => "end-of-text",
            StopReason::ContextFull => "context-full",
            StopReason::Callback => "stopped",
        },
    }
}
