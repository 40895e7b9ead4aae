//! Continuing prompts.

use crate::{Context, Decoder, LanguageModel, LeftPadding, ModelError, Sampler};

/// How to continue a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// Most tokens to add.
    pub max_new_tokens: usize,
    /// Divides the logits; zero always takes the likeliest token.
    pub temperature: f64,
    /// Sample from this many of the likeliest tokens.
    pub top_k: Option<usize>,
    /// Sample from the fewest tokens that together have this probability.
    pub top_p: Option<f64>,
    /// Seed of the random choices; row `n` of a batch takes the `n`th after it.
    pub seed: u64,
    /// Whether to go on past the end tokens of the model.
    pub ignore_end: bool,
    /// Whether keys and values of earlier tokens are kept. Without, the whole context goes through
    /// the model again for every token.
    pub use_cache: bool,
    /// Whether the pass over a token is captured and replayed where the device can, see [`Decoder`].
    /// While it is captured no other thread may use the device.
    pub capture: bool,
    /// Whether the pass over the prompt is captured as well. A prompt goes through the model once, and
    /// a capture takes about as long as four ordinary passes: for measurements and tests of it.
    pub capture_prompt: bool,
}

impl Default for GenerateOptions {
    /// 128 of the likeliest tokens.
    fn default() -> Self {
        Self {
            max_new_tokens: 128,
            temperature: 0.0,
            top_k: None,
            top_p: None,
            seed: 0,
            ignore_end: false,
            use_cache: true,
            capture: false,
            capture_prompt: false,
        }
    }
}

/// Why generation stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// `max_new_tokens` tokens were added.
    MaxTokens,
    /// The model chose one of its end tokens, which is not among the tokens.
    EndOfText,
    /// Prompt and new tokens fill the context of the model.
    ContextFull,
    /// The callback returned false.
    Callback,
}

/// What was generated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// The new tokens.
    pub tokens: Vec<u32>,
    /// Tokens in the prompt.
    pub prompt_tokens: usize,
    /// Why it is not longer.
    pub stop: StopReason,
}

/// Continues `prompt`, calling `on_token` with each new token until it returns false.
///
/// The prompt goes through the model once and each new token once more, with the keys and values
/// of earlier tokens kept.
///
/// # Errors
///
/// [`ModelError::TooFewTokens`] for an empty prompt, [`ModelError::TooManyTokens`] for one longer
/// than the context of the model, [`ModelError::TokenOutOfRange`] for an id that the model does not
/// have; [`ModelError::InvalidOption`]; [`ModelError::NonFiniteLogit`] and [`ModelError::Read`] if
/// the model or the device fails.
pub fn generate<M: LanguageModel>(
    model: &M,
    prompt: &[u32],
    options: &GenerateOptions,
    mut on_token: impl FnMut(u32) -> bool,
) -> Result<Generation, ModelError> {
    let rows = generate_batch(model, &[prompt], options, |_, token| on_token(token))?;
    // One row in, one row out.
    rows.into_iter()
        .next()
        .ok_or(ModelError::TooFewTokens { found: 0, min: 1 })
}

/// Continues several prompts at once, calling `on_token` with the number of a row and its new token;
/// the row ends where it returns false.
///
/// Shorter prompts are padded on the left, so a row's tokens are those it would have alone, but for
/// the rounding of the device. The longest prompt decides when the context is full.
///
/// # Errors
///
/// Those of [`generate`].
pub fn generate_batch<M: LanguageModel, P: AsRef<[u32]>>(
    model: &M,
    prompts: &[P],
    options: &GenerateOptions,
    mut on_token: impl FnMut(usize, u32) -> bool,
) -> Result<Vec<Generation>, ModelError> {
    let mut rows = prompts
        .iter()
        .zip(0..)
        .map(|(prompt, n)| Row::new(prompt.as_ref(), n, options))
        .collect::<Result<Vec<_>, ModelError>>()?;
    let (mut input, padding) = LeftPadding::pad(prompts)?;
    let longest = input.len() / rows.len();
    if longest > model.max_tokens() {
        return Err(ModelError::TooManyTokens {
            found: longest,
            max: model.max_tokens(),
        });
    }
    let mut reader = Reader::new(model, padding, longest, options);
    for step in 0.. {
        if step == options.max_new_tokens {
            rows.iter_mut()
                .for_each(|row| row.end(StopReason::MaxTokens));
        } else if longest + step > model.max_tokens() {
            rows.iter_mut()
                .for_each(|row| row.end(StopReason::ContextFull));
        }
        if rows.iter().all(|row| row.stop.is_some()) {
            break;
        }
        let logits = reader.next_logits(&input)?; // [rows, vocab]
        for (n, (row, logits)) in rows
            .iter_mut()
            .zip(logits.chunks(model.vocab_size()))
            .enumerate()
        {
            row.choose(model, logits, options, |token| on_token(n, token))?;
        }
        // A row that has ended goes on with any token; what comes of it is not looked at.
        input = rows
            .iter()
            .map(|row| row.tokens.last().copied().unwrap_or_default())
            .collect();
    }
    Ok(rows.into_iter().map(Row::finish).collect())
}

