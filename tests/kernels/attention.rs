//! Attention and the append to its cache.

use cubecl::ir::IntKind;
use cubecl::prelude::*;
use cubecl_kernels::attention::{
    Angles, AppendKeyValue, Attention, OwnTokens, RotateRows, TurnedQuery, Visible,
    append_key_value, attention, rotate_rows, scratch_elements,
};
use cubecl_kernels::{KernelError, Strategy};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::harness::blocks::Blocks;
use crate::harness::clients::on_every_device;
use crate::harness::compare::{FORWARD, assert_close};
use crate::harness::dtype::Dtype;
use crate::harness::tensors::{DeviceTensor, Layout};
use crate::setting::Setting;

on_every_device! {
    many_queries_match_the_reference
    a_single_query_matches_the_reference
    keys_behind_a_position_on_the_device_are_not_read
    tokens_that_are_attended_are_appended_as_well
    rows_are_appended_at_the_position_and_nothing_else_changes
    rows_turn_by_their_angles
    sizes_that_do_not_fit_are_errors
}

/// Sizes of one attention.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    batch: usize,
    heads: usize,
    key_heads: usize,
    tokens: usize,
    keys: usize,
    width: usize,
}

impl Sizes {
    fn query(&self) -> [usize; 4] {
        [self.batch, self.heads, self.tokens, self.width]
    }

    fn key(&self) -> [usize; 4] {
        [self.batch, self.key_heads, self.keys, self.width]
    }

    /// Rows `[batch · heads, tokens, width]` of queries, keys and values.
    fn random(&self, dtype: Dtype) -> [Blocks; 3] {
        let rng = &mut StdRng::seed_from_u64(7);
        let [b, h, t, w] = self.query();
        let [_, kh, k, _] = self.key();
        [[b * h, t, w], [b * kh, k, w], [b * kh, k, w]]
            .map(|shape| Blocks::random(shape, dtype, rng))
    }
}

/// Attention by its formula, each step rounded by `round`: the scaled query, the scores, the weights
/// and the result. Query `i` sees `first + i + 1` keys, or all.
fn composition(
    sizes: &Sizes,
    [query, key, value]: &[Blocks; 3],
    scale: f64,
    first: Option<usize>,
    round: impl Fn(f64) -> f64,
) -> Vec<f64> {
    let mut out = Vec::new();
    let shared = sizes.heads / sizes.key_heads;
    for head in 0..sizes.batch * sizes.heads {
        let (batch, within) = (head / sizes.heads, head % sizes.heads);
        let source = batch * sizes.key_heads + within / shared;
        for token in 0..sizes.tokens {
            let seen = first.map_or(sizes.keys, |first| (first + token + 1).min(sizes.keys));
            let score = |k: usize| {
                let terms = (0..sizes.width)
                    .map(|c| round(query.at(head, token, c) * scale) * key.at(source, k, c));
                round(terms.sum())
            };
            let scores: Vec<f64> = (0..seen).map(score).collect();
            let highest = scores.iter().copied().fold(f64::MIN, f64::max);
            let powers = scores.iter().map(|score| (score - highest).exp());
            let total: f64 = powers.clone().sum();
            let weights: Vec<f64> = powers.map(|power| round(power / total)).collect();
            out.extend((0..sizes.width).map(|c| {
                let terms = weights.iter().enumerate();
                round(
                    terms
                        .map(|(k, weight)| weight * value.at(source, k, c))
                        .sum(),
                )
            }));
        }
    }
    out
}

/// A tensor `[batch, tokens, heads, width]` as `[batch, heads, tokens, width]`.
fn by_head<R: Runtime>(mut binding: TensorBinding<R>) -> TensorBinding<R> {
    binding.shape.swap(1, 2);
    binding.strides.swap(1, 2);
    binding
}

