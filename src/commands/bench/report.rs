//! `blr bench report`: our layers beside those of the peers, in one table.

use std::path::Path;

use burn_blr::Method;
use serde::{Deserialize, Serialize};

use super::rows::{self, WRONG, forward};
use crate::arguments::{BenchReportArguments, Common};
use crate::error::CommandError;
use crate::output::{self, Table};

/// Token counts up to this are decoding: a matter of memory traffic, with a mean of their own.
const FEW_TOKENS: usize = 16;

/// What `blr bench layers` or `benches/peers/layers.py` wrote.
#[derive(Deserialize)]
struct Measured {
    device: String,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    layer: String,
    method: String,
    #[serde(default = "forward")]
    pass: String,
    tokens: usize,
    dtype: String,
    kernel: String,
    timing: Option<String>,
    median_us: Option<f64>,
    share_of_limit: Option<f64>,
    /// Nothing where the output held numbers that are not finite.
    rel_err: Option<f64>,
}

impl Row {
    /// Whether it is the structure by plain operations of Burn, timed to compare with.
    fn is_plain(&self) -> bool {
        self.kernel == "plain"
    }

    fn is_right(&self) -> bool {
        self.rel_err.is_some_and(|error| error < WRONG)
    }
}

/// What is compared: a layer at a token count.
#[derive(Clone, PartialEq)]
struct Case {
    layer: String,
    pass: String,
    tokens: usize,
    dtype: String,
}

impl Case {
    fn of(row: &Row) -> Self {
        Case {
            layer: row.layer.clone(),
            pass: row.pass.clone(),
            tokens: row.tokens,
            dtype: row.dtype.clone(),
        }
    }
}

/// The numbers of a report.
#[derive(Serialize)]
struct Report {
    ours: String,
    peers: String,
    rows: Vec<Compared>,
    geometric_means: Vec<Mean>,
}

/// One method on one layer at one token count.
#[derive(Serialize)]
struct Compared {
    layer: String,
    pass: String,
    tokens: usize,
    dtype: String,
    method: &'static str,
    dense_us: Option<f64>,
    dense_kernel: Option<String>,
    peer_us: Option<f64>,
    peer_kernel: Option<String>,
    ours_us: Option<f64>,
    ours_timing: Option<String>,
    /// The peer's time over ours.
    over_peer: Option<f64>,
    /// The time of dense over ours.
    over_dense: Option<f64>,
    share_of_limit: Option<f64>,
}

/// The ratios of a method over some layers.
#[derive(Serialize)]
struct Mean {
    pass: String,
    tokens: &'static str,
    method: &'static str,
    over_peer: Option<Ratios>,
    over_dense: Option<Ratios>,
}

/// Several ratios in two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Ratios {
    geometric_mean: f64,
    least: f64,
}

impl Ratios {
    /// Nothing where there is no ratio.
    fn of(ratios: &[f64]) -> Option<Self> {
        if ratios.is_empty() {
            return None;
        }
        let logarithms: f64 = ratios.iter().map(|ratio| ratio.ln()).sum();
        Some(Ratios {
            geometric_mean: (logarithms / ratios.len() as f64).exp(),
            least: ratios.iter().copied().fold(f64::INFINITY, f64::min),
        })
    }
}

pub fn run(common: &Common, arguments: &BenchReportArguments) -> Result<(), CommandError> {
    let ours = read(&arguments.ours)?;
    let peers = read(&arguments.peers)?;
    let report = compare(&ours, &peers);
    if !report.rows.iter().any(|row| row.ours_us.is_some()) {
        return Err(CommandError::NotBenchReport {
            path: arguments.ours.clone(),
            reason: "no low-rank, monarch or blast row that was timed and right".to_string(),
        });
    }
    let table = table(&report);
    output::line(format_args!(
        "ours on {}, peers on {}",
        report.ours, report.peers
    ));
    output::line("times in us; x peer and x dense: their time over ours");
    if report.rows.iter().any(enqueued) {
        output::line("* not captured in a graph: holds what the host takes");
    }
    output::line("");
    output::print(if arguments.markdown {
        table.markdown()
    } else {
        table.text()
    });
    output::write_json(common.json.as_deref(), &report)
}

fn read(path: &Path) -> Result<Measured, CommandError> {
    let measured: Measured = rows::read(path)?;
    for row in &measured.rows {
        if let Some(median_us) = row.median_us {
            let what = (row.method.as_str(), row.layer.as_str(), row.tokens);
            rows::check_time(path, what, median_us)?;
        }
    }
    Ok(measured)
}

/// The fastest of the rows of a case and method that are right and pass `filter`.
fn best<'a>(
    measured: &'a Measured,
    case: &Case,
    method: &str,
    filter: impl Fn(&Row) -> bool,
) -> Option<(&'a Row, f64)> {
    measured
        .rows
        .iter()
        .filter(|row| row.method == method && Case::of(row) == *case)
        .filter(|row| row.is_right() && filter(row))
        .filter_map(|row| row.median_us.map(|median| (row, median)))
        .min_by(|a, b| a.1.total_cmp(&b.1))
}

