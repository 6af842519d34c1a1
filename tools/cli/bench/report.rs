//! Results of `aieng bench`: a Markdown table with llama-bench's columns, or CSV or JSON with its field names.

use crate::failure::Result;
use crate::output;
use crate::summary::{count, size};
use serde::Serialize;
use serde_json::Value;

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A table, one row as soon as it is measured.
    Markdown,
    /// A line each, as soon as it is measured.
    Csv,
    /// One array at the end.
    Json,
}

/// One test with one configuration. The field names are llama-bench's, where it has the field.
#[derive(Debug, Serialize)]
pub struct Row {
    pub build_version: &'static str,
    pub model_filename: String,
    pub model_type: String,
    pub model_size: u64,
    pub model_n_params: u64,
    pub backends: String,
    pub n_threads: usize,
    pub n_batch: usize,
    pub test: String,
    pub n_prompt: usize,
    pub n_gen: usize,
    pub n_depth: usize,
    pub n_sequences: usize,
    pub avg_ns: f64,
    pub stddev_ns: f64,
    pub avg_ts: f64,
    pub stddev_ts: f64,
    pub samples_ns: Vec<f64>,
    pub samples_ts: Vec<f64>,
}

/// A column of the table.
struct Column {
    name: &'static str,
    width: usize,
    cell: fn(&Row) -> String,
}

const COLUMNS: [Column; 7] = [
    Column { name: "model", width: 30, cell: |row| row.model_type.clone() },
    Column { name: "size", width: 10, cell: |row| size(row.model_size) },
    Column { name: "params", width: 10, cell: |row| count(row.model_n_params) },
    Column { name: "backend", width: 10, cell: |row| row.backends.clone() },
    Column { name: "threads", width: 7, cell: |row| row.n_threads.to_string() },
    Column { name: "test", width: 13, cell: |row| row.test.clone() },
    Column { name: "t/s", width: 20, cell: |row| format!("{:.2} ± {:.2}", row.avg_ts, row.stddev_ts) },
];

/// Writes rows to standard output.
#[derive(Debug)]
pub struct Report {
    format: Format,
    rows: Vec<Row>,
}

impl Report {
    /// A report without rows.
    pub fn new(format: Format) -> Report {
        Report { format, rows: Vec::new() }
    }

    /// Adds a row, after the header if it is the first.
    pub fn add(&mut self, row: Row) -> Result<()> {
        let first = self.rows.is_empty();
        match self.format {
            Format::Markdown if first => output::text(&(markdown_header() + &markdown(&row)))?,
            Format::Markdown => output::text(&markdown(&row))?,
            Format::Csv => output::text(&csv(&row, first)?)?,
            Format::Json => {}
        }
        self.rows.push(row);
        Ok(())
    }

    /// Writes what comes after the last row.
    pub fn finish(self) -> Result<()> {
        match self.format {
            Format::Markdown => Ok(output::text(&format!("\nbuild: {}\n", env!("CARGO_PKG_VERSION")))?),
            Format::Csv => Ok(()),
            Format::Json => output::json_pretty(&self.rows),
        }
    }
}

/// The first column is words and leans left; the others are figures and lean right.
fn table_line(cells: impl Iterator<Item = String>) -> String {
    let mut line = String::from("|");
    for ((i, column), cell) in COLUMNS.iter().enumerate().zip(cells) {
        let width = column.width;
        line += &if i == 0 { format!(" {cell:<width$} |") } else { format!(" {cell:>width$} |") };
    }
    line + "\n"
}

fn markdown_header() -> String {
    let names = table_line(COLUMNS.iter().map(|column| column.name.to_owned()));
    let rule = |(i, column): (usize, &Column)| {
        if i == 0 { "-".repeat(column.width) } else { "-".repeat(column.width - 1) + ":" }
    };
    names + &table_line(COLUMNS.iter().enumerate().map(rule))
}

fn markdown(row: &Row) -> String {
    table_line(COLUMNS.iter().map(|column| (column.cell)(row)))
}

/// The fields of the JSON form, without the lists of samples.
fn csv(row: &Row, header: bool) -> Result<String> {
    let fields = match serde_json::to_value(row).map_err(std::io::Error::from)? {
        Value::Object(fields) => fields,
        other => unreachable!("a struct is an object, not {other}"),
    };
    let (mut names, mut values) = (Vec::new(), Vec::new());
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_array()) {
        names.push(name.clone());
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        values.push(format!("\"{}\"", text.replace('"', "\"\"")));
    }
    let header = if header { names.join(",") + "\n" } else { String::new() };
    Ok(header + &values.join(",") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            build_version: "0.0.0",
            model_filename: "a \"b\".gguf".into(),
            model_type: "llama 134.52 M Q4_1".into(),
            model_size: 98_000_000,
            model_n_params: 134_515_008,
            backends: "cpu-avx2".into(),
            n_threads: 2,
            n_batch: 512,
            test: "pp512".into(),
            n_prompt: 512,
            n_gen: 0,
            n_depth: 0,
            n_sequences: 1,
            avg_ns: 1e9,
            stddev_ns: 0.0,
            avg_ts: 512.0,
            stddev_ts: 0.125,
            samples_ns: vec![1e9],
            samples_ts: vec![512.0],
        }
    }

    #[test]
    fn markdown_lines_are_equally_wide() {
        let table = markdown_header() + &markdown(&row());
        let widths: Vec<usize> = table.lines().map(|line| line.chars().count()).collect();
        assert_eq!(widths, [widths[0]; 3], "{table}");
        assert!(table.contains("|         pp512 |        512.00 ± 0.12 |"), "{table}");
    }

    #[test]
    fn csv_quotes_and_leaves_out_samples() {
        let text = csv(&row(), true).expect("a row is plain data");
        let (header, line) = text.split_once('\n').expect("two lines");
        assert!(
            header.starts_with("build_version,model_filename,") && header.ends_with(",avg_ts,stddev_ts"),
            "{header}"
        );
        assert!(line.contains("\"a \"\"b\"\".gguf\""), "{line}");
        assert_eq!(csv(&row(), false).expect("as above"), line);
    }
}
