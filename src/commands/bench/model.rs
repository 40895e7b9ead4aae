//! `blr bench model`.

use burn::tensor::Device;
use burn_blr::Method;
use serde::Serialize;

use super::methods::methods;
use super::networks::{Family, Network, Pass, Phase, Setting};
use super::{memory, networks};
use crate::arguments::{BenchModelArguments, Common};
use crate::device::ChosenDevice;
use crate::device_timing::{self, Clock, Work};
use crate::error::CommandError;
use crate::output::{self, Table};

#[derive(Serialize)]
struct Report {
    device: String,
    /// The limit of `--scratch`.
    scratch_mib: Option<usize>,
    rows: Vec<Row>,
}

/// One network by one method in one phase.
#[derive(Serialize)]
struct Row {
    family: &'static str,
    method: &'static str,
    phase: &'static str,
    batch: usize,
    /// Tokens of each row that go through the network in one pass.
    tokens: usize,
    /// Tokens of each row in the cache before the pass.
    context: usize,
    dtype: &'static str,
    parameters: usize,
    weight_bytes: usize,
    timing: Clock,
    /// Why it is not `graph`, where that was tried.
    no_graph: Option<String>,
    /// Of the device, for one pass.
    median_ms: f64,
    min_ms: f64,
    max_ms: f64,
    /// Tokens of all rows over the median.
    tokens_per_s: f64,
    host_ms: f64,
    graph_host_ms: Option<f64>,
    /// Weights, cache, results and what is between, where the backend reports its memory.
    peak_bytes: Option<usize>,
}

pub fn run(common: &Common, arguments: &BenchModelArguments) -> Result<(), CommandError> {
    let methods = methods(&arguments.methods)?;
    for (flag, found) in [
        ("reps", Some(arguments.reps)),
        ("batch", arguments.batch),
        ("tokens", arguments.tokens),
        ("context", arguments.context),
    ] {
        if found == Some(0) {
            return Err(CommandError::Flag {
                flag,
                found: "0".to_string(),
                expected: "at least 1".to_string(),
            });
        }
    }
    let mut settings = Vec::new();
    for &family in &arguments.family {
        for phase in phases(family, &arguments.phase)? {
            settings.push((family, phase, family.setting(phase, arguments)?));
        }
    }
    let chosen = common.choose_device()?;
    let mut report = Report {
        device: chosen.name.clone(),
        scratch_mib: common.scratch,
        rows: Vec::new(),
    };
    for (family, phase, setting) in settings {
        for &method in &methods {
            let row = row(
                &chosen,
                common,
                family,
                phase,
                setting,
                method,
                arguments.reps,
            )?;
            output::line(format_args!(
                "{:8} {:8} {:9} {:>10.3} ms",
                row.family, row.phase, row.method, row.median_ms
            ));
            report.rows.push(row);
            // What is there stays there when a long run is cut off.
            output::write_json(common.json.as_deref(), &report)?;
        }
    }
    output::print(format_args!("\n{}", table(&report).text()));
    Ok(())
}

/// The phases of the flags that a family has, or all it has where there are none.
fn phases(family: Family, asked: &[Phase]) -> Result<Vec<Phase>, CommandError> {
    let available = family.phases();
    if asked.is_empty() {
        return Ok(available.to_vec());
    }
    match asked.iter().find(|phase| !available.contains(phase)) {
        None => Ok(asked.to_vec()),
        Some(phase) => Err(CommandError::Flag {
            flag: "phase",
            found: phase.as_str().to_string(),
            expected: format!(
                "{} for {}",
                available
                    .iter()
                    .map(|phase| phase.as_str())
                    .collect::<Vec<_>>()
                    .join(" or "),
                family.as_str()
            ),
        }),
    }
}

fn row(
    chosen: &ChosenDevice,
    common: &Common,
    family: Family,
    phase: Phase,
    setting: Setting,
    method: Option<Method>,
    reps: usize,
) -> Result<Row, CommandError> {
    let device = &chosen.device;
    // The same weights whatever was timed before.
    device.seed(common.seed);
    let network = Network::random(family, method, device, chosen.dtype)?;
    let (parameters, weight_bytes) = network.weights();
    let pass = network.pass(phase, setting, device, chosen.dtype)?;
    let timing = device_timing::time(chosen, &pass, reps)?;
    let (_, result) = timing.last;
    if !networks::all_finite(result?)? {
        return Err(CommandError::Device {
            reason: format!(
                "not a number came out of {} as {}",
                family.as_str(),
                name(method)
            ),
        });
    }
    let cache_bytes = pass.cache_bytes();
    let beyond = beyond_weights(device, &pass)?;
    drop(pass);
    drop(network);
    device.memory_cleanup();
    let tokens = setting.batch * setting.tokens;
    Ok(Row {
        family: family.as_str(),
        method: name(method),
        phase: phase.as_str(),
        batch: setting.batch,
        tokens: setting.tokens,
        context: setting.context,
        dtype: common.dtype.as_str(),
        parameters,
        weight_bytes,
        timing: timing.clock,
        no_graph: timing.no_graph,
        median_ms: timing.median_us / 1e3,
        min_ms: timing.min_us / 1e3,
        max_ms: timing.max_us / 1e3,
        tokens_per_s: tokens as f64 * 1e6 / timing.median_us,
        host_ms: timing.host_us / 1e3,
        graph_host_ms: timing.graph_host_us.map(|us| us / 1e3),
        peak_bytes: beyond.map(|beyond| weight_bytes + cache_bytes + beyond),
    })
}

/// Bytes that a pass reserves on the device beyond weights and cache.
fn beyond_weights(device: &Device, pass: &Pass) -> Result<Option<usize>, CommandError> {
    memory::reserved_by(device, pass, |pass| pass.call(0))
}

fn name(method: Option<Method>) -> &'static str {
    method.map_or("dense", Method::as_str)
}

fn table(report: &Report) -> Table {
    let mut table = Table::new([
        "network",
        "phase",
        "method",
        "batch",
        "tokens",
        "context",
        "parameters",
        "weights",
        "timing",
        "median ms",
        "min",
        "max",
        "tokens/s",
        "host ms",
        "peak",
    ]);
    for row in &report.rows {
        table.row([
            row.family.to_string(),
            row.phase.to_string(),
            row.method.to_string(),
            row.batch.to_string(),
            row.tokens.to_string(),
            row.context.to_string(),
            row.parameters.to_string(),
            output::bytes(row.weight_bytes),
            row.timing.as_str().to_string(),
            format!("{:.3}", row.median_ms),
            format!("{:.3}", row.min_ms),
            format!("{:.3}", row.max_ms),
            format!("{:.0}", row.tokens_per_s),
            format!("{:.3}", row.host_ms),
            row.peak_bytes.map_or_else(String::new, output::bytes),
        ]);
    }
    table
}
