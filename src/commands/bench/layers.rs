//! `blr bench layers`.

use burn::tensor::Tensor;
use burn_blr::{BlrLinear, Method, Structure};
use serde::Serialize;

use super::catalogue::{self, LAYERS, Layer};
use super::{operands, reference};
use crate::arguments::{BenchLayersArguments, Common, Dtype, TokenCount};
use crate::device::ChosenDevice;
use crate::device_timing::{self, Clock, Work};
use crate::error::CommandError;
use crate::output::{self, Table};
use crate::roofline::{Ceilings, Precision};

#[derive(Serialize)]
struct Report {
    device: String,
    rows: Vec<Row>,
}

/// One layer at one token count by one method.
#[derive(Serialize)]
struct Row {
    layer: &'static str,
    method: &'static str,
    tokens: usize,
    #[serde(rename = "in")]
    in_features: usize,
    #[serde(rename = "out")]
    out_features: usize,
    blocks: usize,
    rank: usize,
    dtype: &'static str,
    kernel: &'static str,
    timing: Clock,
    /// Why it is not `graph`, where that was tried.
    no_graph: Option<String>,
    /// Of the device, for one call.
    median_us: f64,
    min_us: f64,
    max_us: f64,
    tflops: f64,
    /// Compulsory traffic: weights and input read once, output written once.
    gbps: f64,
    /// The roofline, where the ceilings of the device are known.
    limit_us: Option<f64>,
    share_of_limit: Option<f64>,
    limit_source: Option<&'static str>,
    rel_err: f64,
    host_us: f64,
    graph_host_us: Option<f64>,
}

pub fn run(common: &Common, arguments: &BenchLayersArguments) -> Result<(), CommandError> {
    let methods = methods(&arguments.methods)?;
    if arguments.reps == 0 {
        return Err(CommandError::Flag {
            flag: "reps",
            found: "0".to_string(),
            expected: "at least 1".to_string(),
        });
    }
    let layers = chosen_layers(&arguments.layer)?;
    if arguments.list {
        output::print(catalogue::table(&layers).text());
        return output::write_json(common.json.as_deref(), &catalogue::listing(&layers));
    }
    let chosen = common.choose_device()?;
    let mut report = Report {
        device: chosen.name.clone(),
        rows: Vec::new(),
    };
    for layer in layers {
        let count = |tokens: &TokenCount| match tokens {
            TokenCount::Paper => layer.tokens,
            TokenCount::Count(count) => *count,
        };
        let mut tokens: Vec<usize> = arguments.tokens.iter().map(count).collect();
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
                let row = bench.row(arguments.reps)?;
                output::line(format_args!(
                    "{:28} {:>6} tokens  {:9} {:>10.1} us",
                    row.layer, row.tokens, row.method, row.median_us
                ));
                report.rows.push(row);
                // What is there stays there when a long run is cut off.
                output::write_json(common.json.as_deref(), &report)?;
            }
        }
    }
    output::print(format_args!("\n{}", table(&report).text()));
    let wrong: Vec<String> = report
        .rows
        .iter()
        .filter(|row| !row.rel_err.is_finite())
        .map(|row| format!("{} {} at {} tokens", row.method, row.layer, row.tokens))
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(CommandError::Device {
        reason: format!("not a number came out of {}", wrong.join(", ")),
    })
}

