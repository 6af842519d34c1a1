//! A model's weights, found by GGUF's tensor names, checked against the spec and laid out for the device.
//!
//! Projections that read the same input are joined: q, k and v; gate and up.

use super::Progress;
use super::spec::{AttnSpec, LayerSpec, ModelSpec};
use crate::load::{Gguf, TensorInfo};
use crate::{Error, Result, memory};
use aieng_kernels::linear::{Precision, Source, laid_out_bytes};
use aieng_kernels::quant::dequantize_row;
use aieng_kernels::rope::Frequencies;
use aieng_kernels::{Arena, Bytes, Device, Weight};
use std::sync::Arc;

/// Activations whose 8 bits would cost most have 16: those of the blocks that stand out. Of SmolLM2 Q4_1 perplexity on the
/// GPL (f32: 18.300) and the greatest error of the golden first-token log-probabilities (of Gemma 3 the same against the
/// reference device, and the distance from llama.cpp): 18.376 and 0.35 with 8 bits everywhere; 18.313, 0.10, (0.17, 0.28)
/// with 16 everywhere but in gate and up; 18.312, 0.13, (0.12, 0.25) with these, which cost a fifth more multiplications than
/// 8 bits everywhere; 18.306, 0.13, (0.13, 0.39) with 2.0 everywhere.
const HEAD: Precision = Precision::fine_above(1.0);
const ATTENTION: Precision = Precision::fine_above(1.5);
const FEED_FORWARD: Precision = Precision::fine_above(2.0);

/// All weights.
#[derive(Debug)]
pub struct Weights {
    /// `[vocab, hidden]`
    pub embedding: Weight,
    /// `[vocab, hidden]`; `None` where the embedding serves.
    pub head: Option<Weight>,
    /// `[hidden]`
    pub norm: Vec<f32>,
    /// One for each of the spec's ropes.
    pub ropes: Vec<Frequencies>,
    /// One for each of the spec's layers.
    pub layers: Vec<LayerWeights>,
}

/// Weights of one layer. Norms that the spec does not ask for are empty.
#[derive(Debug)]
pub struct LayerWeights {
    /// `[hidden]`
    pub attn_norm: Vec<f32>,
    /// `[q + k + v, hidden]`, with biases if the spec has them.
    pub qkv: Weight,
    /// `[head_dim]`
    pub q_norm: Vec<f32>,
    /// `[head_dim]`
    pub k_norm: Vec<f32>,
    /// `[hidden, q]`
    pub output: Weight,
    /// `[hidden]`
    pub attn_post_norm: Vec<f32>,
    /// `[hidden]`
    pub mlp_norm: Vec<f32>,
    /// `[2 * width, hidden]`
    pub gate_up: Weight,
    /// `[hidden, width]`
    pub down: Weight,
    /// `[hidden]`
    pub mlp_post_norm: Vec<f32>,
}

impl Weights {
    /// Rows of the embedding.
    pub fn vocab(&self) -> usize {
        self.embedding.rows()
    }

    /// The matrix that turns hidden states into logits.
    pub fn head(&self) -> &Weight {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Bytes of all matrices.
    pub fn bytes(&self) -> usize {
        let layer = |l: &LayerWeights| l.qkv.bytes() + l.output.bytes() + l.gate_up.bytes() + l.down.bytes();
        self.embedding.bytes()
            + self.head.as_ref().map_or(0, Weight::bytes)
            + self.layers.iter().map(layer).sum::<usize>()
    }

    /// Reads all weights; `progress` gets the fraction done after each layer; its error ends the load.
    pub fn load(file: &Arc<Gguf>, spec: &ModelSpec, device: &Device, progress: Progress) -> Result<Weights> {
        let loader = Loader { file, device, arena: arena(file, device)? };
        let hidden = spec.hidden;
        let embedding = loader.get("token_embd.weight")?;
        let vocab = embedding.shape.get(1).copied().unwrap_or(1);
        let embedding = loader.matrix(&["token_embd.weight"], &[vocab], hidden, Vec::new())?;
        let embedding = embedding.with_precision(HEAD);
        let head = match file.tensor("output.weight") {
            Some(_) => {
                let head = loader.matrix(&["output.weight"], &[vocab], hidden, Vec::new())?;
                Some(head.with_precision(HEAD))
            }
            None => None,
        };
        let ropes = loader.ropes(spec)?;
        let mut layers = Vec::with_capacity(spec.layers.len());
        for (i, layer) in spec.layers.iter().enumerate() {
            layers.push(loader.layer(i, layer, hidden)?);
            progress((i + 1) as f32 / spec.layers.len() as f32)?;
        }
        Ok(Weights { embedding, head, norm: loader.vector("output_norm.weight", hidden)?, ropes, layers })
    }
}

/// Memory for all matrices as the device wants them.
fn arena(file: &Gguf, device: &Device) -> Result<Arena> {
    let bytes = |t: &TensorInfo| match (device, t.shape.as_slice()) {
        (Device::Cpu(_), [cols, rows]) => laid_out_bytes(t.dtype, *rows, *cols).next_multiple_of(64),
        _ => 0,
    };
    let bytes = file.tensors().iter().map(bytes).fold(0, usize::saturating_add);
    Arena::new(bytes).ok_or_else(|| Error::OutOfMemory(format!("weights: no memory for {bytes} bytes")))
}

struct Loader<'a> {
    file: &'a Arc<Gguf>,
    device: &'a Device,
    arena: Arena,
}

