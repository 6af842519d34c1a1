//! `aieng info`: what a model file says about itself. Opens the file and checks it, but loads no weights.

use crate::args::ModelArgs;
use crate::failure::Result;
use crate::output;
use crate::summary::{Summary, count, size};
use aieng_runtime::load::{Gguf, TensorInfo, Value};
use aieng_runtime::model::{LayerSpec, ModelSpec, read_spec};
use clap::Args;
use serde::Serialize;
use serde_json::{Map, json};
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
    /// What aieng would run.
    #[serde(skip_serializing_if = "Option::is_none")]
    spec: Option<Spec>,
    /// Why aieng cannot run it.
    #[serde(skip_serializing_if = "Option::is_none")]
    unsupported: Option<String>,
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

/// The parts of a [`ModelSpec`] that people ask for.
#[derive(Debug, Serialize)]
struct Spec {
    hidden: usize,
    context: usize,
    layers: usize,
    /// Of one token, with 16-bit elements.
    kv_bytes_per_token: usize,
    rope_bases: Vec<f32>,
    layer_kinds: Vec<LayerKind>,
}

/// Layers that differ in nothing.
#[derive(Debug, Serialize)]
struct LayerKind {
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    window: Option<u32>,
    mlp_width: usize,
    activation: String,
}

impl Spec {
    fn new(spec: &ModelSpec) -> Spec {
        let mut kinds: Vec<(LayerSpec, usize)> = Vec::new();
        for layer in &spec.layers {
            match kinds.iter_mut().find(|(kind, _)| kind == layer) {
                Some((_, layers)) => *layers += 1,
                None => kinds.push((*layer, 1)),
            }
        }
        Spec {
            hidden: spec.hidden,
            context: spec.context,
            layers: spec.layers.len(),
            kv_bytes_per_token: spec.kv_bytes_per_token(2),
            rope_bases: spec.ropes.iter().map(|rope| rope.base).collect(),
            layer_kinds: kinds.iter().map(|(kind, layers)| LayerKind::new(kind, *layers)).collect(),
        }
    }

    fn listing(&self) -> String {
        let Spec { hidden, context, layers, kv_bytes_per_token, rope_bases, .. } = self;
        let mut lines = format!(
            "  {layers} layers of width {hidden}, context {context}, rope base {rope_bases:?}, \
             {kv_bytes_per_token} bytes of keys and values a token\n"
        );
        for LayerKind { layers, heads, kv_heads, head_dim, window, mlp_width, activation } in &self.layer_kinds {
            let window = window.map_or(String::new(), |window| format!(", window {window}"));
            lines += &format!(
                "  {layers:>3} × {heads} query and {kv_heads} key heads of {head_dim}{window}, {activation} {mlp_width}\n"
            );
        }
        lines
    }
}

impl LayerKind {
    fn new(layer: &LayerSpec, layers: usize) -> LayerKind {
        let LayerSpec { attn, mlp, .. } = layer;
        LayerKind {
            layers,
            heads: attn.heads,
            kv_heads: attn.kv_heads,
            head_dim: attn.head_dim,
            window: attn.window,
            mlp_width: mlp.width,
            activation: format!("{:?}", mlp.activation),
        }
    }
}

impl<'a> Tensor<'a> {
    fn new(tensor: &'a TensorInfo) -> Self {
        Tensor { name: &tensor.name, dtype: tensor.dtype.name(), shape: &tensor.shape, bytes: tensor.len }
    }
}

/// Runs the command. A well-formed model that aieng cannot run is shown all the same.
pub fn run(args: InfoArgs) -> Result<()> {
    let path = args.model.file()?;
    let gguf = Gguf::open(&path)?;
    let summary = Summary::new(&gguf);
    let spec = read_spec(gguf.metadata()).map(|spec| Spec::new(&spec)).map_err(|e| e.to_string());
    if !args.json {
        return Ok(output::text(&listing(&path, &gguf, &summary, &spec, args.tensors))?);
    }
    let (spec, unsupported) = match spec {
        Ok(spec) => (Some(spec), None),
        Err(why) => (None, Some(why)),
    };
    let metadata = gguf.metadata().entries().iter().map(|(key, value)| (key.clone(), json_value(value))).collect();
    let tensors = gguf.tensors().iter().map(Tensor::new).collect();
    output::json(&Output { file: path.display().to_string(), summary, spec, unsupported, metadata, tensors })
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
fn listing(
    path: &Path,
    gguf: &Gguf,
    summary: &Summary,
    spec: &std::result::Result<Spec, String>,
    tensors: bool,
) -> String {
    let mut lines = format!("{}\n{}, {} of weights\n", path.display(), summary.name(), size(summary.bytes));
    lines += &match spec {
        Ok(spec) => spec.listing(),
        Err(why) => format!("  cannot be run: {why}\n"),
    };
    lines += "\nmetadata\n";
    for (key, value) in gguf.metadata().entries() {
        lines += &format!("  {:<42} {}\n", key.escape_debug().to_string(), value.brief());
    }
    lines += "\ntensors\n";
    for total in &summary.dtypes {
        let (params, bytes) = (count(total.parameters), size(total.bytes));
        lines += &format!("  {:<5} {:>5} tensors {params:>12} parameters {bytes:>12}\n", total.dtype, total.tensors);
    }
    if tensors {
        lines += "\n";
        for t in gguf.tensors() {
            let (name, shape) = (t.name.escape_debug().to_string(), format!("{:?}", t.shape));
            lines += &format!("  {name:<32} {:<5} {shape:<16} {:>12}\n", t.dtype.name(), t.len);
        }
    }
    lines
}
