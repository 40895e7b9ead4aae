//! Norms and the residuals before them.

use cubecl::prelude::*;
use cubecl_kernels::norm::{AddNorm, Affine, Norm, Residual, add_norm};
use cubecl_kernels::{KernelError, Strategy};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::harness::blocks::Blocks;
use crate::harness::clients::on_every_device;
use crate::harness::compare::{FORWARD, assert_close};
use crate::harness::dtype::Dtype;
use crate::setting::Setting;

on_every_device! {
    norms_match_the_reference_with_every_residual_and_affine_map
    a_row_of_many_features_is_normalized
    shapes_that_do_not_fit_are_errors
}

const EPSILON: f64 = 1e-5;

/// What a run has beside its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    norm: Norm,
    residual: bool,
    gate: bool,
    affine: AffineKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AffineKind {
    None,
    Scale,
    ScaleAndShift,
    Modulated,
}

/// Sum and normalized sum by the formulas, each step rounded by `round`.
fn by_formula(
    [batch, tokens, features]: [usize; 3],
    data: &Data,
    kind: Kind,
    dtype: Dtype,
    round: impl Fn(f64) -> f64,
) -> [Vec<f64>; 2] {
    let (mut sums, mut normed) = (Vec::new(), Vec::new());
    for b in 0..batch {
        for t in 0..tokens {
            let row: Vec<f64> = (0..features)
                .map(|c| {
                    let mut sum = data.input.at(b, t, c);
                    if kind.residual {
                        let mut more = data.residual.at(b, t, c);
                        if kind.gate {
                            more *= data.gate.at(0, b, c);
                        }
                        // The sum is stored.
                        sum = dtype.round(sum + more);
                    }
                    sum
                })
                .collect();
            let mean = match kind.norm {
                Norm::Rms => 0.0,
                Norm::Layer => row.iter().sum::<f64>() / features as f64,
            };
            let square: f64 = row.iter().map(|x| (x - mean) * (x - mean)).sum();
            let deviation = (square / features as f64 + EPSILON).sqrt();
            normed.extend(row.iter().enumerate().map(|(c, x)| {
                let y = round((x - mean) / deviation);
                let (scale, shift) = (&data.scale, &data.shift);
                round(match kind.affine {
                    AffineKind::None => y,
                    AffineKind::Scale => y * scale.at(0, 0, c),
                    AffineKind::ScaleAndShift => y * scale.at(0, 0, c) + shift.at(0, 0, c),
                    AffineKind::Modulated => y * (1.0 + scale.at(0, b, c)) + shift.at(0, b, c),
                })
            }));
            sums.extend(row);
        }
    }
    [sums, normed]
}

struct Data {
    input: Blocks,
    residual: Blocks,
    gate: Blocks,
    scale: Blocks,
    shift: Blocks,
}

