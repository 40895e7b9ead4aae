//! Continuing a prompt.

use crate::{LanguageModel, ModelError, Sampler};

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
    /// Seed of the random choices.
    pub seed: u64,
    /// Whether to go on past the end tokens of the model.
    pub ignore_end: bool,
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
    let mut sampler = Sampler::new(
        options.temperature,
        options.top_k,
        options.top_p,
        options.seed,
    )?;
    if prompt.is_empty() {
        return Err(ModelError::TooFewTokens { found: 0, min: 1 });
    }
    if prompt.len() > model.max_tokens() {
        return Err(ModelError::TooManyTokens {
            found: prompt.len(),
            max: model.max_tokens(),
        });
    }
    let mut input = model.input_ids(prompt, 1)?;
    let capacity = prompt.len().saturating_add(options.max_new_tokens);
    let mut cache = model.cache(1, capacity.min(model.max_tokens()));
    let mut tokens = Vec::new();
    let stop = loop {
        if tokens.len() == options.max_new_tokens {
            break StopReason::MaxTokens;
        }
        let logits = model.next_token_logits(input, &mut cache)?; // [1, vocab]
        let logits = logits.try_into_vec_as::<f32>()?;
        let token = sampler.choose(&logits)?;
        if !options.ignore_end && model.end_tokens().contains(&token) {
            break StopReason::EndOfText;
        }
        tokens.push(token);
        if !on_token(token) {
            break StopReason::Callback;
        }
        if prompt.len() + tokens.len() > model.max_tokens() {
            break StopReason::ContextFull;
        }
        input = model.input_ids(&[token], 1)?;
    };
    Ok(Generation {
        tokens,
        prompt_tokens: prompt.len(),
        stop,
    })
}
