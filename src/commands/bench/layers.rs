//! `blr bench layers`.

use std::time::Instant;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Distribution, Tensor};
use burn_blr::{BlrLinear, Method, Structure};
use serde::Serialize;

use super::catalogue::{LAYERS, Layer};
use super::reference;
use crate::arguments::{BenchLayersArguments, Common};
use crate::device::ChosenDevice;
use crate::error::CommandError;
use crate::output::{self, Table};

/// Copies of weights and inputs that repetitions take turns with hold at least this much, so that
/// none is found in a cache: the largest L2 of the GPUs at hand has 60 MB.
const ROTATED_BYTES: usize = 128 << 20;

/// Repetitions that share one synchronisation. On a GPU the wait for the last of them costs tens
/// of microseconds, which would drown a short layer.
const BATCH: usize = 10;

/// Repetitions before the first that counts: kernels are compiled and tuned in them.
const WARM_UP: usize = 5;

#[derive(Serialize)]
struct Report {
    device: String,
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    layer: &'static str,
    method: String,
    tokens: usize,
    #[serde(rename = "in")]
    in_features: usize,
    #[serde(rename = "out")]
    out_features: usize,
    blocks: usize,
    rank: usize,
    dtype: &'static str,
    kernel: &'static str,
    median_us: f64,
    min_us: f64,
    max_us: f64,
    tflops: f64,
    gbps: f64,
    /// The roofline, where the ceilings of the device are known.
    limit_us: Option<f64>,
    share_of_limit: Option<f64>,
    rel_err: f64,
    host_us: f64,
}

pub fn run(common: &Common, arguments: &BenchLayersArguments) -> Result<(), CommandError> {
    let methods = methods(&arguments.methods)?;
    if arguments.reps == 0 || arguments.tokens.contains(&0) {
        return Err(CommandError::Flag {
            flag: if arguments.reps == 0 {
                "reps"
            } else {
                "tokens"
            },
            found: "0".to_string(),
            expected: "at least 1".to_string(),
        });
    }
    let layers: Vec<&Layer> = match &arguments.layer {
        None => LAYERS.iter().collect(),
        Some(text) => LAYERS
            .iter()
            .filter(|layer| layer.name.contains(text))
            .collect(),
    };
    if layers.is_empty() {
        return Err(CommandError::Flag {
            flag: "layer",
            found: arguments.layer.clone().unwrap_or_default(),
            expected: format!(
                "part of one of {}",
                LAYERS.map(|layer| layer.name).join(", ")
            ),
        });
    }
    let chosen = common.choose_device()?;
    let mut rows = Vec::new();
    for layer in layers {
        let mut tokens = match arguments.tokens.as_slice() {
            [] => vec![1, 16, layer.tokens],
            tokens => tokens.to_vec(),
        };
        tokens.dedup();
        for tokens in tokens {
            for &method in &methods {
                let bench = Bench {
                    layer,
                    method,
                    tokens,
                    chosen: &chosen,
                    common,
                };
                rows.push(bench.row(arguments.reps)?);
                if let Some(row) = rows.last() {
                    output::line(format_args!(
                        "{:28} {:>6} tokens  {:9} {:>10.1} us",
                        row.layer, row.tokens, row.method, row.median_us
                    ));
                }
            }
        }
    }
    let report = Report {
        device: chosen.name.clone(),
        rows,
    };
    output::print(format_args!("\n{}", table(&report).text()));
    output::write_json(common.json.as_deref(), &report)
}

fn methods(names: &[String]) -> Result<Vec<Option<Method>>, CommandError> {
    if names.is_empty() {
        let compressed = Method::ALL.into_iter().map(Some);
        return Ok(std::iter::once(None).chain(compressed).collect());
    }
    let method = |name: &String| match name.as_str() {
        "dense" => Ok(None),
        name => name.parse().map(Some).map_err(|_| CommandError::Flag {
            flag: "methods",
            found: name.to_string(),
            expected: "dense, low-rank, monarch or blast".to_string(),
        }),
    };
    names.iter().map(method).collect()
}

/// One row to be measured.
struct Bench<'a> {
    layer: &'static Layer,
    method: Option<Method>,
    tokens: usize,
    chosen: &'a ChosenDevice,
    common: &'a Common,
}

