//! A model on an NVIDIA GPU: weights, cache and activations in the device's memory.
//!
//! A step is one upload of its integers ([`staging`]), then launches in one stream. A batch in which every sequence has one
//! token is padded to the next power of two, and its launches were recorded for that size when the model was loaded
//! (a CUDA graph): all that changes is in the device's memory. Padding touches no cache, and no row knows of another.
//!
//! Invariant: all memory is had at load; a step allocates nothing, and no error of a device is a panic.

mod forward;
mod staging;

use super::host::kv_shapes;
use super::random::{GROUP, PATTERN, Quant, RandomMatrix};
use super::spec::{LayerSpec, ModelSpec};
use super::weights::{FileMatrix, Layout, Origin, Role, Weights};
use super::{Limits, Progress, kv_blocks};
use crate::batch::Batch;
use crate::engine::EngineConfig;
use crate::{Error, Result, memory};
use aieng_cuda::attention::Workspace;
use aieng_cuda::kv_write::{GpuKvCache, copy_blocks};
use aieng_cuda::linear::{GpuWeight, Int4Rows};
use aieng_cuda::rms_norm::Weighed;
use aieng_cuda::{
    Element, Gpu, GpuBuffer, GpuError, GpuTensor, Graph, PinnedBuffer, attention, rms_norm, rope, sample,
};
use aieng_kernels::cpu::Pool;
use aieng_kernels::sample::{Drawn, Draws};
use aieng_kernels::{Cpu, DType, Device, Isa, KvCache, KvDType};
use half::f16;
use staging::Staging;
use std::ops::Range;

/// Greatest batch whose launches are recorded.
const MAX_BUCKET: usize = 256;

impl From<GpuError> for Error {
    fn from(error: GpuError) -> Error {
        match error {
            GpuError::OutOfMemory { .. } => Error::OutOfMemory(error.to_string()),
            GpuError::Unavailable(_) => Error::Unsupported(error.to_string()),
            GpuError::Failed { .. } | GpuError::Poisoned(_) => Error::Internal(error.to_string()),
        }
    }
}

/// A vector in the device's memory.
#[derive(Debug)]
pub struct GpuVector(GpuBuffer);

impl GpuVector {
    /// f32 `[1, n]`.
    fn view(&self) -> GpuTensor<'_> {
        GpuTensor::new(&self.0, Element::F32, 1, self.0.len() / size_of::<f32>())
    }
}

impl Layout for Gpu {
    type Matrix = GpuWeight;
    type Vector = GpuVector;

    fn matrix(&self, of: FileMatrix) -> Result<GpuWeight> {
        let FileMatrix { role, cols, sources, bias, copied } = of;
        if !cols.is_multiple_of(32) {
            return Err(Error::Unsupported(format!("a matrix of {cols} columns, no multiple of 32, on a CUDA device")));
        }
        let bias = (!bias.is_empty()).then_some(bias.as_slice());
        let interleaved = match (role, sources) {
            (Role::GateUp, [gate, up]) => GpuWeight::gate_up(self, cols, gate, up, bias)?,
            _ => None,
        };
        let weight = match interleaved {
            Some(weight) => weight,
            None => GpuWeight::new(self, cols, sources, bias)?,
        };
        (0..sources.len()).for_each(|i| copied(i, 0..sources[i].bytes.as_slice().len()));
        Ok(weight)
    }

    fn random(&self, mut of: RandomMatrix) -> Result<GpuWeight> {
        let (rows, cols, gated) = (of.rows, of.cols, of.role == Role::GateUp);
        let outputs = if gated { rows / 2 } else { rows };
        if of.quant == Quant::Bf16 {
            return Ok(GpuWeight::repeating(self, cols, &of.pattern(DType::BF16)?, outputs, gated)?);
        }
        let (codes, scale) = of.codes()?;
        let groups = PATTERN * cols / GROUP;
        let (scales, zeros) = (vec![f16::from_f32(scale); groups], vec![8; groups]);
        let pattern = Int4Rows { group: GROUP, rows: PATTERN, codes: &codes, scales: &scales, zeros: &zeros };
        Ok(GpuWeight::int4_repeating(self, cols, &pattern, outputs, gated)?)
    }

