//! Cross entropy over a vocabulary, in pieces that fit into memory.

use burn::tensor::{FloatDType, Int, Tensor, activation};
use burn_blr::ops::{Epilogue, dense_linear};

/// Logits held at a time: 2²⁴ of 4 bytes, 64 MiB, and about three times that while the softmax
/// runs. For the 50,257 tokens of GPT-2 that is 333 rows, enough to fill a GPU.
const LOGITS_AT_A_TIME: usize = 1 << 24;

/// Sum over rows of `-log softmax(hidden headᵀ)[target]`, computed in `f32`.
///
/// # Shapes
///
/// - `hidden`: `[rows, features]`
/// - `head`: `[vocab, features]`
/// - `targets`: `[rows]`
/// - output: `[1]`
pub(crate) fn token_nll(hidden: Tensor<2>, head: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let [rows, _] = hidden.dims();
    let [vocab, _] = head.dims();
    let at_a_time = (LOGITS_AT_A_TIME / vocab.max(1)).max(1);
    let head = head.transpose(); // [vocab, features] -> [features, vocab]
    let mut total = Tensor::zeros([1], (&hidden.device(), burn::tensor::DType::F32));
    for start in (0..rows).step_by(at_a_time) {
        let count = at_a_time.min(rows - start);
        let rows = hidden.clone().narrow(0, start, count);
        let logits = dense_linear(rows, head.clone(), Epilogue::default()); // [count, vocab]
        let logits = logits.cast(FloatDType::F32);
        let target = targets.clone().narrow(0, start, count).unsqueeze_dim(1); // [count, 1]
        total = total - activation::log_softmax(logits, 1).gather(1, target).sum();
    }
    total
}