impl Bench<'_> {
    fn row(&self, reps: usize) -> Result<Row, CommandError> {
        let structure = self.layer.structure(self.method);
        let (inputs, outputs) = (self.layer.in_features, self.layer.out_features);
        let bytes = self.compulsory_bytes(&structure);
        let copies = ROTATED_BYTES.div_ceil(bytes).clamp(2, 64);
        let operands: Vec<(BlrLinear, Tensor<2>)> = (0..copies)
            .map(|_| self.operands(structure))
            .collect::<Result<_, _>>()?;
        let device = &self.chosen.device;
        for (layer, input) in operands.iter().cycle().take(WARM_UP.max(copies)) {
            layer.forward(input.clone());
        }
        sync(device)?;

        let (mut device_us, mut host_us) = (Vec::new(), Vec::new());
        let mut turn = operands.iter().cycle();
        let mut last = None;
        for _ in 0..reps.div_ceil(BATCH).max(5) {
            let started = Instant::now();
            for (layer, input) in turn.by_ref().take(BATCH) {
                last = Some((layer, input, layer.forward(input.clone())));
            }
            host_us.push(started.elapsed().as_secs_f64() * 1e6 / BATCH as f64);
            sync(device)?;
            device_us.push(started.elapsed().as_secs_f64() * 1e6 / BATCH as f64);
        }
        let rel_err = match &last {
            Some((layer, input, output)) => reference::relative_error(layer, input, output)?,
            None => f64::NAN,
        };
        device_us.sort_by(f64::total_cmp);
        host_us.sort_by(f64::total_cmp);
        let median_us = device_us[device_us.len() / 2];
        let flops = structure.flops(self.tokens, inputs, outputs) as f64;
        Ok(Row {
            layer: self.layer.name,
            method: self.method.map_or("dense", Method::as_str).to_string(),
            tokens: self.tokens,
            in_features: inputs,
            out_features: outputs,
            blocks: structure.blocks(),
            rank: structure.rank().unwrap_or(inputs.min(outputs)),
            dtype: self.common.dtype.as_str(),
            kernel: if self.method.is_none() {
                "burn"
            } else {
                "auto"
            },
            median_us,
            min_us: device_us[0],
            max_us: device_us[device_us.len() - 1],
            tflops: flops / median_us / 1e6,
            gbps: bytes as f64 / median_us / 1e3,
            limit_us: None,
            share_of_limit: None,
            rel_err,
            host_us: host_us[host_us.len() / 2],
        })
    }

    /// Bytes that must move: weights and input read once, output written once.
    fn compulsory_bytes(&self, structure: &Structure) -> usize {
        let (inputs, outputs) = (self.layer.in_features, self.layer.out_features);
        let elements = structure.parameters(inputs, outputs) + self.tokens * (inputs + outputs);
        elements * burn::tensor::DType::from(self.chosen.dtype).size()
    }

    /// A layer without bias and an input, random.
    fn operands(&self, structure: Structure) -> Result<(BlrLinear, Tensor<2>), CommandError> {
        let (inputs, outputs) = (self.layer.in_features, self.layer.out_features);
        let device = &self.chosen.device;
        let layer = BlrLinear::init(structure, inputs, outputs, false, device)?;
        let layer = layer.map(&mut CastTo(self.chosen.dtype));
        let input = Tensor::<2>::random(
            [self.tokens, inputs],
            Distribution::Normal(0.0, 1.0),
            device,
        );
        Ok((layer, input.cast(self.chosen.dtype)))
    }
}

struct CastTo(burn::tensor::FloatDType);

impl ModuleMapper for CastTo {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| tensor.cast(self.0))
    }
}

fn sync(device: &Device) -> Result<(), CommandError> {
    device.sync().map_err(|error| CommandError::Device {
        reason: format!("{error:?}"),
    })
}

fn table(report: &Report) -> Table {
    let mut table = Table::new([
        "layer",
        "tokens",
        "method",
        "median us",
        "min",
        "max",
        "TFLOP/s",
        "GB/s",
        "host us",
        "error",
    ]);
    for row in &report.rows {
        table.row([
            row.layer.to_string(),
            row.tokens.to_string(),
            row.method.clone(),
            format!("{:.1}", row.median_us),
            format!("{:.1}", row.min_us),
            format!("{:.1}", row.max_us),
            format!("{:.3}", row.tflops),
            format!("{:.1}", row.gbps),
            format!("{:.1}", row.host_us),
            format!("{:.1e}", row.rel_err),
        ]);
    }
    table
}
