//! Batches of a text.

use super::TrainOptions;
use super::batches::{BatchSource, HostBatch};
use super::order::Order;
use crate::TrainingError;

/// Windows of a text, drawn without overlap in each pass over it; passes begin at different tokens.
#[derive(Debug)]
pub struct TextBatches {
    train: Vec<i64>,
    valid: Vec<i64>,
    window: usize,
    batch: usize,
    valid_batches: usize,
    order: Order,
}

impl TextBatches {
    /// Windows of `window` tokens, each with the next one, of `train`; validations read those of
    /// `valid` from its start.
    ///
    /// # Errors
    ///
    /// [`TrainingError::TooLittleText`] if one of the two has no window.
    pub fn new(
        train: &[u32],
        valid: &[u32],
        window: usize,
        options: &TrainOptions,
    ) -> Result<Self, TrainingError> {
        for (name, text) in [("training", train), ("validation", valid)] {
            if text.len() <= window || window == 0 {
                return Err(TrainingError::TooLittleText {
                    name,
                    found: text.len(),
                    window,
                });
            }
        }
        let ids = |text: &[u32]| text.iter().map(|&id| i64::from(id)).collect();
        let windows = valid.len().saturating_sub(1) / window;
        Ok(Self {
            train: ids(train),
            valid: ids(valid),
            window,
            batch: options.batch,
            valid_batches: windows.div_ceil(options.batch).min(options.valid_batches),
            order: Order::new(windows_of_pass(train.len(), window), options.seed),
        })
    }
}

/// Windows of a pass: as many as fit wherever in the first window it begins.
fn windows_of_pass(tokens: usize, window: usize) -> usize {
    (tokens / window).saturating_sub(1).max(1)
}

impl BatchSource for TextBatches {
    fn train_batch(&self, index: usize) -> Result<HostBatch, TrainingError> {
        let mut ids = Vec::with_capacity(self.batch * (self.window + 1));
        // Where a pass may begin, so that its last window still has a next token.
        let windows = windows_of_pass(self.train.len(), self.window);
        let room = (self.train.len() - windows * self.window).min(self.window);
        for n in index * self.batch..(index + 1) * self.batch {
            let (pass, sample) = self.order.sample(n);
            let start = self.order.below(pass, room) + sample * self.window;
            ids.extend(&self.train[start..=start + self.window]);
        }
        Ok(HostBatch::Text {
            ids,
            rows: self.batch,
        })
    }

    fn valid_batch(&self, index: usize) -> Result<HostBatch, TrainingError> {
        let windows = (self.valid.len() - 1) / self.window;
        let rows = index * self.batch..((index + 1) * self.batch).min(windows);
        let count = rows.len();
        let mut ids = Vec::with_capacity(count * (self.window + 1));
        for row in rows {
            let start = row * self.window;
            ids.extend(&self.valid[start..=start + self.window]);
        }
        Ok(HostBatch::Text { ids, rows: count })
    }

    fn valid_batches(&self) -> usize {
        self.valid_batches
    }

    fn description(&self) -> String {
        format!(
            "{} tokens for training and {} for validation in windows of {}",
            self.train.len(),
            self.valid.len(),
            self.window
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;

    fn options(batch: usize) -> TrainOptions {
        TrainOptions {
            batch,
            ..TrainOptions::default()
        }
    }

    #[test]
    fn every_length_of_a_text_gives_whole_windows() {
        let text: Vec<u32> = (0..100).collect();
        for tokens in 5..100 {
            let source = TextBatches::new(&text[..tokens], &text, 4, &options(3)).unwrap();
            for index in 0..60 {
                let HostBatch::Text { ids, rows } = source.train_batch(index).unwrap() else {
                    unreachable!()
                };
                assert_eq!((rows, ids.len()), (3, 15));
                for row in ids.chunks(5) {
                    assert!(row.windows(2).all(|pair| pair[1] == pair[0] + 1));
                }
            }
        }
    }

    #[test]
    fn a_validation_reads_every_window_once() {
        let text: Vec<u32> = (0..22).collect();
        let source = TextBatches::new(&text, &text, 4, &options(2)).unwrap();
        let mut seen = Vec::new();
        for index in 0..source.valid_batches() {
            let HostBatch::Text { ids, .. } = source.valid_batch(index).unwrap() else {
                unreachable!()
            };
            seen.extend(ids.chunks(5).map(|row| row[0]));
        }
        assert_eq!(seen, [0, 4, 8, 12, 16]);
        let error = TextBatches::new(&text[..4], &text, 4, &options(2)).unwrap_err();
        assert!(error.to_string().contains("4 tokens"), "{error}");
    }
}
