//! `blr bench layers`.

use burn_blr::{Method, Structure, strategy};
use serde::Serialize;

use super::catalogue::{self, Layer};
use super::methods::methods;
use super::passes::{self, Passes};
use super::{memory, operands};
use crate::arguments::{BenchLayersArguments, Common, Dtype, Pass, StrategyChoice};
use crate::device::ChosenDevice;
use crate::device_timing::{self, Clock};
use crate::error::CommandError;
use crate::output::{self, Table};
use crate::roofline::{Ceilings, Demand, Precision};

#[derive(Serialize)]
struct Report {
    device: String,
    /// The limit of `--scratch`.
    scratch_mib: Option<usize>,
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
    /// What lies between its two products, where that goes through memory.
    intermediate_bytes: Option<usize>,
}

pub fn run(common: &Common, arguments: &BenchLayersArguments) -> Result<(), CommandError> {
    let ways = ways(arguments)?;
    if arguments.reps == 0 {
        return Err(CommandError::Flag {
            flag: "reps",
            found: "0".to_string(),
            expected: "at least 1".to_string(),
        });
    }
    let layers = catalogue::containing(&arguments.layer)?;
    if arguments.list {
        output::print(catalogue::table(&layers).text());
        return output::write_json(common.json.as_deref(), &catalogue::listing(&layers));
    }
    let chosen = common.choose_device()?;
    let mut forced = ways.iter().filter(|way| way.strategy.forced().is_some());
    if chosen.computes_while_called()
        && let Some(way) = forced.next()
    {
        return Err(way.unserved("auto: there are no kernels for the CPU"));
    }
    if common.dtype == Dtype::F32
        && let Some(way) = forced.find(|way| way.method.is_none())
    {
        return Err(way.unserved("auto: dense layers in f32 are products of Burn"));
    }
    let mut report = Report {
        device: chosen.name.clone(),
        scratch_mib: common.scratch,
        rows: Vec::new(),
    };
    for layer in layers {
        for tokens in layer.token_counts(&arguments.tokens) {
            for &way in &ways {
                let bench = Bench {
                    layer,
                    way,
                    pass: arguments.pass,
                    tokens,
                    chosen: &chosen,
                    common,
                };
                let row = bench.row(arguments.reps)?;
                output::line(format_args!(
                    "{:28} {:>6} tokens  {:9} {:12} {:>10.1} us",
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

/// How a layer is computed.
#[derive(Clone, Copy)]
struct Way {
    /// Nothing for dense.
    method: Option<Method>,
    strategy: StrategyChoice,
    /// By plain operations of Burn.
    plain: bool,
}

impl Way {
    /// The name used in reports.
    fn kernel(self) -> &'static str {
        if self.plain {
            "plain"
        } else {
            self.strategy.as_str()
        }
    }

    /// The error where the strategy cannot be forced.
    fn unserved(self, expected: impl Into<String>) -> CommandError {
        CommandError::Flag {
            flag: "strategy",
            found: self.strategy.as_str().to_string(),
            expected: expected.into(),
        }
    }
}

/// The ways of the flags: a method by its kernels, and then, where asked for, a structure by plain Burn.
fn ways(arguments: &BenchLayersArguments) -> Result<Vec<Way>, CommandError> {
    let mut ways = Vec::new();
    for method in methods(&arguments.methods)? {
        ways.extend(arguments.strategy.iter().map(|&strategy| Way {
            method,
            strategy,
            plain: false,
        }));
        if arguments.plain && method.is_some() {
            ways.push(Way {
                method,
                strategy: StrategyChoice::Auto,
                plain: true,
            });
        }
    }
    Ok(ways)
}

/// One row to be measured.
struct Bench<'a> {
    layer: &'static Layer,
    way: Way,
    pass: Pass,
    tokens: usize,
    chosen: &'a ChosenDevice,
    common: &'a Common,
}

impl Bench<'_> {
    fn row(&self, reps: usize) -> Result<Row, CommandError> {
        let Way { method, plain, .. } = self.way;
        let structure = self.layer.structure(method);
        let (inputs, outputs) = (self.layer.in_features, self.layer.out_features);
        let (dtype, device) = (self.chosen.dtype, &self.chosen.device);
        let demand = self.demand(&structure);
        let mut operands = Vec::new();
        for _ in 0..operands::copies(demand.bytes as usize) {
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
        let passes = Passes::new(operands, self.pass, plain);
        let timing = self.by_strategy(|| device_timing::time(self.chosen, &passes, reps))?;
        let (index, made) = timing.last;
        let rel_err = passes.relative_error(index, &made)?;
        drop(made);
        let size = burn::tensor::DType::from(dtype).size();
        let operand_bytes = size * (structure.parameters(inputs, outputs) + self.tokens * inputs);
        let beyond = self.by_strategy(|| {
            memory::reserved_by(
                device,
                (passes.operands(index).clone(), self.pass, plain),
                |(operands, pass, plain)| passes::run(&operands, pass, plain),
            )
        })?;
        drop(passes);
        device.memory_cleanup();

        let ceilings = Ceilings::of(&self.chosen.name);
        let limit_us = ceilings.map(|ceilings| ceilings.limit(&demand, self.precision()).us);
        Ok(Row {
            layer: self.layer.name,
            method: method.map_or("dense", Method::as_str),
            pass: self.pass.as_str(),
            tokens: self.tokens,
            in_features: inputs,
            out_features: outputs,
            blocks: structure.blocks(),
            rank: structure.rank().unwrap_or(inputs.min(outputs)),
            dtype: self.common.dtype.as_str(),
            kernel: self.way.kernel(),
            timing: timing.clock,
            no_graph: timing.no_graph,
            median_us: timing.median_us,
            min_us: timing.min_us,
            max_us: timing.max_us,
            tflops: demand.flops / timing.median_us / 1e6,
            gbps: demand.bytes / timing.median_us / 1e3,
            compulsory_bytes: demand.bytes as usize,
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

    fn demand(&self, structure: &Structure) -> Demand {
        let widths = [self.layer.in_features, self.layer.out_features];
        let size = burn::tensor::DType::from(self.chosen.dtype).size();
        let forward = Demand::forward(structure, self.tokens, widths, size);
        match self.pass {
            Pass::Forward => forward,
            Pass::Training => forward.training(),
        }
    }

    fn precision(&self) -> Precision {
        let Way { method, plain, .. } = self.way;
        Precision::of(self.common.dtype, method.is_some() && !plain)
    }

    /// Runs `work` with the kernels of the way; an error where those do not serve all of it.
    fn by_strategy<T>(
        &self,
        work: impl FnOnce() -> Result<T, CommandError>,
    ) -> Result<T, CommandError> {
        let Some(forced) = self.way.strategy.forced() else {
            return work();
        };
        let (usual, before) = (strategy::chosen(), strategy::unserved());
        strategy::choose(forced);
        let made = work();
        strategy::choose(usual);
        match strategy::unserved() == before {
            true => made,
            false => Err(self.way.unserved(format!(
                "kernels that serve {} in {} on {}",
                self.layer.name,
                self.common.dtype.as_str(),
                self.chosen.name
            ))),
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
