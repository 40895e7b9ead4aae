//! `blr bench layers`.

use burn_blr::{Method, Structure};
use serde::Serialize;

use super::catalogue::{self, LAYERS, Layer};
use super::methods::methods;
use super::passes::{self, Passes};
use super::{memory, operands};
use crate::arguments::{BenchLayersArguments, Common, Dtype, Pass, TokenCount};
use crate::device::ChosenDevice;
use crate::device_timing::{self, Clock};
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
    pass: &'static str,
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
    gbps: f64,
    /// Weights and input read once, output written once; for training, the gradients of all three
    /// as well.
    compulsory_bytes: usize,
    /// The roofline, where the ceilings of the device are known.
    limit_us: Option<f64>,
    share_of_limit: Option<f64>,
    limit_source: Option<&'static str>,
    rel_err: f64,
    host_us: f64,
    graph_host_us: Option<f64>,
    /// Weights, input, results and what is between, where the backend reports its memory.
    peak_bytes: Option<usize>,
    /// What a forward pass has to keep between its two products.
    intermediate_bytes: Option<usize>,
}

pub fn run(common: &Common, arguments: &BenchLayersArguments) -> Result<(), CommandError> {
    let ways = ways(&arguments.methods, arguments.plain)?;
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
            for &Way { method, plain } in &ways {
                let bench = Bench {
                    layer,
                    method,
                    plain,
                    pass: arguments.pass,
                    tokens,
                    chosen: &chosen,
                    common,
                };
                let row = bench.row(arguments.reps)?;
                output::line(format_args!(
                    "{:28} {:>6} tokens  {:9} {:6} {:>10.1} us",
                    row.layer, row.tokens, row.method, row.kernel, row.median_us
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
        .map(|row| {
            let (method, kernel, layer) = (row.method, row.kernel, row.layer);
            format!("{method} ({kernel}) {layer} at {} tokens", row.tokens)
        })
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

/// How a layer is computed.
#[derive(Clone, Copy)]
struct Way {
    /// Nothing for dense.
    method: Option<Method>,
    /// By plain operations of Burn.
    plain: bool,
}

/// The ways of the flags: a structure by its kernels, and then, where asked for, by plain Burn.
fn ways(names: &[String], plain: bool) -> Result<Vec<Way>, CommandError> {
    let methods = methods(names)?;
    let mut ways = Vec::new();
    for method in methods {
        ways.push(Way {
            method,
            plain: false,
        });
        if plain && method.is_some() {
            ways.push(Way {
                method,
                plain: true,
            });
        }
    }
    Ok(ways)
}

/// One row to be measured.
struct Bench<'a> {
    layer: &'static Layer,
    method: Option<Method>,
    plain: bool,
    pass: Pass,
    tokens: usize,
    chosen: &'a ChosenDevice,
    common: &'a Common,
}

impl Bench<'_> {
    fn row(&self, reps: usize) -> Result<Row, CommandError> {
        let structure = self.layer.structure(self.method);
        let (inputs, outputs) = (self.layer.in_features, self.layer.out_features);
        let (dtype, device) = (self.chosen.dtype, &self.chosen.device);
        let bytes = self.compulsory_bytes(&structure);
        let mut operands = Vec::new();
        for _ in 0..operands::copies(bytes) {
            let widths = (inputs, outputs);
            operands.push(operands::random(
                structure,
                widths,
                self.tokens,
                dtype,
                device,
            )?);
            // One copy at a time is the same short queue every time, which fusion plans once.
            device_timing::sync(device)?;
        }
        let passes = Passes::new(operands, self.pass, self.plain);
        let timing = device_timing::time(self.chosen, &passes, reps)?;
        let (index, made) = timing.last;
        let rel_err = passes.relative_error(index, &made)?;
        drop(made);
        let size = burn::tensor::DType::from(dtype).size();
        let operand_bytes = size * (structure.parameters(inputs, outputs) + self.tokens * inputs);
        let beyond = memory::reserved_by(
            device,
            (passes.operands(index).clone(), self.pass, self.plain),
            |(operands, pass, plain)| passes::run(&operands, pass, plain),
        )?;
        drop(passes);
        device.memory_cleanup();

        let flops = structure.flops(self.tokens, inputs, outputs) as f64;
        // Every product has two gradients, each a product as large.
        let flops = match self.pass {
            Pass::Forward => flops,
            Pass::Training => 3.0 * flops,
        };
        let ceilings = Ceilings::of(&self.chosen.name);
        let limit_us =
            ceilings.map(|ceilings| ceilings.limit_us(flops, bytes as f64, self.precision()));
        Ok(Row {
            layer: self.layer.name,
            method: self.method.map_or("dense", Method::as_str),
            pass: self.pass.as_str(),
            tokens: self.tokens,
            in_features: inputs,
            out_features: outputs,
            blocks: structure.blocks(),
            rank: structure.rank().unwrap_or(inputs.min(outputs)),
            dtype: self.common.dtype.as_str(),
            kernel: match (self.method, self.plain) {
                (None, _) => "burn",
                (Some(_), false) => "auto",
                (Some(_), true) => "plain",
            },
            timing: timing.clock,
            no_graph: timing.no_graph,
            median_us: timing.median_us,
            min_us: timing.min_us,
            max_us: timing.max_us,
            tflops: flops / timing.median_us / 1e6,
            gbps: bytes as f64 / timing.median_us / 1e3,
            compulsory_bytes: bytes,
            limit_us,
            share_of_limit: limit_us.map(|limit| limit / timing.median_us),
            limit_source: ceilings.map(Ceilings::source),
            rel_err,
            host_us: timing.host_us,
            graph_host_us: timing.graph_host_us,
            peak_bytes: beyond.map(|bytes| operand_bytes + bytes),
            intermediate_bytes: match self.pass {
                Pass::Forward => {
                    Some(size * memory::intermediate_elements(&structure, self.tokens))
                }
                Pass::Training => None,
            },
        })
    }

    /// See [`Row::compulsory_bytes`].
    fn compulsory_bytes(&self, structure: &Structure) -> usize {
        let (inputs, outputs) = (self.layer.in_features, self.layer.out_features);
        let elements = structure.parameters(inputs, outputs) + self.tokens * (inputs + outputs);
        let once = elements * burn::tensor::DType::from(self.chosen.dtype).size();
        match self.pass {
            Pass::Forward => once,
            Pass::Training => 2 * once,
        }
    }

    /// Burn's dense products round f32 operands to tf32 on a GPU; our kernels do not.
    fn precision(&self) -> Precision {
        let by_kernels = self.method.is_some() && !self.plain;
        match self.common.dtype {
            Dtype::F16 | Dtype::Bf16 => Precision::Half,
            Dtype::F32 if by_kernels => Precision::F32,
            Dtype::F32 => Precision::Tf32,
        }
    }
}

fn table(report: &Report) -> Table {
    let mut table = Table::new([
        "layer",
        "tokens",
        "method",
        "kernel",
        "timing",
        "median us",
        "min",
        "max",
        "TFLOP/s",
        "GB/s",
        "of limit",
        "host us",
        "peak",
        "error",
    ]);
    for row in &report.rows {
        table.row([
            row.layer.to_string(),
            row.tokens.to_string(),
            row.method.to_string(),
            row.kernel.to_string(),
            row.timing.as_str().to_string(),
            format!("{:.1}", row.median_us),
            format!("{:.1}", row.min_us),
            format!("{:.1}", row.max_us),
            format!("{:.3}", row.tflops),
            format!("{:.1}", row.gbps),
            row.share_of_limit
                .map_or_else(String::new, |share| format!("{:.0}%", 100.0 * share)),
            format!("{:.1}", row.host_us),
            row.peak_bytes.map_or_else(String::new, output::bytes),
            format!("{:.1e}", row.rel_err),
        ]);
    }
    table
}
