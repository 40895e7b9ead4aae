//! `blr roofline`.

mod chart;
mod measured;

use std::path::Path;

use burn_blr::{Method, OutputOrder, Structure};
use models::default_blocks;
use serde::Serialize;

use super::bench::catalogue;
use super::bench::methods::methods;
use crate::arguments::{Common, Dtype, RooflineArguments, TokenCount};
use crate::error::CommandError;
use crate::output::{self, Table};
use crate::roofline::{Bound, Ceilings, Demand, Precision};
use measured::Measured;

/// The device where none is named and nothing was measured.
const DEFAULT_GPU: &str = "h100";

#[derive(Serialize)]
struct Report {
    gpus: Vec<Gpu>,
    rows: Vec<Row>,
}

/// The ceilings that a limit follows from.
#[derive(Serialize)]
struct Gpu {
    gpu: &'static str,
    name: &'static str,
    half_tflops: f64,
    tf32_tflops: f64,
    f32_tflops: f64,
    memory_tbps: f64,
    source: &'static str,
    sheet: &'static str,
}

/// One layer by one method on one GPU.
#[derive(Serialize)]
struct Row {
    gpu: &'static str,
    layer: String,
    method: &'static str,
    tokens: usize,
    #[serde(rename = "in")]
    in_features: usize,
    #[serde(rename = "out")]
    out_features: usize,
    blocks: usize,
    rank: usize,
    dtype: &'static str,
    flops: f64,
    bytes: f64,
    /// FLOPs for each byte.
    intensity: f64,
    limit_us: f64,
    /// The rate at the limit.
    limit_tflops: f64,
    bound: Bound,
    measured_us: Option<f64>,
    share_of_limit: Option<f64>,
    #[serde(skip)]
    precision: Precision,
}

pub fn run(common: &Common, arguments: &RooflineArguments) -> Result<(), CommandError> {
    let methods = methods(&arguments.methods)?;
    let measured = match &arguments.measured {
        None => None,
        Some(path) => {
            let measured = Measured::read(path)?;
            let of = measured.ceilings(path)?;
            Some((path.as_path(), measured, of))
        }
    };
    let gpus = gpus(&arguments.gpu, measured.as_ref().map(|(_, _, of)| *of))?;
    let cases = cases(arguments, &methods)?;
    let mut rows = Vec::new();
    for gpu in &gpus {
        let times = measured
            .as_ref()
            .filter(|(_, _, of)| of.key == gpu.key)
            .map(|(_, measured, _)| measured);
        rows.extend(cases.iter().map(|case| case.row(gpu, times, common.dtype)));
    }
    if let Some((path, ..)) = measured
        && rows.iter().all(|row| row.measured_us.is_none())
    {
        return Err(nothing_measured(path, common.dtype));
    }
    let report = Report {
        gpus: gpus.iter().map(|gpu| ceilings(gpu)).collect(),
        rows,
    };
    if let Some(path) = &arguments.svg {
        output::write_file(path, chart::draw(&gpus, &report.rows).as_bytes())?;
    }
    let table = table(&report);
    output::print(match arguments.markdown {
        true => table.markdown(),
        false => table.text(),
    });
    output::write_json(common.json.as_deref(), &report)
}

/// The GPUs of the flag, or else the one on which was measured.
fn gpus(
    keys: &[String],
    measured: Option<&'static Ceilings>,
) -> Result<Vec<&'static Ceilings>, CommandError> {
    let named = |key: &str| {
        Ceilings::named(key).ok_or_else(|| CommandError::Flag {
            flag: "gpu",
            found: key.to_string(),
            expected: format!("one of {}", Ceilings::keys().collect::<Vec<_>>().join(", ")),
        })
    };
    let mut gpus: Vec<&'static Ceilings> = Vec::new();
    for key in keys {
        let gpu = named(key)?;
        if !gpus.contains(&gpu) {
            gpus.push(gpu);
        }
    }
    if gpus.is_empty() {
        gpus.push(measured.map_or_else(|| named(DEFAULT_GPU), Ok)?);
    }
    Ok(gpus)
}

fn nothing_measured(path: &Path, dtype: Dtype) -> CommandError {
    CommandError::NotBenchReport {
        path: path.to_path_buf(),
        reason: format!(
            "no forward pass in {} of these layers, methods and tokens on this GPU that was right",
            dtype.as_str()
        ),
    }
}

fn ceilings(gpu: &Ceilings) -> Gpu {
    Gpu {
        gpu: gpu.key,
        name: gpu.name(),
        half_tflops: gpu.tflops(Precision::Half),
        tf32_tflops: gpu.tflops(Precision::Tf32),
        f32_tflops: gpu.tflops(Precision::F32),
        memory_tbps: gpu.memory_tbps,
        source: gpu.source(),
        sheet: gpu.sheet,
    }
}

/// A layer by a method at a token count.
struct Case {
    layer: String,
    structure: Structure,
    tokens: usize,
    widths: [usize; 2],
}