/// Rows `[batch · heads, tokens, width]` as `[batch, tokens, heads, width]`, or back.
fn swapped(values: &[f64], [batch, heads, tokens, width]: [usize; 4]) -> Vec<f64> {
    let mut out = Vec::with_capacity(values.len());
    for b in 0..batch {
        for t in 0..tokens {
            for h in 0..heads {
                let start = ((b * heads + h) * tokens + t) * width;
                out.extend(&values[start..start + width]);
            }
        }
    }
    out
}

fn position<R: Runtime>(client: &ComputeClient<R>, first: usize) -> (TensorBinding<R>, ElemType) {
    let handle = client.create_from_slice(&(first as i32).to_le_bytes());
    let binding = TensorBinding {
        handle: handle.binding(),
        strides: [1].into_iter().collect(),
        shape: [1].into_iter().collect(),
        runtime: core::marker::PhantomData,
    };
    (binding, ElemType::Int(IntKind::I32))
}

/// Runs an attention and compares it; with `interleaved`, heads lie within tokens, as layers leave
/// them.
fn check<R: Runtime>(
    client: &ComputeClient<R>,
    sizes: Sizes,
    dtype: Dtype,
    first: Option<usize>,
    interleaved: bool,
    strategy: Strategy,
) {
    let setting = Setting::plain(dtype, strategy);
    let rows = sizes.random(dtype);
    let scale = 4.0 / (sizes.width as f64).sqrt();
    let upload = |rows: &Blocks, shape: [usize; 4]| {
        if interleaved {
            let [b, h, t, w] = shape;
            by_head(setting.input(client, &[b, t, h, w], &swapped(&rows.values, shape)))
        } else {
            setting.input(client, &shape, &rows.values)
        }
    };
    let [b, h, t, w] = sizes.query();
    let output = setting.output(client, &[b, t, h, w]);
    let scratch = scratch_elements(client, sizes.query(), sizes.keys);
    let partial = DeviceTensor::junk(client, &[scratch], Layout::Contiguous, Dtype::F32);
    let operands = Attention {
        query: upload(&rows[0], sizes.query()),
        key: upload(&rows[1], sizes.key()),
        value: upload(&rows[2], sizes.key()),
        position: first
            .filter(|first| first + t != sizes.keys)
            .map(|first| position(client, first)),
        own: None,
        partial: (scratch > 0).then(|| partial.binding()),
        output: by_head(output.binding()),
    };
    let visible = match first {
        Some(_) => Visible::Causal,
        None => Visible::All,
    };
    let strategy = &setting.strategy;
    if !setting.ran(attention(
        client,
        operands,
        visible,
        scale,
        dtype.elem(),
        strategy,
    )) {
        return;
    }
    let expected = composition(&sizes, &rows, scale, first, |value| value);
    let composed = composition(&sizes, &rows, scale, first, |value| dtype.round(value));
    assert_close(
        &format!("{dtype:?} {sizes:?} first {first:?} interleaved {interleaved}"),
        &output.read(client),
        &swapped(&expected, sizes.query()),
        &swapped(&composed, sizes.query()),
        FORWARD,
    );
}

fn sizes([batch, heads, key_heads]: [usize; 3], [tokens, keys, width]: [usize; 3]) -> Sizes {
    Sizes {
        batch,
        heads,
        key_heads,
        tokens,
        keys,
        width,
    }
}

fn many_queries_match_the_reference<R: Runtime>(client: &ComputeClient<R>) {
    for dtype in Dtype::ALL {
        for (sizes, first) in [
            (sizes([1, 2, 2], [64, 64, 64]), Some(0)),
            (sizes([2, 4, 2], [77, 131, 128]), Some(54)),
            (sizes([2, 3, 3], [197, 197, 64]), None),
            (sizes([1, 2, 1], [33, 70, 72]), None),
            (sizes([1, 2, 1], [2, 300, 8]), Some(298)),
            // Keys that are there but behind the last query.
            (sizes([1, 4, 1], [70, 200, 80]), Some(11)),
        ] {
            check(client, sizes, dtype, first, false, Strategy::Auto);
            check(client, sizes, dtype, first, true, Strategy::Auto);
        }
    }
}

