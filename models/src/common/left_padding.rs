//! Rows of different lengths in one batch.

use crate::ModelError;

/// How many tokens at the start of each row of a batch are padding.
///
/// No token sees them, and positions are counted from the first token behind them, so a padded row
/// gives what it would give alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftPadding {
    counts: Vec<usize>,
}

impl LeftPadding {
    /// Pads rows on the left to the length of the longest, with the id 0, and joins them.
    ///
    /// # Shapes
    ///
    /// - ids returned: `[rows, longest]`, row by row
    ///
    /// # Errors
    ///
    /// [`ModelError::TooFewTokens`] if there are no rows or one is empty.
    pub fn pad(rows: &[impl AsRef<[u32]>]) -> Result<(Vec<u32>, Self), ModelError> {
        let lengths = rows.iter().map(|row| row.as_ref().len());
        let shortest = lengths.clone().min().unwrap_or(0);
        if shortest == 0 {
            return Err(ModelError::TooFewTokens { found: 0, min: 1 });
        }
        let longest = lengths.clone().max().unwrap_or(0);
        let counts: Vec<usize> = lengths.map(|length| longest - length).collect();
        let mut ids = Vec::with_capacity(rows.len() * longest);
        for (row, &pads) in rows.iter().zip(&counts) {
            ids.extend(std::iter::repeat_n(0, pads));
            ids.extend(row.as_ref());
        }
        Ok((ids, Self { counts }))
    }

    /// Tokens that are padding, row by row.
    pub fn counts(&self) -> &[usize] {
        &self.counts
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.counts.len()
    }

    /// Whether there is any padding at all.
    pub fn is_none(&self) -> bool {
        self.counts.iter().all(|&count| count == 0)
    }

    /// Positions of the tokens `past..past + tokens` of every row, row by row. Padding has position
    /// zero.
    pub(crate) fn positions(&self, past: usize, tokens: usize) -> Vec<i64> {
        let row = |&pads: &usize| {
            (past..past + tokens).map(move |token| token.saturating_sub(pads) as i64)
        };
        self.counts.iter().flat_map(row).collect()
    }
}