    fn vector(&self, values: Vec<f32>) -> Result<GpuVector> {
        Ok(GpuVector(self.from_bytes(bytemuck::cast_slice(&values))?))
    }
}

/// A model in a device's memory.
#[derive(Debug)]
pub(super) struct OnGpu {
    // Graphs are given back before what they use.
    graphs: Vec<Graph>,
    staging: Staging,
    buffers: Buffers,
    /// The logits, where somebody wants to see them.
    logits: PinnedBuffer,
    /// Rows of logits that were computed last.
    rows: usize,
    sampling: sample::Workspace,
    /// The thread that steps.
    host: Device,
    parts: Parts,
    gpu: Gpu,
}

/// What launches only read, but for the cache.
#[derive(Debug)]
struct Parts {
    weights: Weights<GpuWeight, GpuVector>,
    /// Of each of the spec's ropes: `[context, dims]`.
    tables: Vec<GpuBuffer>,
    cache: GpuKvCache,
    workspace: Workspace,
    context: usize,
}

/// Activations for up to T tokens; F is the widest layer's gate. bf16 where nothing else is said.
#[derive(Debug)]
struct Buffers {
    tokens: usize,
    /// `[T, hidden]` f32: the residual stream.
    residual: GpuBuffer,
    /// `[T, hidden]`: what a layer adds to it.
    delta: GpuBuffer,
    /// `[T, hidden]`: the residual on its way into a norm.
    weighed: GpuBuffer,
    /// `[T, q + k + v]`
    qkv: GpuBuffer,
    /// `[T, q]`: attention's result.
    attended: GpuBuffer,
    /// `[T, 2 F]`, where some layer's gate and up have different formats.
    gate_up: GpuBuffer,
    /// `[T, F]`
    gated: GpuBuffer,
    /// `[T, hidden]`: final hidden states of the tokens that need logits.
    last: GpuBuffer,
    /// `[rows, vocab]` f32
    logits: GpuBuffer,
}

impl Buffers {
    fn new(gpu: &Gpu, spec: &ModelSpec, weights: &Weights<GpuWeight, GpuVector>, limits: Limits) -> Result<Buffers> {
        let tokens = limits.batch_tokens.max(bucket(limits.sequences).unwrap_or(0));
        let most = |f: &dyn Fn(&LayerSpec) -> usize| spec.layers.iter().map(f).max().unwrap_or(0);
        let (q, qkv) = (most(&|l| l.attn.q_cols()), most(&|l| l.attn.qkv_cols()));
        let (hidden, width) = (spec.hidden, most(&|l| l.mlp.width));
        let split = weights.layers.iter().any(|l| !l.gate_up.is_gated());
        let rows = |cols: usize, element: Element| gpu.alloc(tokens * cols * element.bytes());
        Ok(Buffers {
            tokens,
            residual: rows(hidden, Element::F32)?,
            delta: rows(hidden, Element::BF16)?,
            weighed: rows(Weighed::stride(hidden), Element::BF16)?,
            qkv: rows(qkv, Element::BF16)?,
            attended: rows(q, Element::BF16)?,
            gate_up: rows(if split { 2 * width } else { 0 }, Element::BF16)?,
            gated: rows(width, Element::BF16)?,
            last: rows(Weighed::stride(hidden), Element::BF16)?,
            logits: gpu.alloc(limits.sequences * weights.embedding.rows() * size_of::<f32>())?,
        })
    }
}

/// What the kernels do not take on this device, though the host's do.
fn check(gpu: &Gpu, spec: &ModelSpec) -> Result<()> {
    let refuse = |what: String| Err(Error::Unsupported(format!("on a CUDA device: {what}")));
    if spec.hidden > rms_norm::MAX_COLS {
        return refuse(format!("rows of {}, above {}", spec.hidden, rms_norm::MAX_COLS));
    }
    if let Some(rope) = spec.ropes.iter().find(|rope| !rope.dims.is_multiple_of(4)) {
        return refuse(format!("{} elements of a head that turn, no multiple of 4", rope.dims));
    }
    let mut dims = spec.layers.iter().map(|l| l.attn.head_dim);
    if let Some(dim) = dims.clone().find(|dim| *dim > attention::MAX_HEAD_DIM) {
        return refuse(format!("heads of {dim} elements, above {}", attention::MAX_HEAD_DIM));
    }
    if let Some(dim) = dims.find(|dim| !attention::fits(gpu, *dim)) {
        let bytes = gpu.properties().block_shared_bytes;
        return refuse(format!("heads of {dim} elements, with {bytes} bytes of shared memory a block"));
    }
    Ok(())
}