fn a_single_query_matches_the_reference<R: Runtime>(client: &ComputeClient<R>) {
    for dtype in Dtype::ALL {
        for (sizes, first) in [
            (sizes([1, 2, 2], [1, 1, 64]), Some(0)),
            (sizes([2, 4, 2], [1, 131, 128]), None),
            (sizes([1, 3, 3], [1, 2100, 72]), Some(1500)),
            (sizes([1, 2, 1], [1, 77, 7]), Some(5)),
            // Rings go round, with a last step that is not full; lanes without a piece of a value.
            (sizes([1, 2, 1], [1, 5000, 128]), Some(4990)),
            (sizes([2, 1, 1], [1, 700, 120]), None),
        ] {
            // The tiled strategy has no rings.
            for strategy in [Strategy::Auto, Strategy::Tiled] {
                check(client, sizes, dtype, first, false, strategy);
                check(client, sizes, dtype, first, true, strategy);
            }
        }
    }
}

fn keys_behind_a_position_on_the_device_are_not_read<R: Runtime>(client: &ComputeClient<R>) {
    let dtype = Dtype::F32;
    let sizes = sizes([1, 2, 2], [1, 40, 16]);
    let seen = 11;
    let mut rows = sizes.random(dtype);
    for rows in &mut rows[1..] {
        for (n, value) in rows.values.iter_mut().enumerate() {
            if n / sizes.width % sizes.keys > seen {
                *value = f64::NAN;
            }
        }
    }
    let setting = Setting::plain(dtype, Strategy::Auto);
    let output = setting.output(client, &sizes.query());
    let scratch = scratch_elements(client, sizes.query(), sizes.keys);
    let partial = DeviceTensor::junk(client, &[scratch], Layout::Contiguous, Dtype::F32);
    let operands = Attention {
        query: setting.input(client, &sizes.query(), &rows[0].values),
        key: setting.input(client, &sizes.key(), &rows[1].values),
        value: setting.input(client, &sizes.key(), &rows[2].values),
        position: Some(position(client, seen)),
        own: None,
        partial: (scratch > 0).then(|| partial.binding()),
        output: output.binding(),
    };
    let result = attention(
        client,
        operands,
        Visible::Causal,
        1.0,
        dtype.elem(),
        &setting.strategy,
    );
    assert_eq!(result, Ok(()));
    assert!(output.read(client).iter().all(|value| value.is_finite()));
}

fn rows_are_appended_at_the_position_and_nothing_else_changes<R: Runtime>(
    client: &ComputeClient<R>,
) {
    for dtype in Dtype::ALL {
        // The last would go past the end: what fits is written.
        for (tokens, width, at) in [(1, 64, 0), (3, 20, 7), (2, 6, 9), (4, 16, 8)] {
            let (batch, heads, capacity) = (2, 3, 11);
            let rng = &mut StdRng::seed_from_u64(3);
            let setting = Setting::plain(dtype, Strategy::Auto);
            let mut random = |rows| Blocks::random([batch * heads, rows, width], dtype, rng);
            let new = [random(tokens), random(tokens)];
            let before = [random(capacity), random(capacity)];
            let shape = [batch, heads, capacity, width];
            let cache = before.each_ref().map(|before| {
                let contiguous = Layout::Contiguous;
                DeviceTensor::with_values(client, &shape, contiguous, dtype, &before.values)
            });
            let [key, value] = new.each_ref().map(|new| {
                let values = swapped(&new.values, [batch, heads, tokens, width]);
                by_head(setting.input(client, &[batch, tokens, heads, width], &values))
            });
            let operands = AppendKeyValue {
                key,
                value,
                turned: None,
                position: position(client, at),
                keys: cache[0].binding(),
                values: cache[1].binding(),
            };
            if !setting.ran(append_key_value(client, operands, dtype.elem())) {
                continue;
            }
            for n in 0..2 {
                let mut expected = before[n].values.clone();
                for head in 0..batch * heads {
                    for token in 0..tokens.min(capacity - at) {
                        for c in 0..width {
                            expected[(head * capacity + at + token) * width + c] =
                                new[n].at(head, token, c);
                        }
                    }
                }
                let found = cache[n].read(client);
                assert_eq!(found, expected, "{dtype:?} {tokens} at {at}, {n}");
            }
        }
    }
}

