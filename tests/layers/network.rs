//! What a network does between its layers, as operations of Burn.

use burn::tensor::{DType, Device, Distribution, Int, Tensor, TensorData};
use burn_blr::network::{
    Angles, Norm, Residual, ScaleShift, VisibleKeys, add_norm, append_and_attend, append_key_value,
    append_turned, attention, rotate,
};

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
            let of_shape = |shape| [(); 2].map(|()| random(shape, dtype, &device));
            let cache = of_shape([2, 3, 8, 6]);
            let new = of_shape([2, 2, 3, 6]).map(|rows| rows.swap_dims(1, 2)); // [2, 3, 2, 6]
            let position = Tensor::<1, Int>::from_data(TensorData::from([5i64]), &device);
            let slots = integers(0..8, &device);
            let kept = cache.clone();
            let of = |tensor: &Tensor<4>| values(tensor.clone().cast(DType::F32)).0;
            let before = kept.each_ref().map(of);
            let appended = append_key_value(cache, new.clone(), position, slots);
            for n in 0..2 {
                let expected = Tensor::cat(
                    vec![
                        kept[n].clone().narrow(2, 0, 5),
                        new[n].clone(),
                        kept[n].clone().narrow(2, 7, 1),
                    ],
                    2,
                );
                let what = format!("{device:?} {dtype:?} {n}");
                assert_eq!(of(&appended[n]), of(&expected), "{what}");
                assert_eq!(of(&kept[n]), before[n], "{what}");
            }
        }
    }
}

#[test]
fn queries_turn_beside_what_is_appended() {
    for device in devices() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let make = || {
                let cache = [(); 2].map(|()| Tensor::<4>::zeros([2, 3, 8, 6], (&device, dtype)));
                let position = Tensor::<1, Int>::from_data(TensorData::from([5i64]), &device);
                (cache, position, integers(0..8, &device))
            };
            let query = random([2, 6, 2, 6], dtype, &device);
            let [key, value] = [(); 2].map(|()| random([2, 3, 2, 6], dtype, &device));
            let angle = Tensor::<3>::random([1, 2, 3], Distribution::Uniform(-3.0, 3.0), &device);
            let angles = Angles {
                cos: angle.clone().cos(),
                sin: angle.sin(),
            };
            let (cache, position, slots) = make();
            let new = [query.clone(), key.clone(), value.clone()];
            let (found, turned) = append_turned(cache, new, &angles, position, slots);
            let (cache, position, slots) = make();
            let new = [rotate(key, &angles), value];
            let [keys, values_of] = append_key_value(cache, new, position, slots);
            let [found_keys, found_values] = found;
            for (found, expected) in [
                (found_keys, keys),
                (found_values, values_of),
                (turned, rotate(query, &angles)),
            ] {
                assert_eq!(
                    values(found.cast(DType::F32)).0,
                    values(expected.cast(DType::F32)).0,
                    "{device:?} {dtype:?}"
                );
            }
        }
    }
}

#[test]
fn what_is_appended_and_attended_at_once_is_what_follows_from_both() {
    for device in devices() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for (tokens, turns) in [(1, true), (1, false), (3, true)] {
                let what = format!("{device:?} {dtype:?} {tokens} {turns}");
                let (capacity, at) = (150, 90);
                let of = |rows: &Tensor<4>| values(rows.clone().cast(DType::F32)).0;
                let kept = [(); 2].map(|()| random([2, 3, capacity, 16], dtype, &device));
                let before = kept.each_ref().map(of);
                let position = Tensor::<1, Int>::from_data(TensorData::from([at as i64]), &device);
                let slots = integers(0..capacity, &device);
                let query = random([2, 6, tokens, 16], dtype, &device);
                let [key, value] = [(); 2].map(|()| random([2, 3, tokens, 16], dtype, &device));
                let uniform = Distribution::Uniform(-3.0, 3.0);
                let angle = Tensor::<3>::random([2, tokens, 8], uniform, &device);
                let angles = Angles {
                    cos: angle.clone().cos(),
                    sin: angle.sin(),
                };
                let angles = turns.then_some(&angles);
                let visible = VisibleKeys::Causal {
                    queries: integers(at..at + tokens, &device),
                    keys: slots.clone(),
                };
                let new = [query.clone(), key.clone(), value.clone()];
                let turned = |rows: Tensor<4>| match angles {
                    Some(angles) => rotate(rows, angles),
                    None => rows,
                };
                let (query, rows) = (turned(query), [turned(key), value]);
                let (place, numbers) = (position.clone(), slots.clone());
                let expected = append_key_value(kept.clone(), rows, place, numbers);
                let [keys, vals] = expected.clone();
                let attended = attention(query, keys, vals, &visible, 0.25);
                // With the cache to itself, as in decoding, and with a cache that others hold. What runs
                // where rounds what it appends in its own way, and leaves all else as it is.
                for others in [false, true] {
                    let cache = kept.each_ref().map(|rows| match others {
                        true => rows.clone(),
                        false => rows.clone() + 0.0,
                    });
                    let (position, slots) = (position.clone(), slots.clone());
                    let new = new.clone();
                    let (found, mixed) =
                        append_and_attend(cache, new, angles, position, slots, &visible, 0.25);
                    for (n, found) in found.into_iter().enumerate() {
                        let rows = |of: &Tensor<4>| of.clone().narrow(2, at, tokens);
                        let appended = of(&rows(&expected[n]));
                        assert_near(rows(&found), &appended, tolerance(dtype), &what);
                        for (start, end) in [(0, at), (at + tokens, capacity)] {
                            let part = |of: &Tensor<4>| of.clone().narrow(2, start, end - start);
                            assert_eq!(of(&part(&found)), of(&part(&kept[n])), "{what}");
                        }
                    }
                    assert_near(mixed, &of(&attended), tolerance(dtype), &what);
                }
                assert_eq!(kept.each_ref().map(of), before, "{what}: a cache of others");
            }
        }
    }
}

