//! The factorisations against what linear algebra says about them.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that cannot go on fails, and tests have no documentation"
)]

#[path = "harness/devices.rs"]
mod devices;
#[path = "harness/numpy_random.rs"]
mod numpy_random;

use burn::tensor::{Device, Tensor, TensorData};
use burn_blr::{OutputOrder, Structure};
use devices::{cuda, devices};
use faer::{Mat, MatRef};
use numpy_random::{NumpyRng, spectrum_matrix};
use rstest::rstest;
use training::{BlastOptions, Factorization, factorize};

const BLAST: BlastOptions = BlastOptions {
    max_sweeps: 30,
    tolerance: 0.0,
};

fn weight(entries: &[f32], rows: usize, columns: usize, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(entries.to_vec(), [rows, columns]), device)
}

fn run(weight: Tensor<2>, structure: Structure, options: &BlastOptions) -> Factorization {
    factorize(weight, structure, options, &mut |_, _| {}).unwrap()
}

/// Sum of the squares of all singular values but the first `rank`.
fn tail(matrix: MatRef<'_, f64>, rank: usize) -> f64 {
    let values = matrix.singular_values().unwrap();
    values.iter().skip(rank).map(|value| value * value).sum()
}

fn wide(entries: &[f32], rows: usize, columns: usize) -> Mat<f64> {
    Mat::from_fn(rows, columns, |row, column| {
        f64::from(entries[row * columns + column])
    })
}

/// The published method reaches 0.431 after 20 and 0.296 after 100 iterations on the first matrix,
/// 0.453 and 0.312 on the second (its own code, f32, delta 0.1).
#[rstest]
#[case::power_law(0, 100, 0.278, &[(1, 0.267), (20, 0.226), (100, 0.205)])]
#[case::with_blocks_of_their_own(16, 20, 0.349, &[(1, 0.332), (20, 0.262)])]
fn blast_falls_below_low_rank_and_never_rises(
    #[case] blocks_of_their_own: usize,
    #[case] max_sweeps: usize,
    #[case] start: f64,
    #[case] at_most: &[(usize, f64)],
) {
    let entries = spectrum_matrix(1024, 1024, 0.5, 7, blocks_of_their_own);
    let weight = weight(&entries, 1024, 1024, &Device::flex());
    let structure = Structure::Blast {
        blocks: 16,
        rank: 256,
    };
    let options = BlastOptions {
        max_sweeps,
        tolerance: 0.0,
    };
    let found = run(weight, structure, &options);
    assert!(
        (found.history[0] - start).abs() < 1e-3,
        "starts at {}",
        found.history[0]
    );
    for pair in found.history.windows(2) {
        assert!(
            pair[1] < pair[0],
            "the error rises from {} to {}",
            pair[0],
            pair[1]
        );
    }
    for &(sweep, limit) in at_most {
        let error = found.history[sweep];
        eprintln!("error {error:.4} after {sweep} sweeps");
        assert!(
            error <= limit,
            "{error} after {sweep} sweeps, expected at most {limit}"
        );
    }
    let last = found.history[found.history.len() - 1];
    assert!(
        (found.relative_error - last).abs() < 1e-5,
        "{} {last}",
        found.relative_error
    );
}

#[test]
fn low_rank_and_monarch_reach_the_bound_of_eckart_and_young() {
    let (rows, columns, blocks) = (60, 84, 3);
    let entries = NumpyRng::new(3).standard_normal_f32(rows * columns);
    let exact = wide(&entries, rows, columns);
    let norm = tail(exact.as_ref(), 0);
    for device in devices() {
        let weight = weight(&entries, rows, columns, &device);
        let found = run(weight.clone(), Structure::LowRank { rank: 17 }, &BLAST);
        let bound = (tail(exact.as_ref(), 17) / norm).sqrt();
        assert!(
            (found.relative_error - bound).abs() < 1e-5,
            "{}",
            found.relative_error
        );

        for order in [OutputOrder::Contiguous, OutputOrder::Interleaved] {
            let (height, width) = (rows / blocks, columns / blocks);
            let mut left_over = 0.0;
            for j in 0..blocks {
                for i in 0..blocks {
                    let block = Mat::from_fn(height, width, |row, column| {
                        let row = match order {
                            OutputOrder::Contiguous => j * height + row,
                            OutputOrder::Interleaved => row * blocks + j,
                        };
                        exact[(row, i * width + column)]
                    });
                    left_over += tail(block.as_ref(), 4);
                }
            }
            let structure = Structure::Monarch {
                blocks,
                rank: 12,
                order,
            };
            let found = run(weight.clone(), structure, &BLAST);
            let bound = (left_over / norm).sqrt();
            let error = found.relative_error;
            assert!(
                (error - bound).abs() < 1e-5,
                "{order:?}: {error} against {bound}"
            );
        }
    }
}