/// The cache as [`append_key_value`] leaves it, and attention to that.
fn tokens_that_are_attended_are_appended_as_well<R: Runtime>(client: &ComputeClient<R>) {
    for dtype in Dtype::ALL {
        for (heads, [tokens, keys, width, at], angle_rows) in [
            ([1, 4, 4], [1, 300, 64, 150], Some(1)),
            ([2, 4, 2], [1, 1000, 128, 999], Some(2)),
            // Nothing before it; one cube for each head; a place past the end.
            ([1, 6, 3], [1, 70, 128, 0], None),
            ([2, 3, 1], [1, 40, 32, 17], Some(1)),
            ([1, 2, 2], [1, 64, 64, 64], Some(1)),
            // Several: alone, behind others, and with places past the end for some and for all.
            ([1, 3, 3], [130, 130, 64, 0], None),
            ([2, 4, 2], [77, 200, 64, 54], None),
            ([1, 4, 1], [70, 300, 72, 128], None),
            ([1, 2, 1], [90, 200, 128, 130], None),
            ([1, 2, 2], [5, 64, 64, 64], None),
        ] {
            let sizes = sizes(heads, [tokens, keys, width]);
            let [batch, key_heads, ..] = sizes.key();
            let setting = Setting::plain(dtype, Strategy::Auto);
            let rng = &mut StdRng::seed_from_u64(11);
            let row = [batch, key_heads, tokens, width];
            let on_device = |shape: [usize; 4], values: &[f64]| {
                DeviceTensor::with_values(client, &shape, Layout::Contiguous, dtype, values)
            };
            // Heads lie within tokens, as layers leave them.
            let rows = [sizes.query(), row, row].map(|shape| {
                let [b, h, t, w] = shape;
                let rows = Blocks::random([b * h, t, w], dtype, rng).values;
                (on_device([b, t, h, w], &swapped(&rows, shape)), rows)
            });
            let [query, key, value] = rows.each_ref().map(|(tensor, _)| by_head(tensor.binding()));
            // What is in the cache from there on is not read.
            let before = [(); 2].map(|()| {
                let mut rows = Blocks::random([batch * key_heads, keys, width], dtype, rng).values;
                for (n, value) in rows.iter_mut().enumerate() {
                    if n / width % keys >= at {
                        *value = f64::NAN;
                    }
                }
                rows
            });
            let angles = angle_rows.map(|rows| {
                let shape = [rows, 1, width / 2];
                let angles = Blocks::random(shape, Dtype::F32, rng).values;
                let single = Setting::plain(Dtype::F32, Strategy::Auto);
                let of = |of: fn(f64) -> f64| {
                    let values: Vec<f64> = angles.iter().map(|&a| of(a) as f32 as f64).collect();
                    single.input(client, &shape, &values)
                };
                Angles {
                    cos: of(f64::cos),
                    sin: of(f64::sin),
                }
            });
            let cache = || before.each_ref().map(|rows| on_device(sizes.key(), rows));
            let (found, expected) = (cache(), cache());
            let output = setting.output(client, &[batch, tokens, sizes.heads, width]);
            let scale = 4.0 / (width as f64).sqrt();
            let together = Attention {
                query: query.clone(),
                key: found[0].binding(),
                value: found[1].binding(),
                position: Some(position(client, at)),
                own: Some(OwnTokens {
                    key: key.clone(),
                    value: value.clone(),
                    angles: angles.clone(),
                }),
                partial: None,
                output: by_head(output.binding()),
            };
            let strategy = &setting.strategy;
            let causal = Visible::Causal;
            let ran = attention(client, together, causal, scale, dtype.elem(), strategy);
            if !setting.ran(ran) {
                continue;
            }
            let turned = setting.output(client, &sizes.query());
            let append = AppendKeyValue {
                key,
                value,
                turned: angles.clone().map(|angles| TurnedQuery {
                    query,
                    angles,
                    output: turned.binding(),
                }),
                position: position(client, at),
                keys: expected[0].binding(),
                values: expected[1].binding(),
            };
            assert_eq!(append_key_value(client, append, dtype.elem()), Ok(()));
            let what = format!("{dtype:?} {sizes:?} at {at}");
            let [found, expected] =
                [found, expected].map(|cache| cache.map(|rows| rows.read(client)));
            for (found, expected) in found.iter().zip(&expected) {
                for (n, (found, expected)) in found.iter().zip(expected).enumerate() {
                    let same = found == expected || (found.is_nan() && expected.is_nan());
                    assert!(
                        same,
                        "{what}: element {n} of the cache is {found}, not {expected}"
                    );
                }
            }
            let turned = match angles {
                Some(_) => turned.read(client),
                None => rows[0].1.clone(),
            };
            let [keys_after, values_after] =
                expected.map(|rows| Blocks::new(batch * key_heads, keys, width, rows));
            let rows = [
                Blocks::new(batch * sizes.heads, tokens, width, turned),
                keys_after,
                values_after,
            ];
            let exact = composition(&sizes, &rows, scale, Some(at), |value| value);
            let composed = composition(&sizes, &rows, scale, Some(at), |value| dtype.round(value));
            assert_close(
                &what,
                &output.read(client),
                &swapped(&exact, sizes.query()),
                &swapped(&composed, sizes.query()),
                FORWARD,
            );
        }
    }
}