/// One row of a batch.
struct Row {
    sampler: Sampler,
    tokens: Vec<u32>,
    prompt_tokens: usize,
    stop: Option<StopReason>,
}

impl Row {
    fn new(prompt: &[u32], n: u64, options: &GenerateOptions) -> Result<Self, ModelError> {
        Ok(Self {
            sampler: Sampler::new(
                options.temperature,
                options.top_k,
                options.top_p,
                options.seed.wrapping_add(n),
            )?,
            tokens: Vec::new(),
            prompt_tokens: prompt.len(),
            stop: None,
        })
    }

    /// Ends the row, if it has not ended.
    fn end(&mut self, reason: StopReason) {
        self.stop.get_or_insert(reason);
    }

    /// Chooses the next token, unless the row has ended.
    fn choose<M: LanguageModel>(
        &mut self,
        model: &M,
        logits: &[f32],
        options: &GenerateOptions,
        on_token: impl FnOnce(u32) -> bool,
    ) -> Result<(), ModelError> {
        if self.stop.is_some() {
            return Ok(());
        }
        let token = self.sampler.choose(logits)?;
        if !options.ignore_end && model.end_tokens().contains(&token) {
            self.end(StopReason::EndOfText);
            return Ok(());
        }
        self.tokens.push(token);
        if !on_token(token) {
            self.end(StopReason::Callback);
        }
        Ok(())
    }

    fn finish(self) -> Generation {
        Generation {
            tokens: self.tokens,
            prompt_tokens: self.prompt_tokens,
            stop: self.stop.unwrap_or(StopReason::MaxTokens),
        }
    }
}

/// Fewest tokens for which a captured pass pays for its capture, which takes about as long as four
/// ordinary ones.
const CAPTURED_TOKENS: usize = 16;

/// Runs a model over a growing context, with or without a cache.
struct Reader<'a, M: LanguageModel> {
    model: &'a M,
    padding: LeftPadding,
    memory: Memory<'a, M>,
}

/// What is kept of the tokens seen so far.
enum Memory<'a, M: LanguageModel> {
    /// Nothing yet; the cache is to hold so many tokens a row.
    Empty {
        capacity: usize,
        capture_prompt: bool,
        capture: bool,
    },
    /// Keys and values.
    Cache(Box<Decoder<'a, M>>),
    /// The tokens themselves, a list for each row.
    Tokens(Vec<Vec<u32>>),
}

impl<'a, M: LanguageModel> Reader<'a, M> {
    fn new(model: &'a M, padding: LeftPadding, longest: usize, options: &GenerateOptions) -> Self {
        let memory = if options.use_cache {
            Memory::Empty {
                capacity: longest.saturating_add(options.max_new_tokens),
                capture_prompt: options.capture_prompt,
                capture: options.capture && options.max_new_tokens >= CAPTURED_TOKENS,
            }
        } else {
            Memory::Tokens(vec![Vec::new(); padding.rows()])
        };
        Self {
            model,
            padding,
            memory,
        }
    }

    /// The logits `[rows, vocab]` of the token after `input`, as many new tokens for each row, row by
    /// row.
    fn next_logits(&mut self, input: &[u32]) -> Result<Vec<f32>, ModelError> {
        let (model, rows) = (self.model, self.padding.rows());
        match &mut self.memory {
            Memory::Empty {
                capacity,
                capture_prompt,
                capture,
            } => {
                let cache = model.cache(rows, *capacity);
                let cache = cache.with_padding(self.padding.clone())?;
                let length = input.len() / rows;
                let mut prompt = match *capture_prompt {
                    true => Decoder::with_length(model, cache, length)?,
                    false => Decoder::eager_with_length(model, cache, length),
                };
                let logits = prompt.step(input)?;
                let cache = prompt.into_cache();
                self.memory = Memory::Cache(Box::new(match *capture {
                    true => Decoder::new(model, cache)?,
                    false => Decoder::eager(model, cache),
                }));
                Ok(logits)
            }
            Memory::Cache(decoder) => decoder.step(input),
            Memory::Tokens(tokens) => {
                for (row, new) in tokens.iter_mut().zip(input.chunks(input.len() / rows)) {
                    row.extend(new);
                }
                let ids = model.input_ids(&tokens.concat(), rows)?;
                let logits = model.last_logits(ids, Context::Padded(&self.padding))?;
                Ok(logits.try_into_vec_as::<f32>()?)
            }
        }
    }
}