#[test]
fn turned_rows_are_those_of_the_plane_rotations() {
    for device in devices() {
        for dtype in [DType::F32, DType::BF16] {
            let rows = random([2, 3, 4, 8], dtype, &device);
            let angle = Tensor::<3>::random([2, 4, 4], Distribution::Uniform(-3.0, 3.0), &device);
            let angles = Angles {
                cos: angle.clone().cos(),
                sin: angle.sin(),
            };
            let [cos, sin] = [&angles.cos, &angles.sin]
                .map(|angle| angle.clone().reshape([2, 1, 4, 4]).expand([2, 3, 4, 4]));
            let wide = rows.clone().cast(DType::F32);
            let (first, second) = (wide.clone().narrow(3, 0, 4), wide.narrow(3, 4, 4));
            let expected = Tensor::cat(
                vec![
                    first.clone() * cos.clone() - second.clone() * sin.clone(),
                    second * cos + first * sin,
                ],
                3,
            );
            let expected = values(expected).0;
            let what = format!("{device:?} {dtype:?}");
            let rounding = if dtype == DType::F32 { 1e-5 } else { 4e-2 };
            assert_near(rotate(rows, &angles), &expected, rounding, &what);
        }
    }
}

#[test]
fn norms_add_and_normalize_as_single_operations_do() {
    for device in devices() {
        for dtype in [DType::F32, DType::BF16] {
            let tensor = |shape: [usize; 3]| {
                let normal = Distribution::Normal(0.0, 1.0);
                Tensor::<3>::random(shape, normal, &device).cast(dtype)
            };
            let (input, residual) = (tensor([2, 5, 24]), tensor([2, 5, 24]));
            let [gate, scale, shift] = [(); 3].map(|()| tensor([2, 1, 24]));
            let wide = |tensor: &Tensor<3>| tensor.clone().cast(DType::F32);
            let (sum, found) = add_norm(
                input.clone(),
                Some(Residual {
                    residual: residual.clone(),
                    gate: Some(gate.clone()),
                }),
                ScaleShift::Modulated {
                    scale: scale.clone(),
                    shift: shift.clone(),
                },
                Norm::Layer,
                1e-6,
            );
            let expected_sum = wide(&input) + wide(&residual) * wide(&gate);
            let rounding = if dtype == DType::F32 { 1e-4 } else { 6e-2 };
            let near = |found: Tensor<3>, expected: Tensor<3>, what: &str| {
                let found: Tensor<4> = found.unsqueeze();
                let what = format!("{what} {device:?} {dtype:?}");
                assert_near(found, &values(expected).0, rounding, &what);
            };
            near(sum.clone(), expected_sum, "sum");
            let centred = wide(&sum) - wide(&sum).mean_dim(2);
            let variance = centred.clone().powi_scalar(2).mean_dim(2);
            let y = centred / (variance + 1e-6).sqrt();
            near(found, y * (wide(&scale) + 1.0) + wide(&shift), "modulated");

            let weight = Tensor::<1>::random([24], Distribution::Normal(1.0, 0.1), &device);
            let features = ScaleShift::Features {
                scale: weight.clone(),
                shift: None,
            };
            let (same, found) = add_norm(input.clone(), None, features, Norm::Rms, 1e-5);
            assert_eq!(values(wide(&same)).0, values(wide(&input)).0);
            let square = wide(&input).powi_scalar(2).mean_dim(2);
            let y = wide(&input) / (square + 1e-5).sqrt() * weight.reshape([1, 1, 24]);
            near(found, y, "rms");
        }
    }
}
