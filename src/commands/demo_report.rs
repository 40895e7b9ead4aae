//! What `blr demo` writes: a table, a page, and the numbers.

use std::path::Path;

use super::compress_report::by_look;
use super::demo::{Report, Row};
use crate::error::CommandError;
use crate::html::{self, Look, Page, Scale};
use crate::output::{self, Table};

fn summary(report: &Report) -> Table {
    let mut table = Table::new([
        "method",
        "keep",
        "parameters",
        "bytes",
        "mean error",
        "perplexity",
        "eval tok/s",
        "generate tok/s",
        "compress s",
    ]);
    for row in &report.rows {
        table.row([
            row.method.clone(),
            row.keep.to_string(),
            row.parameters.to_string(),
            output::bytes(row.bytes),
            row.mean_relative_error
                .map_or_else(String::new, |error| format!("{error:.4}")),
            format!("{:.3}", row.perplexity),
            format!("{:.0}", row.eval_tokens_per_second),
            format!("{:.0}", row.generate_tokens_per_second),
            row.compress_seconds
                .map_or_else(String::new, |seconds| format!("{seconds:.1}")),
        ]);
    }
    table
}

/// The table, and a sample text of each model.
pub fn describe(report: &Report) -> String {
    let mut text = summary(report).text();
    text.push_str(
        "\nkeep: share of the parameters of the compressed layers. No fine-tuning was done.\n",
    );
    text.push_str(match report.blast_is_best_on_every_layer {
        true => "BLAST has the lowest error of the three on every layer.\n",
        false => "BLAST does not have the lowest error of the three on every layer.\n",
    });
    for row in &report.rows {
        let sample = row.sample.replace('\n', " ");
        text.push_str(&format!(
            "\n{} {}: {}\n",
            row.method,
            row.keep,
            sample.trim()
        ));
    }
    text
}

/// Writes the page, the Markdown and the JSON.
pub fn write(report: &Report, text: &str, out: &Path) -> Result<(), CommandError> {
    let samples = text.split_once("\nkeep:").map_or("", |(_, rest)| rest);
    let markdown = format!(
        "# Demo on {} ({})\n\n{}\nkeep:{samples}",
        report.device,
        report.dtype,
        summary(report).markdown()
    );
    output::write_file(&out.join("report.md"), markdown.as_bytes())?;
    output::write_json(Some(&out.join("report.json")), report)?;
    output::write_file(&out.join("report.html"), page(report).html().as_bytes())?;
    output::line(format_args!(
        "\nReport and compressed checkpoints are in {}",
        out.display()
    ));
    Ok(())
}

fn page(report: &Report) -> Page {
    let mut page = Page::new("BLR demo: a small GPT-2 compressed three ways");
    let tokens = report.rows.first().map_or(0, |row| row.tokens);
    page.facts(&[
        ("device", format!("{} ({})", report.device, report.dtype)),
        ("evaluated on", format!("{tokens} tokens of held-out text")),
        ("fine-tuning", "none".to_string()),
    ]);
    page.table("The models", &summary(report));
    let models: Vec<html::Model> = report.rows.iter().map(model).collect();
    let of = |value: fn(&Row) -> f64| -> Vec<(&html::Model, f64)> {
        models.iter().zip(report.rows.iter().map(value)).collect()
    };
    page.heading("Quality");
    html::quality_plot(
        &mut page,
        "Perplexity over size, lower and further left is better",
        "perplexity (of a token)",
        Scale::Log,
        &of(|row| row.perplexity),
        true,
    );
    page.heading("Size");
    html::size_plot(&mut page, &models);
    page.heading("Layers");
    let mut keeps: Vec<f64> = vec![];
    for row in report.rows.iter().filter(|row| !row.layers.is_empty()) {
        if !keeps.contains(&row.keep) {
            keeps.push(row.keep);
        }
    }
    for keep in keeps {
        let rows = report.rows.iter().filter(|row| row.keep == keep);
        let series: Vec<_> = rows
            .flat_map(|row| by_look(&row.layers, "", false, |layer| Some(layer.relative_error)))
            .collect();
        let title = format!("Error of each layer with {keep} of its parameters");
        html::layer_plots(&mut page, &title, "relative error", &series);
    }
    page.table("The error of each layer, ‖W − Ŵ‖ / ‖W‖", &errors(report));
    page.heading("Speed");
    html::speed_plot(
        &mut page,
        "Generation, one token at a time; longer is faster",
        "tokens per second",
        &of(|row| row.generate_tokens_per_second),
    );
    html::speed_plot(
        &mut page,
        "Evaluation, whole windows at a time; longer is faster",
        "tokens per second",
        &of(|row| row.eval_tokens_per_second),
    );
    let mut counts: Vec<usize> = vec![];
    for time in report.rows.iter().flat_map(|row| &row.layer_times) {
        if !counts.contains(&time.tokens) {
            counts.push(time.tokens);
        }
    }
    for &count in &counts {
        let total = |row: &Row| -> f64 {
            let times = row.layer_times.iter().filter(|time| time.tokens == count);
            times.map(|time| time.median_us).sum()
        };
        let totals: Vec<_> = models.iter().zip(report.rows.iter().map(total)).collect();
        let tokens = if count == 1 {
            "one token".to_string()
        } else {
            format!("{count} tokens")
        };
        let title = format!("The linear layers of a block on {tokens}; shorter is faster");
        html::speed_plot(
            &mut page,
            &title,
            "microseconds, sum of the medians",
            &totals,
        );
    }
    page.table(
        "Median time of each kind of layer, in microseconds",
        &times(report),
    );
    page.heading("Samples");
    for row in &report.rows {
        page.quotation(&name(row), row.sample.trim());
    }
    page
}

fn name(row: &Row) -> String {
    match look(row) {
        Look::Dense => "dense".to_string(),
        look => format!("{}, keep {}", look.name(), row.keep),
    }
}

fn look(row: &Row) -> Look {
    Look::of_structure(&row.method)
}

fn model(row: &Row) -> html::Model {
    html::Model {
        name: name(row),
        look: look(row),
        parameters: row.parameters,
        layer_bytes: row.bytes - row.other_bytes,
        other_bytes: row.other_bytes,
    }
}

/// A row for each layer, a column for each compressed model.
fn errors(report: &Report) -> Table {
    let rows: Vec<&Row> = report
        .rows
        .iter()
        .filter(|row| !row.layers.is_empty())
        .collect();
    let mut table = Table::new(["layer"]);
    table.head(rows.iter().map(|row| name(row)));
    let layers = rows.first().map_or(&[][..], |row| row.layers.as_slice());
    for (index, layer) in layers.iter().enumerate() {
        let mut cells = vec![layer.layer.clone()];
        cells.extend(rows.iter().map(|row| {
            let layer = row.layers.get(index);
            layer.map_or_else(String::new, |layer| format!("{:.4}", layer.relative_error))
        }));
        table.cells(cells);
    }
    table
}

/// A row for each kind of layer and each count of tokens, a column for each model.
fn times(report: &Report) -> Table {
    let mut table = Table::new(["layer", "tokens"]);
    table.head(report.rows.iter().map(name));
    let first = report
        .rows
        .first()
        .map_or(&[][..], |row| row.layer_times.as_slice());
    for (index, time) in first.iter().enumerate() {
        let (kind, _) = html::kind_and_block(&time.layer);
        let mut cells = vec![kind, time.tokens.to_string()];
        cells.extend(report.rows.iter().map(|row| {
            let time = row.layer_times.get(index);
            time.map_or_else(String::new, |time| format!("{:.1}", time.median_us))
        }));
        table.cells(cells);
    }
    table
}