/// The layers whose name contains one of `texts`, or all where there is none.
fn chosen_layers(texts: &[String]) -> Result<Vec<&'static Layer>, CommandError> {
    let names = || LAYERS.iter().map(|layer| layer.name);
    if let Some(text) = texts
        .iter()
        .find(|text| !names().any(|name| name.contains(text.as_str())))
    {
        return Err(CommandError::Flag {
            flag: "layer",
            found: text.clone(),
            expected: format!("part of one of {}", names().collect::<Vec<_>>().join(", ")),
        });
    }
    let chosen = |layer: &&Layer| {
        texts.is_empty() || texts.iter().any(|text| layer.name.contains(text.as_str()))
    };
    Ok(LAYERS.iter().filter(chosen).collect())
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
        let forwards = Forwards {
            operands: (0..operands::copies(bytes))
                .map(|_| {
                    let (dtype, device) = (self.chosen.dtype, &self.chosen.device);
                    operands::random(structure, (inputs, outputs), self.tokens, dtype, device)
                })
                .collect::<Result<_, _>>()?,
        };
        device_timing::sync(&self.chosen.device)?;
        let timing = device_timing::time(self.chosen, &forwards, reps)?;
        let (index, output) = timing.last;
        let (layer, input) = &forwards.operands[index];
        let rel_err = reference::relative_error(layer, input, &output)?;
        drop((output, forwards));
        self.chosen.device.memory_cleanup();

        let flops = structure.flops(self.tokens, inputs, outputs) as f64;
        let ceilings = Ceilings::of(&self.chosen.name);
        let limit_us =
            ceilings.map(|ceilings| ceilings.limit_us(flops, bytes as f64, self.precision()));
        Ok(Row {
            layer: self.layer.name,
            method: self.method.map_or("dense", Method::as_str),
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
            timing: timing.clock,
            no_graph: timing.no_graph,
            median_us: timing.median_us,
            min_us: timing.min_us,
            max_us: timing.max_us,
            tflops: flops / timing.median_us / 1e6,
            gbps: bytes as f64 / timing.median_us / 1e3,
            limit_us,
            share_of_limit: limit_us.map(|limit| limit / timing.median_us),
            limit_source: ceilings.map(Ceilings::source),
            rel_err,
            host_us: timing.host_us,
            graph_host_us: timing.graph_host_us,
        })
    }

    /// Bytes that must move: weights and input read once, output written once.
    fn compulsory_bytes(&self, structure: &Structure) -> usize {
        let (inputs, outputs) = (self.layer.in_features, self.layer.out_features);
        let elements = structure.parameters(inputs, outputs) + self.tokens * (inputs + outputs);
        elements * burn::tensor::DType::from(self.chosen.dtype).size()
    }

    /// Burn's dense products round f32 operands to tf32 on a GPU; ours do not.
    fn precision(&self) -> Precision {
        match (self.common.dtype, self.method) {
            (Dtype::F16 | Dtype::Bf16, _) => Precision::Half,
            (Dtype::F32, None) => Precision::Tf32,
            (Dtype::F32, Some(_)) => Precision::F32,
        }
    }
}

/// Forward passes, each of a layer of its own on an input of its own.
struct Forwards {
    operands: Vec<(BlrLinear, Tensor<2>)>,
}

impl Work for Forwards {
    type Result = Tensor<2>;

    fn calls(&self) -> usize {
        self.operands.len()
    }

    fn call(&self, index: usize) -> Tensor<2> {
        let (layer, input) = &self.operands[index];
        layer.forward(input.clone())
    }

    fn spoil(&self, output: &Tensor<2>) {
        burn_blr::cuda::overwrite_with_nan(output.clone());
    }
}

fn table(report: &Report) -> Table {
    let mut table = Table::new([
        "layer",
        "tokens",
        "method",
        "timing",
        "median us",
        "min",
        "max",
        "TFLOP/s",
        "GB/s",
        "of limit",
        "host us",
        "error",
    ]);
    for row in &report.rows {
        table.row([
            row.layer.to_string(),
            row.tokens.to_string(),
            row.method.to_string(),
            row.timing.as_str().to_string(),
            format!("{:.1}", row.median_us),
            format!("{:.1}", row.min_us),
            format!("{:.1}", row.max_us),
            format!("{:.3}", row.tflops),
            format!("{:.1}", row.gbps),
            row.share_of_limit
                .map_or_else(String::new, |share| format!("{:.0}%", 100.0 * share)),
            format!("{:.1}", row.host_us),
            format!("{:.1e}", row.rel_err),
        ]);
    }
    table
}