/// Turned queries, whether alone or beside keys and values, and keys.
fn rows_turn_by_their_angles<R: Runtime>(client: &ComputeClient<R>) {
    for dtype in Dtype::ALL {
        for (angle_rows, tokens, width, at) in [(1, 5, 64, 2), (2, 3, 20, 0), (2, 1, 6, 4)] {
            let (batch, heads, query_heads, capacity, pairs) = (2, 3, 6, 8, width / 2);
            let rng = &mut StdRng::seed_from_u64(5);
            let mut random = |heads| Blocks::random([batch * heads, tokens, width], dtype, rng);
            let (query, key, value) = (random(query_heads), random(heads), random(heads));
            let angles = Blocks::random([angle_rows, tokens, pairs], Dtype::F32, rng);
            let setting = Setting::plain(dtype, Strategy::Auto);
            let single = Setting::plain(Dtype::F32, Strategy::Auto);
            let angle = |of: fn(f64) -> f64| {
                let values: Vec<f64> = angles.values.iter().map(|&a| of(a) as f32 as f64).collect();
                (
                    single.input(client, &[angle_rows, tokens, pairs], &values),
                    values,
                )
            };
            let ((cos, cosines), (sin, sines)) = (angle(f64::cos), angle(f64::sin));
            let angles = Angles { cos, sin };
            let input = |rows: &Blocks, heads| {
                setting.input(client, &[batch, heads, tokens, width], &rows.values)
            };
            let of_query =
                [(); 2].map(|()| setting.output(client, &[batch, query_heads, tokens, width]));
            let cache = [(); 2].map(|()| setting.output(client, &[batch, heads, capacity, width]));
            let alone = RotateRows {
                rows: input(&query, query_heads),
                angles: angles.clone(),
                output: of_query[0].binding(),
            };
            let beside = AppendKeyValue {
                key: input(&key, heads),
                value: input(&value, heads),
                turned: Some(TurnedQuery {
                    query: input(&query, query_heads),
                    angles,
                    output: of_query[1].binding(),
                }),
                position: position(client, at),
                keys: cache[0].binding(),
                values: cache[1].binding(),
            };
            if !setting.ran(rotate_rows(client, alone, dtype.elem()))
                || !setting.ran(append_key_value(client, beside, dtype.elem()))
            {
                continue;
            }
            let check = |found: &[f64], rows: &Blocks, heads: usize, head: usize, token: usize| {
                let angle_row = if angle_rows == 1 { 0 } else { head / heads };
                for pair in 0..pairs {
                    let n = (angle_row * tokens + token) * pairs + pair;
                    let (c, s) = (cosines[n], sines[n]);
                    let first = rows.at(head, token, pair);
                    let second = rows.at(head, token, pair + pairs);
                    for (found, exact) in [
                        (found[pair], first * c - second * s),
                        (found[pair + pairs], second * c + first * s),
                    ] {
                        // One rounding, and those of the two products in f32.
                        let step = (dtype.round(exact) - exact).abs() + 4e-7;
                        let near = (found - exact).abs() <= 2.0 * step;
                        assert!(near, "{dtype:?} {found} {exact}");
                    }
                }
            };
            for found in of_query.map(|output| output.read(client)) {
                for head in 0..batch * query_heads {
                    for token in 0..tokens {
                        let row = &found[(head * tokens + token) * width..][..width];
                        check(row, &query, query_heads, head, token);
                    }
                }
            }
            let [keys, values] = cache.map(|cache| cache.read(client));
            for head in 0..batch * heads {
                for slot in 0..capacity {
                    let row = (head * capacity + slot) * width;
                    let rows = [&keys, &values].map(|cache| &cache[row..][..width]);
                    if slot < at || slot >= at + tokens {
                        let unwritten = rows.concat().iter().all(|value| value.is_nan());
                        assert!(unwritten, "{dtype:?} {slot}");
                        continue;
                    }
                    let token = slot - at;
                    check(rows[0], &key, heads, head, token);
                    let expected: Vec<f64> = (0..width).map(|c| value.at(head, token, c)).collect();
                    assert_eq!(rows[1], expected, "{dtype:?} {slot}");
                }
            }
        }
    }
}