impl Case {
    fn row(&self, gpu: &Ceilings, measured: Option<&Measured>, dtype: Dtype) -> Row {
        let [inputs, outputs] = self.widths;
        let method = self.structure.method();
        let name = method.map_or("dense", Method::as_str);
        let demand = Demand::forward(&self.structure, self.tokens, self.widths, dtype.size());
        let precision = Precision::of(dtype, method.is_some());
        let limit = gpu.limit(&demand, precision);
        let measured_us =
            measured.and_then(|times| times.us(&self.layer, name, self.tokens, dtype.as_str()));
        Row {
            gpu: gpu.key,
            layer: self.layer.clone(),
            method: name,
            tokens: self.tokens,
            in_features: inputs,
            out_features: outputs,
            blocks: self.structure.blocks(),
            rank: self.structure.rank().unwrap_or(inputs.min(outputs)),
            dtype: dtype.as_str(),
            flops: demand.flops,
            bytes: demand.bytes,
            intensity: demand.intensity(),
            limit_us: limit.us,
            limit_tflops: demand.flops / limit.us / 1e6,
            bound: limit.bound,
            measured_us,
            share_of_limit: measured_us.map(|us| limit.us / us),
            precision,
        }
    }
}

/// What the flags name: a layer of its own widths, or layers of the catalogue.
fn cases(
    arguments: &RooflineArguments,
    methods: &[Option<Method>],
) -> Result<Vec<Case>, CommandError> {
    let (Some(inputs), Some(outputs)) = (arguments.in_features, arguments.out_features) else {
        return catalogue_cases(arguments, methods);
    };
    let mut cases = Vec::new();
    for &tokens in &arguments.tokens {
        let TokenCount::Count(tokens) = tokens else {
            return Err(CommandError::Flag {
                flag: "tokens",
                found: "paper".to_string(),
                expected: "counts, where --in and --out name the layer".to_string(),
            });
        };
        for &method in methods {
            let structure = own_structure(method, arguments, [inputs, outputs])?;
            cases.push(Case {
                layer: format!("{inputs} x {outputs}"),
                structure,
                tokens,
                widths: [inputs, outputs],
            });
        }
    }
    Ok(cases)
}

/// The structure of a layer that the catalogue does not have.
fn own_structure(
    method: Option<Method>,
    arguments: &RooflineArguments,
    [inputs, outputs]: [usize; 2],
) -> Result<Structure, CommandError> {
    let Some(method) = method else {
        return Ok(Structure::Dense);
    };
    let Some(rank) = arguments.rank else {
        return Err(CommandError::Flag {
            flag: "methods",
            found: method.as_str().to_string(),
            expected: "--rank beside --in and --out, or --methods dense".to_string(),
        });
    };
    let blocks = arguments
        .blocks
        .unwrap_or_else(|| default_blocks(method, inputs, outputs));
    let structure = match method {
        Method::LowRank => Structure::LowRank { rank },
        Method::Monarch => Structure::Monarch {
            blocks,
            rank,
            order: OutputOrder::Contiguous,
        },
        Method::Blast => Structure::Blast { blocks, rank },
    };
    structure.validate(inputs, outputs)?;
    Ok(structure)
}

fn catalogue_cases(
    arguments: &RooflineArguments,
    methods: &[Option<Method>],
) -> Result<Vec<Case>, CommandError> {
    let mut cases = Vec::new();
    for layer in catalogue::containing(&arguments.layer)? {
        let mut families = arguments.family.iter().map(|family| family.as_str());
        let of_family = families.any(|family| layer.name.starts_with(family));
        if !arguments.family.is_empty() && !of_family {
            continue;
        }
        for tokens in layer.token_counts(&arguments.tokens) {
            cases.extend(methods.iter().map(|&method| Case {
                layer: layer.name.to_string(),
                structure: layer.structure(method),
                tokens,
                widths: [layer.in_features, layer.out_features],
            }));
        }
    }
    match cases.is_empty() {
        false => Ok(cases),
        true => Err(CommandError::Flag {
            flag: "layer",
            found: arguments.layer.join(","),
            expected: "layers of the families of --family".to_string(),
        }),
    }
}

fn table(report: &Report) -> Table {
    let mut table = Table::new([
        "layer",
        "tokens",
        "method",
        "blocks",
        "rank",
        "GFLOP",
        "MB",
        "FLOP/byte",
        "GPU",
        "limit us",
        "bound by",
        "measured us",
        "of limit",
    ]);
    for row in &report.rows {
        let structured = row.method != "dense";
        let cell = |number: usize| match structured {
            true => number.to_string(),
            false => String::new(),
        };
        table.row([
            row.layer.clone(),
            row.tokens.to_string(),
            row.method.to_string(),
            cell(row.blocks),
            cell(row.rank),
            format!("{:.3}", row.flops / 1e9),
            format!("{:.2}", row.bytes / 1e6),
            format!("{:.1}", row.intensity),
            row.gpu.to_string(),
            format!("{:.2}", row.limit_us),
            row.bound.as_str().to_string(),
            row.measured_us
                .map_or_else(String::new, |us| format!("{us:.1}")),
            row.share_of_limit
                .map_or_else(String::new, |share| format!("{:.0}%", 100.0 * share)),
        ]);
    }
    table
}
