//! Rows of different lengths in one batch.

use burn::tensor::{Device, Int, Tensor, TensorData};

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

    /// The counts on `device`, `[rows, 1]`; nothing where there is no padding at all.
    pub(crate) fn pads(&self, device: &Device) -> Option<Tensor<2, Int>> {
        if self.is_none() {
            return None;
        }
        let counts: Vec<i64> = self.counts.iter().map(|&count| count as i64).collect();
        let data = TensorData::new(counts, [self.rows(), 1]);
        Some(Tensor::from_data(data, device))
    }
}