impl Loader<'_> {
    fn error(&self, name: &str, what: impl std::fmt::Display) -> Error {
        Error::format(self.file.metadata().path(), format!("tensor {name}: {what}"))
    }

    fn get(&self, name: &str) -> Result<&TensorInfo> {
        self.file.tensor(name).ok_or_else(|| self.error(name, "missing"))
    }

    fn layer(&self, i: usize, spec: &LayerSpec, hidden: usize) -> Result<LayerWeights> {
        let name = |part: &str| format!("blk.{i}.{part}.weight");
        let AttnSpec { head_dim, .. } = spec.attn;
        let (q, kv, width) = (spec.attn.q_cols(), spec.attn.kv_cols(), spec.mlp.width);
        let matrix = |parts: &[&str], rows: &[usize], cols, bias| {
            let names: Vec<String> = parts.iter().map(|p| name(p)).collect();
            self.matrix(&names.iter().map(String::as_str).collect::<Vec<_>>(), rows, cols, bias)
        };
        let vector_if = |wanted: bool, part: &str, len| {
            if wanted { self.vector(&name(part), len) } else { Ok(Vec::new()) }
        };
        let qkv_bias = if spec.attn.qkv_bias { self.qkv_bias(i, q, kv)? } else { Vec::new() };
        Ok(LayerWeights {
            attn_norm: self.vector(&name("attn_norm"), hidden)?,
            qkv: matrix(&["attn_q", "attn_k", "attn_v"], &[q, kv, kv], hidden, qkv_bias)?.with_precision(ATTENTION),
            q_norm: vector_if(spec.attn.qk_norm, "attn_q_norm", head_dim)?,
            k_norm: vector_if(spec.attn.qk_norm, "attn_k_norm", head_dim)?,
            output: matrix(&["attn_output"], &[hidden], q, Vec::new())?.with_precision(ATTENTION),
            attn_post_norm: vector_if(spec.post_norms, "post_attention_norm", hidden)?,
            mlp_norm: self.vector(&name("ffn_norm"), hidden)?,
            gate_up: matrix(&["ffn_gate", "ffn_up"], &[width, width], hidden, Vec::new())?.with_precision(FEED_FORWARD),
            down: matrix(&["ffn_down"], &[hidden], width, Vec::new())?.with_precision(FEED_FORWARD),
            mlp_post_norm: vector_if(spec.post_norms, "post_ffw_norm", hidden)?,
        })
    }

    fn qkv_bias(&self, i: usize, q: usize, kv: usize) -> Result<Vec<f32>> {
        let mut bias = self.vector(&format!("blk.{i}.attn_q.bias"), q)?;
        memory::reserve("attention biases", &mut bias, 2 * kv)?;
        bias.extend(self.vector(&format!("blk.{i}.attn_k.bias"), kv)?);
        bias.extend(self.vector(&format!("blk.{i}.attn_v.bias"), kv)?);
        Ok(bias)
    }

    /// The matrices `names`, of `rows` rows each, one above the other.
    fn matrix(&self, names: &[&str], rows: &[usize], cols: usize, bias: Vec<f32>) -> Result<Weight> {
        let mut sources = Vec::with_capacity(names.len());
        for (name, rows) in names.iter().zip(rows) {
            let tensor = self.get(name)?;
            if tensor.shape != [cols, *rows] {
                return Err(self.error(name, format!("shape {:?}, expected [{cols}, {rows}]", tensor.shape)));
            }
            let range = tensor.offset..tensor.offset + tensor.len;
            let bytes = Bytes::Shared(Arc::clone(self.file) as _, range);
            sources.push(Source { dtype: tensor.dtype, rows: *rows, bytes });
        }
        // What has been copied would only count as resident.
        let mut copied = |i: usize, range| {
            if let Some(tensor) = self.file.tensor(names[i]) {
                self.file.release_range(tensor, range);
            }
        };
        Weight::new(self.device, cols, &sources, bias, &self.arena, &mut copied)
            .map_err(|e| Error::OutOfMemory(format!("tensor {}: no memory for {} bytes", names[0], e.bytes)))
    }

    /// A vector of any format, as f32.
    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let tensor = self.get(name)?;
        if tensor.shape != [len] {
            return Err(self.error(name, format!("shape {:?}, expected [{len}]", tensor.shape)));
        }
        let mut out = memory::collect(name, len, std::iter::repeat_n(0.0, len))?;
        dequantize_row(tensor.dtype, self.file.bytes(tensor), &mut out);
        Ok(out)
    }

    /// Frequencies of the spec's ropes, divided by `rope_freqs.weight` where the file has it (Llama 3).
    fn ropes(&self, spec: &ModelSpec) -> Result<Vec<Frequencies>> {
        spec.ropes
            .iter()
            .map(|rope| {
                let factors = match self.file.tensor("rope_freqs.weight") {
                    Some(_) => Some(self.vector("rope_freqs.weight", rope.dims / 2)?),
                    None => None,
                };
                if let Some(bad) = factors.iter().flatten().find(|f| f.is_nan() || **f <= 0.0) {
                    return Err(self.error("rope_freqs.weight", format!("{bad} is not greater than 0")));
                }
                Ok(Frequencies::new(rope.dims, rope.base, rope.scaling, factors.as_deref()))
            })
            .collect()
    }
}