/// The size that a batch of `sequences` sequences is padded to, if there is one.
fn bucket(sequences: usize) -> Option<usize> {
    let size = sequences.next_power_of_two();
    (sequences > 0 && size <= MAX_BUCKET).then_some(size)
}

impl OnGpu {
    /// Loads the model to a device.
    pub(super) fn load(
        gpu: Gpu,
        origin: Origin,
        spec: &ModelSpec,
        config: &EngineConfig,
        limits: Limits,
        progress: Progress,
    ) -> Result<OnGpu> {
        let dtype = config.kv_dtype.unwrap_or(KvDType::BF16);
        if dtype == KvDType::F32 {
            return Err(Error::Unsupported("a KV cache of f32 on a CUDA device".into()));
        }
        check(&gpu, spec)?;
        let weights = Weights::load_as(&gpu, origin, spec, progress)?;
        let shapes = kv_shapes(spec);
        let blocks = kv_blocks(config, limits.context, KvCache::bytes_of_block(dtype, &shapes))?;
        let bytes = KvCache::bytes_of_block(dtype, &shapes).saturating_mul(blocks);
        let cache = GpuKvCache::new(&gpu, dtype, shapes, blocks).map_err(|error| match error {
            GpuError::OutOfMemory { .. } => Error::OutOfMemory(format!(
                "KV cache of {blocks} blocks: a CUDA device has no memory for {bytes} bytes"
            )),
            other => other.into(),
        })?;
        let mut tables = memory::list("rotary tables", weights.ropes.len())?;
        for frequencies in &weights.ropes {
            let table = rope::table(frequencies, limits.context);
            let table = table.ok_or_else(|| Error::OutOfMemory("rotary tables: no memory".into()))?;
            tables.push(gpu.from_bytes(bytemuck::cast_slice(&table))?);
        }
        let workspace = Workspace::new(&gpu, Workspace::BYTES)?;
        let buffers = Buffers::new(&gpu, spec, &weights, limits)?;
        let logits = gpu.alloc_pinned(buffers.logits.len())?;
        let staging = Staging::new(&gpu, buffers.tokens, limits, blocks)?;
        let pool = Pool::new(1, false).map_err(|e| Error::OutOfMemory(format!("a thread: {}", e.0)))?;
        let host = Cpu::new(Isa::best(), pool).map_or(Device::Reference, Device::Cpu);
        let parts = Parts { weights, tables, cache, workspace, context: limits.context };
        let sampling = sample::Workspace::new(&gpu, limits.sequences, parts.weights.embedding.rows())?;
        let mut model = OnGpu { graphs: Vec::new(), staging, buffers, logits, rows: 0, sampling, host, parts, gpu };
        model.record(spec, limits)?;
        Ok(model)
    }

    /// Records the launches of every size of batch.
    fn record(&mut self, spec: &ModelSpec, limits: Limits) -> Result<()> {
        let sizes = (0..).map(|i| 1 << i).take_while(|size| Some(*size) <= bucket(limits.sequences.min(MAX_BUCKET)));
        for size in sizes {
            let step = forward::Step::decoding(&self.staging, size, limits.context);
            let OnGpu { gpu, parts, buffers, .. } = self;
            let graph = gpu.capture(|| forward::launch(gpu, spec, parts, buffers, &step))?;
            self.graphs.push(graph);
        }
        Ok(())
    }

    pub(super) fn device(&self) -> &Device {
        &self.host
    }

