//! How well a language model predicts a text.

use crate::{LanguageModel, ModelError};

/// The cross entropy of a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TextLoss {
    /// Sum over the predicted tokens of `-log p`, in nats.
    pub nll: f64,
    /// Number of predicted tokens.
    pub tokens: usize,
}

impl TextLoss {
    /// Mean cross entropy, in nats per token.
    pub fn loss(&self) -> f64 {
        self.nll / self.tokens as f64
    }

    /// `exp` of the mean cross entropy.
    pub fn perplexity(&self) -> f64 {
        self.loss().exp()
    }
}

/// Measures `model` on the tokens of a text, `batch` windows at a time.
///
/// With `n` the window length ([`LanguageModel::max_tokens`] of the model, or `window` if that is
/// less), the text is cut into consecutive windows without overlap: window `w` holds tokens
/// `[w n, (w + 1) n)`. Each window is run on its own, and each of its tokens but the first is
/// predicted from those before it in the window, so a full window counts `n - 1` predictions. The
/// last window may be shorter; it counts if it has at least two tokens. The loss is the sum over
/// all predictions divided by their number. The result does not depend on `batch` but for rounding.
///
/// `on_windows` is called with the windows done and their total.
///
/// # Errors
///
/// [`ModelError::TooFewTokens`] for a text or a window of fewer than two tokens;
/// [`ModelError::TokenOutOfRange`] for an id that the model does not have; [`ModelError::Read`] if
/// the device fails; [`ModelError::InvalidOption`] for a batch of zero.
pub fn text_loss<M: LanguageModel>(
    model: &M,
    tokens: &[u32],
    window: Option<usize>,
    batch: usize,
    mut on_windows: impl FnMut(usize, usize),
) -> Result<TextLoss, ModelError> {
    let length = window.unwrap_or(usize::MAX).min(model.max_tokens());
    let found = tokens.len().min(length);
    if found < 2 {
        return Err(ModelError::TooFewTokens { found, min: 2 });
    }
    if batch == 0 {
        let expected = "at least one window at a time";
        return Err(ModelError::invalid_option("batch", 0, expected));
    }
    let (full, rest) = tokens.split_at(tokens.len() / length * length);
    let total_windows = full.len() / length + usize::from(rest.len() >= 2);

    let mut total = TextLoss {
        nll: 0.0,
        tokens: 0,
    };
    let mut done = 0;
    let mut add = |ids: &[u32], rows: usize| -> Result<(), ModelError> {
        let nll = model.nll(model.input_ids(ids, rows)?)?;
        total.nll += nll.try_into_scalar::<f64>()?;
        total.tokens += ids.len() - rows;
        done += rows;
        on_windows(done, total_windows);
        Ok(())
    };
    for ids in full.chunks(batch.saturating_mul(length)) {
        add(ids, ids.len() / length)?;
    }
    if rest.len() >= 2 {
        add(rest, 1)?;
    }
    Ok(total)
}
