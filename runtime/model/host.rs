//! A model on the host: the reference device or the CPU.

use super::forward;
use super::profile::Recorder;
use super::spec::ModelSpec;
use super::weights::{Origin, Weights};
use super::{Limits, Progress, kv_blocks, open_device};
use crate::batch::Batch;
use crate::engine::EngineConfig;
use crate::{Error, Result, memory};
use aieng_kernels::kv_write::KvShape;
use aieng_kernels::sample::{DrawScratch, Drawn, Draws, draw_all};
use aieng_kernels::{BLOCK_TOKENS, Device, Isa, KvCache, KvDType};
use std::ops::Range;

/// Weights, cache and activations in the host's memory.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) device: Device,
    pub(super) weights: Weights,
    pub(super) cache: KvCache,
    pub(super) buffers: forward::Buffers,
    /// For each of the threads that draw.
    scratch: Vec<DrawScratch>,
}

impl Host {
    pub(super) fn load(
        origin: Origin,
        spec: &ModelSpec,
        config: &EngineConfig,
        limits: Limits,
        progress: Progress,
    ) -> Result<Host> {
        let device = open_device(config)?;
        let weights = Weights::load(origin, spec, &device, progress)?;
        let shapes = kv_shapes(spec);
        let dtype = config.kv_dtype.unwrap_or(default_kv_dtype(&device));
        let blocks = kv_blocks(config, limits.context, KvCache::bytes_of_block(dtype, &shapes))?;
        let cache = KvCache::new(dtype, shapes, blocks)
            .map_err(|e| Error::OutOfMemory(format!("KV cache of {blocks} blocks: no memory for {} bytes", e.bytes)))?;
        let Limits { batch_tokens, sequences, .. } = limits;
        let kv_tokens = blocks * BLOCK_TOKENS;
        let buffers = forward::Buffers::new(spec, &weights, batch_tokens, sequences, kv_tokens)?;
        let scratch = memory::draw_scratch(weights.vocab(), device.threads().min(sequences))?;
        Ok(Host { device, weights, cache, buffers, scratch })
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    pub(super) fn vocab(&self) -> usize {
        self.weights.vocab()
    }

    pub(super) fn weight_bytes(&self) -> usize {
        self.weights.bytes()
    }

    pub(super) fn kv_blocks(&self) -> usize {
        self.cache.blocks()
    }

    pub(super) fn kv_memory(&self) -> (KvDType, usize) {
        (self.cache.dtype(), self.cache.bytes())
    }

    pub(super) fn recorder(&mut self) -> &mut Recorder {
        &mut self.buffers.recorder
    }

    pub(super) fn forward(&mut self, spec: &ModelSpec, batch: &Batch) {
        batch.copies.iter().for_each(|(from, to)| self.cache.copy_block(*from, *to));
        forward::forward(self, spec, batch);
    }

    pub(super) fn compute_logits(&mut self, spec: &ModelSpec, rows: Range<usize>) {
        forward::compute_logits(self, spec, rows);
    }

    pub(super) fn draw(&mut self, draws: &Draws, drawn: &mut Vec<Drawn>) {
        let (vocab, logits) = (self.weights.vocab(), &*self.buffers.logits);
        draw_all(&self.device, draws, |row| &logits[row * vocab..][..vocab], &mut self.scratch, drawn);
    }

    pub(super) fn logits_row(&self, row: usize) -> &[f32] {
        &self.buffers.logits[row * self.vocab()..][..self.vocab()]
    }
}

/// What each layer stores for a token.
pub(super) fn kv_shapes(spec: &ModelSpec) -> Vec<KvShape> {
    spec.layers.iter().map(|l| KvShape { heads: l.attn.kv_heads, head_dim: l.attn.head_dim }).collect()
}

/// What the device computes attention from fastest, among the formats that cost no quality.
fn default_kv_dtype(device: &Device) -> KvDType {
    match device {
        Device::Reference => KvDType::F32,
        Device::Cpu(cpu) if cpu.isa() >= Isa::Avx512Bf16 => KvDType::BF16,
        Device::Cpu(_) => KvDType::F16,
    }
}
