//! A model's weights, found by GGUF's tensor names, checked against the spec and laid out for the device.
//!
//! Projections that read the same input are joined: q, k and v; gate and up. What a matrix and a vector become is a
//! [`Layout`]'s business, one for each kind of memory; names and shapes are said once.

use super::Progress;
use super::random::{self, Quant, RandomMatrix};
use super::spec::{AttnSpec, LayerSpec, ModelSpec};
use super::synthetic::Shape;
use crate::load::{Gguf, TensorInfo};
use crate::{Error, Result, memory};
use aieng_kernels::linear::{Precision, Source, laid_out_bytes};
use aieng_kernels::quant::dequantize_row;
use aieng_kernels::rope::Frequencies;
use aieng_kernels::{Arena, Bytes, DType, Device, Weight};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Activations whose 8 bits would cost most have more: those of the blocks that stand out. Measured on the GPL: by how much (root
/// mean square) log-likelihoods of SmolLM2 Q4_1 and of Gemma 3 Q4_K_M differ from those in f32, and SmolLM2's perplexity (f32:
/// 18.300). With these 0.052, 0.047, 18.318; llama.cpp 0.083, 0.107, 18.354; 16 bits everywhere (what is left are bf16 keys,
/// values and weights of attention) 0.015, 0.011, 18.299; 8 bits everywhere 0.117, 0.096, 18.436. In SmolLM2's layers 8% of the
/// words of codes are multiplied twice, and hardly any where activations are normally distributed. A threshold for each kind of
/// matrix was tried: an error as great at a cost as great.
const HEAD: Precision = Precision::fine_above(1.6);
const LAYERS: Precision = Precision::fine_above(2.0);

/// What a matrix is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The embedding, which may be the head too, or the head.
    Vocabulary,
    /// Of attention: into queries, keys and values, or out again.
    Attention,
    /// Gate above up.
    GateUp,
    /// Of the feed-forward network, back to the residual stream.
    Down,
}

/// A matrix as the file has it.
pub struct FileMatrix<'a> {
    /// What it is for.
    pub role: Role,
    /// Input features.
    pub cols: usize,
    /// Its rows, from top to bottom.
    pub sources: &'a [Source],
    /// One value for each row, or none at all.
    pub bias: Vec<f32>,
    /// Is told which bytes of source `i` are not needed any more.
    pub copied: &'a mut dyn FnMut(usize, Range<usize>),
}

/// Where weights come from.
#[derive(Debug, Clone, Copy)]
pub enum Origin<'a> {
    /// A file's tensors.
    File(&'a Arc<Gguf>),
    /// Nowhere: they are random.
    Random(&'a Shape, Quant),
}

/// Some kind of memory, and how weights are laid out there.
pub trait Layout {
    /// A matrix with an optional bias.
    type Matrix: fmt::Debug;
    /// A vector of f32.
    type Vector: fmt::Debug;

    /// The matrix, laid out.
    ///
    /// Errors: [`Error::OutOfMemory`]; [`Error::Unsupported`] for a shape that the device does not take.
    fn matrix(&self, of: FileMatrix) -> Result<Self::Matrix>;

    /// A matrix of random weights, laid out.
    ///
    /// Errors: [`Error::OutOfMemory`].
    fn random(&self, of: RandomMatrix) -> Result<Self::Matrix>;

    /// The vector of these values.
    ///
    /// Errors: [`Error::OutOfMemory`].
    fn vector(&self, values: Vec<f32>) -> Result<Self::Vector>;
}

/// The host's memory, for one of its devices.
struct OnHost<'a> {
    device: &'a Device,
    arena: Arena,
}

impl Layout for OnHost<'_> {
    type Matrix = Weight;
    type Vector = Vec<f32>;

    fn matrix(&self, of: FileMatrix) -> Result<Weight> {
        let weight = Weight::new(self.device, of.cols, of.sources, of.bias, &self.arena, of.copied)
            .map_err(|e| Error::OutOfMemory(format!("no memory for {} bytes", e.bytes)))?;
        Ok(weight.with_precision(if of.role == Role::Vocabulary { HEAD } else { LAYERS }))
    }

    fn random(&self, mut of: RandomMatrix) -> Result<Weight> {
        let pattern = of.pattern(of.quant.on_host())?;
        let row_bytes = pattern.dtype.row_bytes(of.cols);
        let len = of.rows * row_bytes;
        let repeated = pattern.bytes.as_slice().iter().copied().cycle();
        let bytes = Arc::new(memory::collect("random weights", len, repeated)?);
        let source = |rows: Range<usize>| Source {
            dtype: pattern.dtype,
            rows: rows.len(),
            bytes: Bytes::Shared(bytes.clone(), rows.start * row_bytes..rows.end * row_bytes),
        };
        let sources = match of.role {
            Role::GateUp => vec![source(0..of.rows / 2), source(of.rows / 2..of.rows)],
            _ => vec![source(0..of.rows)],
        };
        self.matrix(FileMatrix {
            role: of.role,
            cols: of.cols,
            sources: &sources,
            bias: Vec::new(),
            copied: &mut |_, _| (),
        })
    }

    fn vector(&self, values: Vec<f32>) -> Result<Vec<f32>> {
        Ok(values)
    }
}