fn compare(ours: &Measured, peers: &Measured) -> Report {
    let mut cases: Vec<Case> = Vec::new();
    for row in &ours.rows {
        let case = Case::of(row);
        if !cases.contains(&case) {
            cases.push(case);
        }
    }
    let mut rows = Vec::new();
    for case in &cases {
        // Burn's own operations stand in where the peers have nothing, as for training.
        let dense =
            best(peers, case, "dense", |_| true).or_else(|| best(ours, case, "dense", |_| true));
        for method in Method::ALL.map(Method::as_str) {
            let peer = best(peers, case, method, |_| true)
                .or_else(|| best(ours, case, method, Row::is_plain));
            let our = best(ours, case, method, |row| !row.is_plain());
            let over = |other: Option<(&Row, f64)>| Some(other?.1 / our?.1);
            rows.push(Compared {
                layer: case.layer.clone(),
                pass: case.pass.clone(),
                tokens: case.tokens,
                dtype: case.dtype.clone(),
                method,
                dense_us: dense.map(|(_, us)| us),
                dense_kernel: dense.map(|(row, _)| row.kernel.clone()),
                peer_us: peer.map(|(_, us)| us),
                peer_kernel: peer.map(|(row, _)| row.kernel.clone()),
                ours_us: our.map(|(_, us)| us),
                ours_timing: our.and_then(|(row, _)| row.timing.clone()),
                over_peer: over(peer),
                over_dense: over(dense),
                share_of_limit: our.and_then(|(row, _)| row.share_of_limit),
            });
        }
    }
    Report {
        ours: ours.device.clone(),
        peers: peers.device.clone(),
        geometric_means: means(&rows),
        rows,
    }
}

fn means(rows: &[Compared]) -> Vec<Mean> {
    let mut passes: Vec<&str> = rows.iter().map(|row| row.pass.as_str()).collect();
    passes.sort_unstable();
    passes.dedup();
    let mut means = Vec::new();
    for pass in passes {
        for (tokens, few) in [("many tokens", false), ("up to 16 tokens", true)] {
            for method in Method::ALL.map(Method::as_str) {
                let of = |ratio: fn(&Compared) -> Option<f64>| {
                    let ratios: Vec<f64> = rows
                        .iter()
                        .filter(|row| row.pass == pass && row.method == method)
                        .filter(|row| (row.tokens <= FEW_TOKENS) == few)
                        .filter_map(ratio)
                        .collect();
                    Ratios::of(&ratios)
                };
                means.push(Mean {
                    pass: pass.to_string(),
                    tokens,
                    method,
                    over_peer: of(|row| row.over_peer),
                    over_dense: of(|row| row.over_dense),
                });
            }
        }
    }
    means.retain(|mean| mean.over_peer.is_some() || mean.over_dense.is_some());
    means
}

fn enqueued(row: &Compared) -> bool {
    row.ours_timing.as_deref() == Some("enqueue")
}

