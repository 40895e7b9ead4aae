//! Which keys a query may see.

use burn::tensor::{Bool, Device, Tensor, TensorData};

use super::{LeftPadding, Positions};

/// Which keys a query must not see; one per forward pass, for all layers.
#[derive(Debug, Clone)]
pub(crate) struct AttentionMask {
    /// True where a score does not count, `[1 or batch, 1, tokens, keys]`; nothing where all do.
    hidden: Option<Tensor<4, Bool>>,
}

impl AttentionMask {
    /// Hides nothing.
    pub(crate) fn none() -> Self {
        Self { hidden: None }
    }

    /// Hides the keys after each query, for `tokens` queries after `past` keys that are in the cache.
    pub(crate) fn causal(past: usize, tokens: usize, positions: &Positions) -> Self {
        // The last token sees everything, so a single one needs no mask.
        let hidden = (tokens > 1).then(|| {
            let keys = past + tokens;
            let query = positions.range(past, keys).reshape([1, 1, tokens, 1]);
            let key = positions.range(0, keys).reshape([1, 1, 1, keys]);
            (key - query).greater_elem(0) // [1, 1, tokens, keys]
        });
        Self { hidden }
    }

    /// As [`Self::causal`], and hides what is padding in each row.
    pub(crate) fn padded(
        padding: &LeftPadding,
        past: usize,
        tokens: usize,
        device: &Device,
    ) -> Self {
        let keys = past + tokens;
        let mut hidden = Vec::with_capacity(padding.rows() * tokens * keys);
        for &pads in padding.counts() {
            for query in past..keys {
                hidden.extend((0..keys).map(|key| key < pads || key > query));
            }
        }
        let data = TensorData::new(hidden, [padding.rows(), 1, tokens, keys]);
        Self {
            hidden: Some(Tensor::from_data(data, device)),
        }
    }

    /// Lowers the scores that do not count so far that the softmax makes them zero.
    ///
    /// A query that is padding sees nothing; with minus infinity its weights would be 0 / 0, and
    /// its value, not a number, would spread to the tokens that give it the weight zero.
    ///
    /// # Shapes
    ///
    /// - `scores`, output: `[batch, heads, tokens, keys]`, `f32`
    pub(crate) fn apply(&self, scores: Tensor<4>) -> Tensor<4> {
        match &self.hidden {
            Some(hidden) => {
                let hidden = hidden.clone().expand(scores.dims());
                scores.mask_fill(hidden, f32::MIN)
            }
            None => scores,
        }
    }
}