/// Memory for all matrices as the device wants them.
fn arena(origin: Origin, device: &Device) -> Result<Arena> {
    let matrices: &mut dyn Iterator<Item = (DType, usize, usize)> = match origin {
        _ if !matches!(device, Device::Cpu(_)) => &mut std::iter::empty(),
        Origin::File(file) => &mut file.tensors().iter().filter_map(|t| match t.shape.as_slice() {
            [cols, rows] => Some((t.dtype, *rows, *cols)),
            _ => None,
        }),
        Origin::Random(shape, quant) => &mut random::matrices_on_host(shape, quant),
    };
    let bytes = matrices.map(|(dtype, rows, cols)| laid_out_bytes(dtype, rows, cols).next_multiple_of(64));
    let bytes = bytes.fold(0, usize::saturating_add);
    Arena::new(bytes).ok_or_else(|| Error::OutOfMemory(format!("weights: no memory for {bytes} bytes")))
}

/// All weights, on the host unless another kind of matrix and vector is named.
#[derive(Debug)]
pub struct Weights<M = Weight, V = Vec<f32>> {
    /// `[vocab, hidden]`
    pub embedding: M,
    /// `[vocab, hidden]`; `None` where the embedding serves.
    pub head: Option<M>,
    /// `[hidden]`
    pub norm: V,
    /// One for each of the spec's ropes.
    pub ropes: Vec<Frequencies>,
    /// One for each of the spec's layers.
    pub layers: Vec<LayerWeights<M, V>>,
}

/// Weights of one layer. Norms that the spec does not ask for are `None`.
#[derive(Debug)]
pub struct LayerWeights<M = Weight, V = Vec<f32>> {
    /// `[hidden]`
    pub attn_norm: V,
    /// `[q + k + v, hidden]`, with biases if the spec has them.
    pub qkv: M,
    /// `[head_dim]`
    pub q_norm: Option<V>,
    /// `[head_dim]`
    pub k_norm: Option<V>,
    /// `[hidden, q]`
    pub output: M,
    /// `[hidden]`
    pub attn_post_norm: Option<V>,
    /// `[hidden]`
    pub mlp_norm: V,
    /// `[2 * width, hidden]`
    pub gate_up: M,
    /// `[hidden, width]`
    pub down: M,
    /// `[hidden]`
    pub mlp_post_norm: Option<V>,
}

impl Weights {
    /// Rows of the embedding.
    pub fn vocab(&self) -> usize {
        self.embedding.rows()
    }

    /// Bytes of all matrices.
    pub fn bytes(&self) -> usize {
        self.matrices().map(Weight::bytes).sum()
    }

    /// Reads all weights; `progress` gets the fraction done after each layer; its error ends the load.
    pub fn load(origin: Origin, spec: &ModelSpec, device: &Device, progress: Progress) -> Result<Weights> {
        Weights::load_as(&OnHost { device, arena: arena(origin, device)? }, origin, spec, progress)
    }
}

impl<M: fmt::Debug, V: fmt::Debug> Weights<M, V> {
    /// The matrix that turns hidden states into logits.
    pub fn head(&self) -> &M {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// All matrices.
    pub fn matrices(&self) -> impl Iterator<Item = &M> {
        let layers = self.layers.iter().flat_map(|l| [&l.qkv, &l.output, &l.gate_up, &l.down]);
        [Some(&self.embedding), self.head.as_ref()].into_iter().flatten().chain(layers)
    }

    /// As [`Weights::load`], into the memory of `layout`.
    pub fn load_as(
        layout: &impl Layout<Matrix = M, Vector = V>,
        origin: Origin,
        spec: &ModelSpec,
        progress: Progress,
    ) -> Result<Weights<M, V>> {
        let file = match origin {
            Origin::File(file) => file,
            Origin::Random(shape, quant) => return random::weights(layout, shape, quant, spec, progress),
        };
        let loader = Loader { file, layout };
        let hidden = spec.hidden;
        let embedding = loader.get("token_embd.weight")?;
        let vocab = embedding.shape.get(1).copied().unwrap_or(1);
        let of_vocabulary = |name| loader.matrix(Role::Vocabulary, &[name], &[vocab], hidden, Vec::new());
        let embedding = of_vocabulary("token_embd.weight")?;
        let head = match file.tensor("output.weight") {
            Some(_) => Some(of_vocabulary("output.weight")?),
            None => None,
        };
        let ropes = loader.ropes(spec)?;
        let mut layers = memory::list("layers", spec.layers.len())?;
        for (i, layer) in spec.layers.iter().enumerate() {
            layers.push(loader.layer(i, layer, hidden)?);
            progress((i + 1) as f32 / spec.layers.len() as f32)?;
        }
        Ok(Weights { embedding, head, norm: loader.vector("output_norm.weight", hidden)?, ropes, layers })
    }
}

struct Loader<'a, L> {
    file: &'a Arc<Gguf>,
    layout: &'a L,
}

