//! Everything the command prints or writes for people and programs.

use std::fmt::Display;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::error::CommandError;

/// Prints text as it is. A reader that closed its end is no error of ours.
pub fn print(text: impl Display) {
    let mut stdout = std::io::stdout().lock();
    let written = write!(stdout, "{text}").and_then(|()| stdout.flush());
    if written.is_err() {
        std::process::exit(0);
    }
}

/// Prints a line.
pub fn line(text: impl Display) {
    print(format_args!("{text}\n"));
}

/// Says on standard error, in one line, why the command stops.
pub fn complain(error: &CommandError) {
    let text = error.to_string().replace('\n', " ");
    // Nobody is left to tell if standard error is closed too.
    let _ = writeln!(std::io::stderr(), "blr: {text}");
}

/// Writes a file beside its place and renames it, so that it is whole or not there.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), CommandError> {
    let io = |source| CommandError::Io {
        path: path.to_path_buf(),
        source,
    };
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let mut file = readable()
        .tempfile_in(folder.unwrap_or(Path::new(".")))
        .map_err(io)?;
    file.write_all(bytes).map_err(io)?;
    file.persist(path).map_err(|error| io(error.error))?;
    Ok(())
}

/// The same under a temporary name that is always the same, so that what a killed run left there is
/// replaced by the next one.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), CommandError> {
    let io = |source| CommandError::Io {
        path: path.to_path_buf(),
        source,
    };
    let unfinished = path.with_added_extension("tmp");
    std::fs::write(&unfinished, bytes).map_err(io)?;
    std::fs::rename(&unfinished, path).map_err(io)
}

/// Temporary files with the permissions of ordinary ones, which they become.
fn readable() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder
}

/// Writes a report where `--json` asks for it.
pub fn write_json(path: Option<&Path>, report: &impl Serialize) -> Result<(), CommandError> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string_pretty(report).map_err(|error| CommandError::Io {
        path: path.to_path_buf(),
        source: std::io::Error::other(error),
    })?;
    write_file(path, format!("{text}\n").as_bytes())
}

/// A bar over `count` steps, drawn on a terminal only.
pub fn progress(count: usize) -> ProgressBar {
    let bar = ProgressBar::new(count as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} [{elapsed}] {wide_msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// A table in plain text, its first column flush left and the others flush right.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub fn new<const N: usize>(headings: [&str; N]) -> Self {
        Table {
            rows: vec![headings.map(String::from).into()],
        }
    }

    /// Adds headings, of which there may be any number.
    pub fn head(&mut self, headings: impl Iterator<Item = String>) {
        if let Some(first) = self.rows.first_mut() {
            first.extend(headings);
        }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.cells(cells.into());
    }

    /// Adds a row whose length is not known beforehand.
    pub fn cells(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The rows, that of the headings first.
    pub fn rows(&self) -> &[Vec<String>] {
        &self.rows
    }

    /// The table with columns padded to their widest cell.
    pub fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells
                    .map(|cell| cell.chars().count())
                    .max()
                    .unwrap_or_default()
            })
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, &width))| match column {
                    0 => format!("{cell:<width$}"),
                    _ => format!("{cell:>width$}"),
                })
                .collect();
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
        }
        text
    }

    /// The table as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for (index, row) in self.rows.iter().enumerate() {
            text.push_str(&format!("| {} |\n", row.join(" | ")));
            if index == 0 {
                text.push_str(&format!(
                    "|---{}|\n",
                    "|---:".repeat(row.len().saturating_sub(1))
                ));
            }
        }
        text
    }
}

/// Bytes with a unit.
pub fn bytes(count: usize) -> String {
    match count {
        0..10_000 => format!("{count} B"),
        10_000..10_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1} MB", count as f64 / 1e6),
        _ => format!("{:.2} GB", count as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["layer", "rank"]);
        table.row(["c_fc".to_string(), "8".to_string()]);
        table.row(["c_projection".to_string(), "128".to_string()]);
        assert_eq!(
            table.text(),
            "layer         rank\nc_fc             8\nc_projection   128\n"
        );
        let markdown = table.markdown();
        assert!(markdown.starts_with("| layer | rank |\n|---|---:|\n| c_fc | 8 |\n"));
    }
}