fn table(report: &Report) -> Table {
    let mut table = Table::new([
        "layer",
        "tokens",
        "dense",
        "low-rank peer",
        "ours",
        "x peer",
        "x dense",
        "of limit",
        "monarch peer",
        "ours",
        "x peer",
        "x dense",
        "of limit",
        "blast peer",
        "ours",
        "x peer",
        "x dense",
        "of limit",
    ]);
    let time = |us: Option<f64>| us.map_or_else(|| "-".to_string(), |us| format!("{us:.1}"));
    let ratio = |ratio: Option<f64>| ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
    for methods in report.rows.chunks(Method::ALL.len()) {
        let Some(first) = methods.first() else {
            continue;
        };
        let mut cells = vec![
            match first.pass.as_str() {
                "forward" => first.layer.clone(),
                pass => format!("{} ({pass})", first.layer),
            },
            first.tokens.to_string(),
            time(first.dense_us),
        ];
        for row in methods {
            let mark = if enqueued(row) { "*" } else { "" };
            cells.extend([
                time(row.peer_us),
                format!("{}{mark}", time(row.ours_us)),
                ratio(row.over_peer),
                ratio(row.over_dense),
                row.share_of_limit
                    .map_or_else(String::new, |share| format!("{:.0}%", 100.0 * share)),
            ]);
        }
        table.cells(cells);
    }
    type Of = fn(&Ratios) -> f64;
    let kinds: [(&str, Of); 2] = [
        ("geometric mean", |ratios| ratios.geometric_mean),
        ("least", |ratios| ratios.least),
    ];
    let mut groups: Vec<(&str, &str)> = Vec::new();
    for mean in &report.geometric_means {
        let group = (mean.pass.as_str(), mean.tokens);
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    for (pass, tokens) in groups {
        for (name, number) in kinds {
            let mut cells = vec![
                match pass {
                    "forward" => format!("{name}, {tokens}"),
                    pass => format!("{name}, {tokens} ({pass})"),
                },
                String::new(),
                String::new(),
            ];
            for method in Method::ALL.map(Method::as_str) {
                let mean = report.geometric_means.iter().find(|mean| {
                    mean.pass == pass && mean.tokens == tokens && mean.method == method
                });
                let of = |ratios: Option<Ratios>| ratio(ratios.as_ref().map(number));
                cells.extend([
                    String::new(),
                    String::new(),
                    of(mean.and_then(|mean| mean.over_peer)),
                    of(mean.and_then(|mean| mean.over_dense)),
                    String::new(),
                ]);
            }
            table.cells(cells);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(method: &str, kernel: &str, tokens: usize, median_us: Option<f64>) -> Row {
        Row {
            layer: "gpt2s.c_attn".to_string(),
            method: method.to_string(),
            pass: forward(),
            tokens,
            dtype: "bf16".to_string(),
            kernel: kernel.to_string(),
            timing: Some("graph".to_string()),
            median_us,
            share_of_limit: Some(0.5),
            rel_err: Some(1e-3),
        }
    }

    fn measured(rows: Vec<Row>) -> Measured {
        Measured {
            device: "test".to_string(),
            rows,
        }
    }

    #[test]
    fn the_geometric_mean_of_reciprocals_is_one() {
        let ratios = Ratios::of(&[4.0, 0.25, 2.0, 0.5]);
        assert!(ratios.is_some_and(|ratios| (ratios.geometric_mean - 1.0).abs() < 1e-12));
        assert!(ratios.is_some_and(|ratios| ratios.least == 0.25));
        assert_eq!(Ratios::of(&[]), None);
    }

    #[test]
    fn ours_is_compared_with_the_fastest_peer_that_did_not_fail() {
        let ours = measured(vec![
            row("blast", "auto", 384, Some(8.0)),
            row("blast", "plain", 384, Some(2.0)),
            row("dense", "auto", 384, Some(5.0)),
        ]);
        let peers = measured(vec![
            row("dense", "torch.eager", 384, Some(10.0)),
            row("blast", "torch.eager", 384, Some(20.0)),
            row("blast", "reference.bmm", 384, Some(12.0)),
            row("blast", "reference.grouped", 384, None),
            row("blast", "reference.bmm", 1, Some(1.0)),
        ]);
        let report = compare(&ours, &peers);
        let blast = report
            .rows
            .iter()
            .find(|row| row.method == "blast" && row.tokens == 384);
        assert!(blast.is_some_and(|row| {
            row.ours_us == Some(8.0)
                && row.peer_kernel.as_deref() == Some("reference.bmm")
                && row.over_peer == Some(1.5)
                && row.over_dense == Some(1.25)
        }));
    }

    #[test]
    fn a_fast_row_whose_output_was_wrong_does_not_count() {
        let mut wrong = row("blast", "reference.a", 384, Some(1.0));
        wrong.rel_err = Some(1.4);
        let mut endless = row("blast", "reference.b", 384, Some(2.0));
        endless.rel_err = None;
        let right = row("blast", "reference.c", 384, Some(12.0));
        let ours = measured(vec![row("blast", "auto", 384, Some(8.0))]);
        let report = compare(&ours, &measured(vec![wrong, endless, right]));
        let blast = report.rows.iter().find(|row| row.method == "blast");
        assert!(blast.is_some_and(|row| row.over_peer == Some(1.5)));
    }

    #[test]
    fn burns_plain_operations_stand_in_where_the_peers_have_nothing() {
        let ours = measured(vec![
            row("blast", "auto", 384, Some(2.0)),
            row("blast", "plain", 384, Some(6.0)),
            row("dense", "auto", 384, Some(5.0)),
        ]);
        let report = compare(&ours, &measured(Vec::new()));
        let blast = report.rows.iter().find(|row| row.method == "blast");
        assert!(
            blast.is_some_and(|row| { row.over_peer == Some(3.0) && row.over_dense == Some(2.5) })
        );
    }

    #[test]
    fn few_and_many_tokens_have_means_of_their_own() {
        let ours = measured(vec![
            row("blast", "auto", 384, Some(1.0)),
            row("blast", "auto", 1, Some(1.0)),
        ]);
        let peers = measured(vec![
            row("blast", "torch.eager", 384, Some(2.0)),
            row("blast", "torch.eager", 1, Some(8.0)),
        ]);
        let means = compare(&ours, &peers).geometric_means;
        let found: Vec<(&str, Option<f64>)> = means
            .iter()
            .map(|mean| {
                (
                    mean.tokens,
                    mean.over_peer.map(|ratios| ratios.geometric_mean),
                )
            })
            .collect();
        assert_eq!(found.len(), 2);
        for ((tokens, mean), expected) in found
            .into_iter()
            .zip([("many tokens", 2.0), ("up to 16 tokens", 8.0)])
        {
            assert_eq!(tokens, expected.0);
            assert!(mean.is_some_and(|mean| (mean - expected.1).abs() < 1e-9));
        }
    }
}
