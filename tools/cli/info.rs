//! `aieng info`: what a model file says about itself. Opens the file and checks it, but loads no weights.

use crate::args::ModelArgs;
use crate::failure::Result;
use crate::output;
use crate::summary::{Summary, count, size};
use aieng_runtime::load::{Gguf, TensorInfo, Value};
use clap::Args;
use serde::Serialize;
use serde_json::{Map, json};
use std::fmt::Write;
use std::path::Path;

/// Show a model's metadata, tensors and sizes
#[derive(Debug, Args)]
pub struct InfoArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Print one JSON object with everything
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Output<'a> {
    file: String,
    #[serde(flatten)]
    summary: Summary,
    metadata: Map<String, serde_json::Value>,
    tensors: Vec<Tensor<'a>>,
}

#[derive(Debug, Serialize)]
struct Tensor<'a> {
    name: &'a str,
    dtype: &'static str,
    /// Row length first, as in the file.
    shape: &'a [usize],
    bytes: usize,
}

impl<'a> Tensor<'a> {
    fn new(tensor: &'a TensorInfo) -> Self {
        Tensor { name: &tensor.name, dtype: tensor.dtype.name(), shape: &tensor.shape, bytes: tensor.len }
    }
}

/// Runs the command.
pub fn run(args: InfoArgs) -> Result<()> {
    let path = args.model.file()?;
    let gguf = Gguf::open(&path)?;
    let summary = Summary::new(&gguf);
    if !args.json {
        return Ok(output::text(&listing(&path, &gguf, &summary, args.tensors))?);
    }
    let metadata = gguf.metadata().entries().iter().map(|(key, value)| (key.clone(), json_value(value))).collect();
    let tensors = gguf.tensors().iter().map(Tensor::new).collect();
    output::json(&Output { file: path.display().to_string(), summary, metadata, tensors })
}

/// Scalars as they are; of an array only kind and length, because a vocabulary has 260,000 entries.
fn json_value(value: &Value) -> serde_json::Value {
    match value {
        Value::Unsigned(n) => json!(n),
        Value::Signed(n) => json!(n),
        Value::Float(x) => json!(x),
        Value::Bool(b) => json!(b),
        Value::String(s) => json!(s),
        Value::Array(a) => json!({ "array": a.kind(), "length": a.len() }),
    }
}

/// The text form. Names come from the file, so control characters in them are escaped.
fn listing(path: &Path, gguf: &Gguf, summary: &Summary, tensors: bool) -> String {
    let mut lines = String::new();
    // A String takes every write.
    let _ = writeln!(lines, "{}", path.display());
    let _ = writeln!(lines, "{}, {} of weights", summary.name(), size(summary.bytes));
    let _ = writeln!(lines, "\nmetadata");
    for (key, value) in gguf.metadata().entries() {
        let _ = writeln!(lines, "  {:<42} {}", key.escape_debug().to_string(), value.brief());
    }
    let _ = writeln!(lines, "\ntensors");
    for total in &summary.dtypes {
        let (params, bytes) = (count(total.parameters), size(total.bytes));
        let _ =
            writeln!(lines, "  {:<5} {:>5} tensors {params:>12} parameters {bytes:>12}", total.dtype, total.tensors);
    }
    if tensors {
        let _ = writeln!(lines);
        for t in gguf.tensors() {
            let (name, shape) = (t.name.escape_debug().to_string(), format!("{:?}", t.shape));
            let _ = writeln!(lines, "  {name:<32} {:<5} {shape:<16} {:>12}", t.dtype.name(), t.len);
        }
    }
    lines
}
