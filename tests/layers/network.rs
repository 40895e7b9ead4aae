//! Attention and the append as operations of Burn.

use burn::tensor::{DType, Device, Distribution, Int, Tensor, TensorData};
use burn_blr::network::{VisibleKeys, append_rows, attention};

use crate::case::values;
use crate::devices::devices;

fn random(shape: [usize; 4], dtype: DType, device: &Device) -> Tensor<4> {
    let normal = Distribution::Normal(0.0, 1.0);
    Tensor::<4>::random(shape, normal, device).cast(dtype)
}

fn integers(range: std::ops::Range<usize>, device: &Device) -> Tensor<1, Int> {
    Tensor::arange(range.start as i64..range.end as i64, device)
}

/// Attention in `f32` by its formula, `[batch, tokens, heads, width]`; query `i` sees keys up to
/// `first + i`, or all.
fn by_formula(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, first: Option<usize>) -> Vec<f64> {
    let [batch, heads, tokens, width] = q.dims();
    let [_, key_heads, keys, _] = k.dims();
    let [q, k, v] = [q, k, v].map(|tensor| values(tensor.cast(DType::F32)).0);
    let mut out = vec![0.0; batch * tokens * heads * width];
    for b in 0..batch {
        for h in 0..heads {
            let source = (b * key_heads + h / (heads / key_heads)) * keys;
            for t in 0..tokens {
                let row = ((b * heads + h) * tokens + t) * width;
                let seen = first.map_or(keys, |first| first + t + 1);
                let score = |n: usize| -> f64 {
                    let terms = (0..width).map(|c| q[row + c] * k[(source + n) * width + c]);
                    terms.sum::<f64>() / (width as f64).sqrt()
                };
                let powers: Vec<f64> = (0..seen).map(|n| score(n).exp()).collect();
                let total: f64 = powers.iter().sum();
                let to = ((b * tokens + t) * heads + h) * width;
                for (n, power) in powers.iter().enumerate() {
                    for c in 0..width {
                        out[to + c] += power / total * v[(source + n) * width + c];
                    }
                }
            }
        }
    }
    out
}

fn assert_near(found: Tensor<4>, expected: &[f64], tolerance: f64, what: &str) {
    let (found, _) = values(found.cast(DType::F32));
    assert_eq!(found.len(), expected.len(), "{what}");
    for (n, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(
            (found - expected).abs() <= tolerance,
            "{what}: element {n} is {found}, expected {expected}"
        );
    }
}

/// What rounding may do to a mean of normal values.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        // Burn's own products are in tf32 on a GPU.
        DType::F32 => 5e-3,
        DType::F16 => 1e-2,
        _ => 6e-2,
    }
}

#[test]
fn attention_is_the_mean_of_the_values_that_a_query_sees() {
    for device in devices() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for (heads, key_heads, tokens, keys, width) in [
                (4, 2, 37, 50, 64),
                (3, 3, 70, 70, 72),
                (4, 1, 1, 9, 16),
                (2, 2, 5, 5, 6),
            ] {
                let query = random([2, heads, tokens, width], dtype, &device);
                let key = random([2, key_heads, keys, width], dtype, &device);
                let value = random([2, key_heads, keys, width], dtype, &device);
                let what = format!("{device:?} {dtype:?} {tokens} x {keys} x {width}");
                let scale = 1.0 / (width as f64).sqrt();
                let first = keys - tokens;
                let run = |visible: &VisibleKeys| {
                    attention(query.clone(), key.clone(), value.clone(), visible, scale)
                };
                let all = by_formula(query.clone(), key.clone(), value.clone(), None);
                assert_near(run(&VisibleKeys::All), &all, tolerance(dtype), &what);
                let causal = VisibleKeys::Causal {
                    queries: integers(first..keys, &device),
                    keys: integers(0..keys, &device),
                };
                let up_to_own = by_formula(query.clone(), key.clone(), value.clone(), Some(first));
                assert_near(run(&causal), &up_to_own, tolerance(dtype), &what);
                let later = integers(0..keys, &device).reshape([1, 1, 1, keys]);
                let own = integers(first..keys, &device).reshape([1, 1, tokens, 1]);
                let shape = [1, 1, tokens, keys];
                let hidden = later.expand(shape).greater(own.expand(shape));
                let except = VisibleKeys::Except(hidden);
                assert_near(run(&except), &up_to_own, tolerance(dtype), &what);
            }
        }
    }
}

#[test]
fn rows_are_appended_in_every_dtype_and_the_cache_of_others_stays() {
    for device in devices() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let cache = random([2, 3, 8, 6], dtype, &device);
            let rows = random([2, 2, 3, 6], dtype, &device).swap_dims(1, 2); // [2, 3, 2, 6]
            let position = Tensor::<1, Int>::from_data(TensorData::from([5i64]), &device);
            let kept = cache.clone();
            let before = values(cache.clone().cast(DType::F32)).0;
            let appended = append_rows(cache, rows.clone(), position, integers(0..8, &device));
            let expected = Tensor::cat(
                vec![
                    kept.clone().narrow(2, 0, 5),
                    rows,
                    kept.clone().narrow(2, 7, 1),
                ],
                2,
            );
            assert_eq!(
                values(appended.cast(DType::F32)).0,
                values(expected.cast(DType::F32)).0,
                "{device:?} {dtype:?}"
            );
            assert_eq!(
                values(kept.cast(DType::F32)).0,
                before,
                "{device:?} {dtype:?}"
            );
        }
    }
}
