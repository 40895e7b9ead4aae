//! A head that may be the token embedding.

use burn::module::Param;
use burn::tensor::Tensor;

use super::Weights;
use crate::{Checkpoint, ModelError};

/// The name of a head's weight, `[vocab_size, features]`, in every family.
pub(crate) const HEAD: &str = "lm_head.weight";

/// The head; `None` where it is tied to the embedding.
pub(crate) fn load_head(
    weights: &mut impl Weights,
    tied: bool,
    shape: [usize; 2],
) -> Result<Option<Param<Tensor<2>>>, ModelError> {
    if tied {
        return Ok(None);
    }
    weights.matrix(HEAD, shape).map(Some)
}

/// A tied head that is stored all the same must repeat the embedding.
pub(super) fn check_tied_head(checkpoint: &Checkpoint, embedding: &str) -> Result<(), ModelError> {
    let (Some(head), Some(table)) = (checkpoint.entry(HEAD), checkpoint.entry(embedding)) else {
        return Ok(());
    };
    if head.dtype == table.dtype && head.shape == table.shape && head.bytes == table.bytes {
        return Ok(());
    }
    Err(ModelError::TiedTensorDiffers {
        path: checkpoint.dir().to_path_buf(),
        tensor: HEAD.to_string(),
        tied_to: embedding.to_string(),
    })
}