impl<L: Layout> Loader<'_, L> {
    fn error(&self, name: &str, what: impl std::fmt::Display) -> Error {
        Error::format(self.file.metadata().path(), format!("tensor {name}: {what}"))
    }

    fn get(&self, name: &str) -> Result<&TensorInfo> {
        self.file.tensor(name).ok_or_else(|| self.error(name, "missing"))
    }

    fn layer(&self, i: usize, spec: &LayerSpec, hidden: usize) -> Result<LayerWeights<L::Matrix, L::Vector>> {
        let name = |part: &str| format!("blk.{i}.{part}.weight");
        let AttnSpec { head_dim, .. } = spec.attn;
        let (q, kv, width) = (spec.attn.q_cols(), spec.attn.kv_cols(), spec.mlp.width);
        let matrix = |role, parts: &[&str], rows: &[usize], cols, bias| {
            let names: Vec<String> = parts.iter().map(|p| name(p)).collect();
            self.matrix(role, &names.iter().map(String::as_str).collect::<Vec<_>>(), rows, cols, bias)
        };
        let vector_if = |wanted: bool, part: &str, len| wanted.then(|| self.vector(&name(part), len)).transpose();
        let qkv_bias = if spec.attn.qkv_bias { self.qkv_bias(i, q, kv)? } else { Vec::new() };
        Ok(LayerWeights {
            attn_norm: self.vector(&name("attn_norm"), hidden)?,
            qkv: matrix(Role::Attention, &["attn_q", "attn_k", "attn_v"], &[q, kv, kv], hidden, qkv_bias)?,
            q_norm: vector_if(spec.attn.qk_norm, "attn_q_norm", head_dim)?,
            k_norm: vector_if(spec.attn.qk_norm, "attn_k_norm", head_dim)?,
            output: matrix(Role::Attention, &["attn_output"], &[hidden], q, Vec::new())?,
            attn_post_norm: vector_if(spec.post_norms, "post_attention_norm", hidden)?,
            mlp_norm: self.vector(&name("ffn_norm"), hidden)?,
            gate_up: matrix(Role::GateUp, &["ffn_gate", "ffn_up"], &[width, width], hidden, Vec::new())?,
            down: matrix(Role::Down, &["ffn_down"], &[hidden], width, Vec::new())?,
            mlp_post_norm: vector_if(spec.post_norms, "post_ffw_norm", hidden)?,
        })
    }

    fn qkv_bias(&self, i: usize, q: usize, kv: usize) -> Result<Vec<f32>> {
        let mut bias = self.values(&format!("blk.{i}.attn_q.bias"), q)?;
        memory::reserve("attention biases", &mut bias, 2 * kv)?;
        bias.extend(self.values(&format!("blk.{i}.attn_k.bias"), kv)?);
        bias.extend(self.values(&format!("blk.{i}.attn_v.bias"), kv)?);
        Ok(bias)
    }

    /// The matrices `names`, of `rows` rows each, one above the other.
    fn matrix(&self, role: Role, names: &[&str], rows: &[usize], cols: usize, bias: Vec<f32>) -> Result<L::Matrix> {
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
        let of = FileMatrix { role, cols, sources: &sources, bias, copied: &mut copied };
        self.layout.matrix(of).map_err(|error| match error {
            Error::OutOfMemory(what) => Error::OutOfMemory(format!("tensor {}: {what}", names[0])),
            Error::Unsupported(what) => Error::Unsupported(format!("tensor {}: {what}", names[0])),
            other => other,
        })
    }

    fn vector(&self, name: &str, len: usize) -> Result<L::Vector> {
        self.layout.vector(self.values(name, len)?)
    }

    /// A vector of any format, as f32.
    fn values(&self, name: &str, len: usize) -> Result<Vec<f32>> {
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
                    Some(_) => Some(self.values("rope_freqs.weight", rope.dims / 2)?),
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