fn check<R: Runtime>(client: &ComputeClient<R>, sizes: [usize; 3], dtype: Dtype, kind: Kind) {
    let [batch, _, features] = sizes;
    let rng = &mut StdRng::seed_from_u64(11);
    let modulated = kind.affine == AffineKind::Modulated;
    // Scale and shift of each feature are f32.
    let affine_dtype = if modulated { dtype } else { Dtype::F32 };
    let data = Data {
        input: Blocks::random(sizes, dtype, rng),
        residual: Blocks::random(sizes, dtype, rng),
        gate: Blocks::random([1, batch, features], dtype, rng),
        scale: Blocks::random([1, batch, features], affine_dtype, rng),
        shift: Blocks::random([1, batch, features], affine_dtype, rng),
    };
    let setting = Setting::plain(dtype, Strategy::Auto);
    let single = Setting::plain(Dtype::F32, Strategy::Auto);
    let (sum, output) = (
        setting.output(client, &sizes),
        setting.output(client, &sizes),
    );
    let of_batch = |values: &Blocks| setting.input(client, &[batch, features], &values.values);
    let of_features =
        |values: &Blocks| single.input(client, &[features], &values.values[..features]);
    let operands = AddNorm {
        input: setting.input(client, &sizes, &data.input.values),
        residual: kind.residual.then(|| Residual {
            residual: setting.input(client, &sizes, &data.residual.values),
            gate: kind.gate.then(|| of_batch(&data.gate)),
            sum: sum.binding(),
        }),
        affine: match kind.affine {
            AffineKind::None => Affine::Features {
                scale: None,
                shift: None,
            },
            AffineKind::Scale => Affine::Features {
                scale: Some(of_features(&data.scale)),
                shift: None,
            },
            AffineKind::ScaleAndShift => Affine::Features {
                scale: Some(of_features(&data.scale)),
                shift: Some(of_features(&data.shift)),
            },
            AffineKind::Modulated => Affine::Modulated {
                scale: of_batch(&data.scale),
                shift: of_batch(&data.shift),
            },
        },
        output: output.binding(),
    };
    if !setting.ran(add_norm(client, operands, kind.norm, EPSILON, dtype.elem())) {
        return;
    }
    let what = format!("{dtype:?} {sizes:?} {kind:?}");
    let [sums, expected] = by_formula(sizes, &data, kind, dtype, |value| value);
    let [_, composed] = by_formula(sizes, &data, kind, dtype, |value| dtype.round(value));
    assert_close(&what, &output.read(client), &expected, &composed, FORWARD);
    if kind.residual {
        // Sums of f32 round on the way as well: a step of the element type.
        let found = sum.read(client);
        let step = match dtype {
            Dtype::F32 | Dtype::Tf32 => 1e-6,
            Dtype::F16 => 2e-3,
            Dtype::Bf16 => 1.6e-2,
        };
        for (found, expected) in found.iter().zip(&sums) {
            assert!(
                (found - expected).abs() <= step,
                "{what}: {found} {expected}"
            );
        }
    }
}

fn norms_match_the_reference_with_every_residual_and_affine_map<R: Runtime>(
    client: &ComputeClient<R>,
) {
    for dtype in Dtype::ALL {
        for sizes in [[2, 3, 64], [1, 5, 77], [3, 1, 768]] {
            for norm in [Norm::Rms, Norm::Layer] {
                for affine in [
                    AffineKind::None,
                    AffineKind::Scale,
                    AffineKind::ScaleAndShift,
                    AffineKind::Modulated,
                ] {
                    for (residual, gate) in [(false, false), (true, false), (true, true)] {
                        let kind = Kind {
                            norm,
                            residual,
                            gate,
                            affine,
                        };
                        check(client, sizes, dtype, kind);
                    }
                }
            }
        }
    }
}

fn a_row_of_many_features_is_normalized<R: Runtime>(client: &ComputeClient<R>) {
    let kind = Kind {
        norm: Norm::Layer,
        residual: true,
        gate: false,
        affine: AffineKind::ScaleAndShift,
    };
    for features in [4096, 11008, 3001] {
        check(client, [1, 2, features], Dtype::F32, kind);
    }
}

fn shapes_that_do_not_fit_are_errors<R: Runtime>(client: &ComputeClient<R>) {
    let setting = Setting::plain(Dtype::F32, Strategy::Auto);
    let tensor = |shape: &[usize]| setting.output(client, shape).binding();
    let run = |operands| add_norm(client, operands, Norm::Rms, EPSILON, Dtype::F32.elem());
    let none = Affine::Features {
        scale: None,
        shift: None,
    };
    let other_output = AddNorm {
        input: tensor(&[2, 3, 8]),
        residual: None,
        affine: none,
        output: tensor(&[2, 3, 9]),
    };
    assert!(matches!(
        run(other_output),
        Err(KernelError::Shape {
            operand: "output",
            ..
        })
    ));
    let other_scale = AddNorm {
        input: tensor(&[2, 3, 8]),
        residual: None,
        affine: Affine::Modulated {
            scale: tensor(&[3, 8]),
            shift: tensor(&[2, 8]),
        },
        output: tensor(&[2, 3, 8]),
    };
    assert!(matches!(
        run(other_scale),
        Err(KernelError::Shape {
            operand: "scale",
            ..
        })
    ));
}