#[rstest]
#[case::wide(24, 96, 4, 7)]
#[case::tall(96, 24, 4, 7)]
#[case::one_block(30, 42, 1, 5)]
#[case::blocks_of_one_row(8, 40, 8, 3)]
#[case::full_rank(12, 18, 3, 12)]
fn blast_is_at_least_as_good_as_low_rank_of_its_rank(
    #[case] rows: usize,
    #[case] columns: usize,
    #[case] blocks: usize,
    #[case] rank: usize,
) {
    let entries = NumpyRng::new(11).standard_normal_f32(rows * columns);
    for device in devices() {
        let weight = weight(&entries, rows, columns, &device);
        let low_rank = run(weight.clone(), Structure::LowRank { rank }, &BLAST);
        let blast = run(weight, Structure::Blast { blocks, rank }, &BLAST);
        assert!(
            blast.relative_error <= low_rank.relative_error + 1e-6,
            "{} against {}",
            blast.relative_error,
            low_rank.relative_error
        );
        assert!(blast.history.windows(2).all(|pair| pair[1] < pair[0]));
    }
}

#[test]
fn weights_that_are_zero_or_of_low_rank_are_met_exactly() {
    let device = Device::flex();
    let zero = weight(&vec![0.0; 32 * 16], 32, 16, &device);
    let left = NumpyRng::new(1).standard_normal_f32(32 * 3);
    let right = NumpyRng::new(2).standard_normal_f32(3 * 16);
    let product = weight(&left, 32, 3, &device).matmul(weight(&right, 3, 16, &device));
    for structure in [
        Structure::LowRank { rank: 4 },
        Structure::Monarch {
            blocks: 4,
            rank: 12,
            order: OutputOrder::Contiguous,
        },
        Structure::Blast { blocks: 4, rank: 4 },
    ] {
        let found = run(zero.clone(), structure, &BLAST);
        assert_eq!(found.relative_error, 0.0, "{structure}");
        let entries = found.layer.to_dense().try_into_vec_as::<f32>().unwrap();
        assert!(entries.iter().all(|entry| *entry == 0.0), "{structure}");
        let found = run(product.clone(), structure, &BLAST);
        assert!(
            found.relative_error < 1e-5,
            "{structure}: {}",
            found.relative_error
        );
    }
}

#[test]
fn the_same_weight_gives_the_same_factors() {
    let entries = NumpyRng::new(5).standard_normal_f32(64 * 48);
    for structure in [
        Structure::LowRank { rank: 9 },
        Structure::Monarch {
            blocks: 4,
            rank: 12,
            order: OutputOrder::Contiguous,
        },
        Structure::Blast { blocks: 4, rank: 9 },
    ] {
        let dense = || {
            let weight = weight(&entries, 64, 48, &Device::flex());
            run(weight, structure, &BLAST)
                .layer
                .to_dense()
                .try_into_vec_as::<f32>()
                .unwrap()
        };
        assert_eq!(dense(), dense(), "{structure}");
    }
}

#[test]
fn a_gpu_finds_factors_as_good_as_the_cpu_does() {
    let Some(gpu) = cuda() else { return };
    let entries = spectrum_matrix(256, 384, 0.5, 7, 4);
    let structure = Structure::Blast {
        blocks: 8,
        rank: 48,
    };
    let cpu = run(
        weight(&entries, 256, 384, &Device::flex()),
        structure,
        &BLAST,
    );
    let gpu = run(weight(&entries, 256, 384, &gpu), structure, &BLAST);
    for (sweep, (cpu, gpu)) in cpu.history.iter().zip(&gpu.history).enumerate() {
        assert!(
            (cpu - gpu).abs() < 1e-3 * cpu,
            "sweep {sweep}: {cpu} against {gpu}"
        );
    }
}