    pub(super) fn kernels(&self) -> &'static str {
        if self.gpu.is_emulated() { "cuda-emulated" } else { "cuda" }
    }

    pub(super) fn name(&self) -> &str {
        self.gpu.name()
    }

    pub(super) fn vocab(&self) -> usize {
        self.parts.weights.embedding.rows()
    }

    pub(super) fn weight_bytes(&self) -> usize {
        self.parts.weights.matrices().map(GpuWeight::bytes).sum()
    }

    pub(super) fn kv_blocks(&self) -> usize {
        self.parts.cache.blocks()
    }

    pub(super) fn kv_memory(&self) -> (KvDType, usize) {
        (self.parts.cache.dtype(), self.parts.cache.bytes())
    }

    pub(super) fn forward(&mut self, spec: &ModelSpec, batch: &Batch) -> Result<()> {
        // The thread that steps is another than that which loaded.
        self.gpu.enter()?;
        let decoding = batch.len() == batch.context_lens.len();
        let size = bucket(batch.len()).filter(|size| decoding && size.trailing_zeros() < self.graphs.len() as u32);
        let tokens = size.unwrap_or(batch.len());
        self.staging.upload(batch, tokens)?;
        for pairs in independent(&batch.copies) {
            copy_blocks(&self.gpu, self.staging.copies(pairs.clone()), pairs.len(), &self.parts.cache)?;
        }
        match size {
            Some(size) => self.graphs[size.trailing_zeros() as usize].launch()?,
            None => {
                let step = forward::Step::of(&self.staging, batch);
                forward::launch(&self.gpu, spec, &self.parts, &self.buffers, &step)?;
            }
        }
        Ok(forward::gather(&self.gpu, spec, &self.buffers, &self.staging, batch)?)
    }

    pub(super) fn launch_logits(&mut self, spec: &ModelSpec, rows: Range<usize>) -> Result<()> {
        self.rows = rows.len();
        forward::logits(&self.gpu, spec, &self.parts, &self.buffers, rows)?;
        if let Some(cap) = spec.logit_softcap {
            let logits = GpuTensor::new(&self.buffers.logits, Element::F32, self.rows, self.vocab());
            sample::soft_cap(&self.gpu, cap, logits)?;
        }
        Ok(())
    }

    /// Brings `rows` rows of logits to the host.
    pub(super) fn fetch_logits(&mut self, rows: usize) -> Result<()> {
        let bytes = rows * self.vocab() * size_of::<f32>();
        Ok(self.buffers.logits.download(0, &mut self.logits.as_mut_slice()[..bytes])?)
    }

    pub(super) fn draw(&mut self, draws: &Draws, drawn: &mut Vec<Drawn>) -> Result<()> {
        let logits = GpuTensor::new(&self.buffers.logits, Element::F32, self.rows, self.vocab());
        Ok(sample::sample(&mut self.sampling, logits, draws, drawn)?)
    }

    pub(super) fn logits_row(&self, row: usize) -> &[f32] {
        let bytes = self.vocab() * size_of::<f32>();
        bytemuck::cast_slice(&self.logits.as_slice()[row * bytes..][..bytes])
    }
}

/// Runs of copies of which none concerns a block that one before it in the run writes: they may be made in any order.
fn independent(copies: &[(u32, u32)]) -> impl Iterator<Item = Range<usize>> {
    let mut first = 0;
    std::iter::from_fn(move || {
        let start = first;
        let clashes = |i: &usize| copies[start..*i].iter().any(|(_, to)| [copies[*i].0, copies[*i].1].contains(to));
        first = (start..copies.len()).find(clashes).unwrap_or(copies.len());
        (start < first).then_some(start..first)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_that_build_on_one_another_are_told_apart() {
        let runs = |copies: &[(u32, u32)]| independent(copies).collect::<Vec<_>>();
        assert!(runs(&[]).is_empty());
        assert!(runs(&[(1, 2), (1, 3), (4, 5)]).into_iter().eq(std::iter::once(0..3)));
        assert_eq!(runs(&[(1, 2), (2, 3), (3, 4), (9, 4)]), [0..1, 1..2, 2..3, 3..4]);
    }

    #[test]
    fn batches_are_padded_to_powers_of_two() {
        assert_eq!([0, 1, 2, 3, 256, 257].map(bucket), [None, Some(1), Some(2), Some(4), Some(256), None]);
    }
}
