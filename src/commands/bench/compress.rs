//! `blr bench compress`: the error of a BLAST factorisation over time.

use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use burn_blr::Structure;
use burn_blr::ops::exact_product;
use serde::Serialize;
use training::{BlastOptions, Products};

use crate::arguments::{BenchCompressArguments, Common};
use crate::device_timing::sync;
use crate::error::CommandError;
use crate::output::{self, Table};

/// Rank of the part that every block gets of its own.
const OWN_RANK: usize = 4;

#[derive(Serialize)]
struct Report {
    device: String,
    rows: usize,
    columns: usize,
    rank: usize,
    blocks: usize,
    solver: &'static str,
    exact: bool,
    runs: Vec<Run>,
}

/// One factorisation.
#[derive(Serialize)]
struct Run {
    /// From the weight on the device to the factors there, the error measured.
    seconds: f64,
    /// Of the factors, in exact `f32`.
    relative_error: f64,
    /// `[seconds since the beginning, relative error as the search measures it]`, the start first.
    curve: Vec<(f64, f64)>,
}

pub fn run(common: &Common, arguments: &BenchCompressArguments) -> Result<(), CommandError> {
    let structure = Structure::Blast {
        blocks: arguments.blocks,
        rank: arguments.rank,
    };
    structure.validate(arguments.columns, arguments.rows)?;
    let chosen = common.choose_device()?;
    let weight = matrix(arguments, &chosen.device);
    let options = BlastOptions {
        solver: arguments.solver.into(),
        max_steps: arguments.steps,
        tolerance: 0.0,
        products: if arguments.exact {
            Products::Exact
        } else {
            Products::Device
        },
    };
    let bar = output::progress(arguments.repeat * arguments.steps);
    let mut runs = vec![];
    for _ in 0..arguments.repeat {
        sync(&chosen.device)?;
        let started = Instant::now();
        let mut curve = vec![];
        let mut on_step = |_, error| {
            curve.push((started.elapsed().as_secs_f64(), error));
            bar.inc(1);
        };
        let found = training::factorize(weight.clone(), structure, &options, None, &mut on_step)?;
        sync(&chosen.device)?;
        runs.push(Run {
            seconds: started.elapsed().as_secs_f64(),
            relative_error: found.relative_error,
            curve,
        });
    }
    bar.finish_and_clear();
    let solver = arguments.solver.as_str();
    output::line(format_args!(
        "{} x {}, rank {}, {} blocks, {solver}, on {}",
        arguments.rows, arguments.columns, arguments.rank, arguments.blocks, chosen.name
    ));
    for run in &runs {
        output::print(table(run).text());
        output::line(format_args!(
            "{:.2} s in all, relative error {:.4}",
            run.seconds, run.relative_error
        ));
    }
    let report = Report {
        device: chosen.name,
        rows: arguments.rows,
        columns: arguments.columns,
        rank: arguments.rank,
        blocks: arguments.blocks,
        solver,
        exact: arguments.exact,
        runs,
    };
    output::write_json(common.json.as_deref(), &report)
}

/// `Σ_k k^-0.5 u_k v_kᵀ` with normal `u_k`, `v_k`, as many as it takes for full rank; with
/// `--own-parts` plus half a product of rank 4 in every block.
fn matrix(arguments: &BenchCompressArguments, device: &Device) -> Tensor<2> {
    let (rows, columns, blocks) = (arguments.rows, arguments.columns, arguments.blocks);
    let normal = |shape: [usize; 3]| -> Tensor<3> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
    };
    let full = rows.min(columns);
    let values = Tensor::<1, burn::tensor::Int>::arange(1..full as i64 + 1, device);
    let values = values.float().sqrt().recip().reshape([1, 1, full]);
    let matrix = exact_product(normal([1, rows, full]) * values, normal([1, full, columns]));
    let matrix = matrix.reshape([rows, columns]);
    if !arguments.own_parts {
        return matrix;
    }
    let (block_out, block_in) = (rows / blocks, columns / blocks);
    let left = normal([blocks * blocks, block_out, OWN_RANK]);
    let right = normal([blocks * blocks, OWN_RANK, block_in]);
    let own: Tensor<4> = exact_product(left, right).reshape([blocks, blocks, block_out, block_in]);
    matrix + own.swap_dims(1, 2).reshape([rows, columns]) * 0.5
}

/// Steps at 0, 1, 2, 5, 10, 20, 50 and so on, and the last.
fn table(run: &Run) -> Table {
    let mut table = Table::new(["step", "seconds", "error"]);
    let last = run.curve.len().saturating_sub(1);
    for (step, (seconds, error)) in run.curve.iter().enumerate() {
        let mut leading = step;
        while leading >= 10 && leading.is_multiple_of(10) {
            leading /= 10;
        }
        if matches!(leading, 0 | 1 | 2 | 5) || step == last {
            table.row([
                step.to_string(),
                format!("{seconds:.3}"),
                format!("{error:.4}"),
            ]);
        }
    }
    table
}