fn sizes_that_do_not_fit_are_errors<R: Runtime>(client: &ComputeClient<R>) {
    let dtype = Dtype::F32;
    let setting = Setting::plain(dtype, Strategy::Auto);
    let tensor = |shape: [usize; 4]| setting.output(client, &shape).binding();
    let run_beside = |query: [usize; 4],
                      key: [usize; 4],
                      value: [usize; 4],
                      visible,
                      own: Option<[usize; 4]>| {
        let operands = Attention {
            query: tensor(query),
            key: tensor(key),
            value: tensor(value),
            position: None,
            own: own.map(|row| OwnTokens {
                key: tensor(row),
                value: tensor(row),
                angles: None,
            }),
            partial: None,
            output: tensor(query),
        };
        attention(
            client,
            operands,
            visible,
            1.0,
            dtype.elem(),
            &Strategy::Auto,
        )
    };
    let run = |query, key, value, visible| run_beside(query, key, value, visible, None);
    let good = [1, 2, 5, 8];
    assert!(matches!(
        run([1, 3, 1, 8], good, good, Visible::All),
        Err(KernelError::InvalidConfig { .. })
    ));
    assert!(matches!(
        run([1, 2, 6, 8], good, good, Visible::Causal),
        Err(KernelError::InvalidConfig { .. })
    ));
    assert!(matches!(
        run([1, 2, 1, 8], good, [1, 2, 4, 8], Visible::All),
        Err(KernelError::Shape {
            operand: "value",
            ..
        })
    ));
    // One token's row for two queries, and one of other heads.
    let row = Some([1, 2, 1, 8]);
    assert!(matches!(
        run_beside([1, 2, 2, 8], good, good, Visible::Causal, row),
        Err(KernelError::Shape {
            operand: "own key",
            ..
        })
    ));
    assert!(matches!(
        run_beside(
            [1, 4, 1, 8],
            good,
            good,
            Visible::Causal,
            Some([1, 4, 1, 8])
        ),
        Err(KernelError::Shape {
            operand: "own key",
            ..
        })
    ));
}
