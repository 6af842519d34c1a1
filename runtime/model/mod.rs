//! A model: its spec, its weights, its KV cache, and the one forward pass that runs every architecture.

mod arch;
mod forward;
mod profile;
mod spec;
pub mod synthetic;
#[cfg(test)]
mod tests;
#[cfg(any(test, feature = "testing"))]
pub mod tiny;
mod weights;

pub use arch::spec as read_spec;
pub use profile::{Op, Spent, Work};
pub use spec::{AttnSpec, LayerSpec, MlpSpec, ModelSpec, RopeSpec};
pub use weights::{LayerWeights, Weights};

use crate::batch::Batch;
use crate::engine::{DeviceConfig, EngineConfig, MAX_KV_TOKENS};
use crate::load::Gguf;
use crate::{Error, Result};
use aieng_kernels::cpu::Pool;
use aieng_kernels::kv_write::KvShape;
use aieng_kernels::{BLOCK_TOKENS, Cpu, Device, Isa, KvCache, KvDType};
use std::path::Path;
use std::sync::Arc;

/// Longest context that is taken when the caller asks for none.
const DEFAULT_CONTEXT: usize = 4096;

/// Is told the fraction of a model that is loaded, 0 to 1; an error ends the load, and is what the load then says.
pub type Progress<'a> = &'a mut dyn FnMut(f32) -> Result<()>;

/// A loaded model on its device.
#[derive(Debug)]
pub struct Model {
    device: Device,
    spec: ModelSpec,
    weights: Weights,
    cache: KvCache,
    buffers: forward::Buffers,
    file: Arc<Gguf>,
    fingerprint: u128,
    context: usize,
    max_batch_tokens: usize,
    logits_rows: usize,
}

impl Model {
    /// Loads `path` for the device in `config`.
    ///
    /// Errors: what [`Gguf::open`] says; [`Error::ModelFormat`] for missing or misshapen tensors and metadata;
    /// [`Error::Unsupported`] for an architecture, head size or instruction set that is not there;
    /// [`Error::InvalidArgument`] for a config out of range; [`Error::OutOfMemory`].
    pub fn load(path: &Path, config: &EngineConfig, progress: Progress) -> Result<Model> {
        Model::from_file(Gguf::open(path)?, config, progress)
    }

    /// As [`Model::load`], from a file that is open already.
    pub fn from_file(file: Gguf, config: &EngineConfig, progress: Progress) -> Result<Model> {
        config.validate()?;
        let file = Arc::new(file);
        let spec = read_spec(file.metadata())?;
        let device = open_device(config)?;
        // Before the weights, which tell the system that their pages are not needed again.
        let fingerprint = file.fingerprint();
        let weights = Weights::load(&file, &spec, &device, progress)?;
        let context = if config.context == 0 { spec.context.min(DEFAULT_CONTEXT) } else { config.context };
        if context > spec.context {
            return Err(Error::InvalidArgument(format!("context: {context} is above the model's {}", spec.context)));
        }
        let shape = |l: &LayerSpec| KvShape { heads: l.attn.kv_heads, head_dim: l.attn.head_dim };
        let shapes: Vec<KvShape> = spec.layers.iter().map(shape).collect();
        let dtype = config.kv_dtype.unwrap_or(default_kv_dtype(&device));
        let blocks = kv_blocks(config, context, KvCache::bytes_of_block(dtype, &shapes))?;
        let cache = KvCache::new(dtype, shapes, blocks)
            .map_err(|e| Error::OutOfMemory(format!("KV cache of {blocks} blocks: no memory for {} bytes", e.bytes)))?;
        let buffers = forward::Buffers::new(
            &spec,
            &weights.ropes,
            weights.vocab(),
            config.max_batch_tokens,
            config.max_sequences,
            blocks * BLOCK_TOKENS,
        )?;
        Ok(Model {
            device,
            spec,
            weights,
            cache,
            buffers,
            file,
            fingerprint,
            context,
            max_batch_tokens: config.max_batch_tokens,
            logits_rows: config.max_sequences,
        })
    }

    /// What the model is.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Where it runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The file it came from.
    pub fn file(&self) -> &Arc<Gguf> {
        &self.file
    }

    /// Names the weights: see [`Gguf::fingerprint`].
    pub fn fingerprint(&self) -> u128 {
        self.fingerprint
    }

    /// Number of tokens that logits are computed for.
    pub fn vocab(&self) -> usize {
        self.weights.vocab()
    }

    /// Longest sequence.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Bytes of the weights as they are laid out.
    pub fn weight_bytes(&self) -> usize {
        self.weights.bytes()
    }

    /// Blocks of the KV cache.
    pub fn kv_blocks(&self) -> usize {
        self.cache.blocks()
    }

    /// The KV cache's element format and bytes.
    pub fn kv_memory(&self) -> (KvDType, usize) {
        (self.cache.dtype(), self.cache.bytes())
    }

    /// Most tokens of a batch.
    pub fn max_batch_tokens(&self) -> usize {
        self.max_batch_tokens
    }

    /// Most rows of logits that are computed at once.
    pub fn logits_rows(&self) -> usize {
        self.logits_rows
    }

    /// Makes the batch's copies and runs its tokens, at most [`Model::max_batch_tokens`], through all layers: their keys and
    /// values are then in the cache. Panics for ids outside the vocabulary and slots outside the cache.
    pub fn forward(&mut self, batch: &Batch) {
        batch.copies.iter().for_each(|(from, to)| self.cache.copy_block(*from, *to));
        forward::forward(self, batch);
    }

    /// Computes logits of some of the last batch's `logits_indices`, by their place in that list; at most
    /// [`Model::logits_rows`] of them.
    pub fn compute_logits(&mut self, rows: std::ops::Range<usize>) {
        forward::compute_logits(self, rows);
    }

    /// Row `row` `[vocab]` of the last [`Model::compute_logits`].
    pub fn logits_row(&self, row: usize) -> &[f32] {
        forward::logits_row(self, row)
    }
}

/// Blocks of the KV cache that `config` asks for, of `bytes` bytes each.
fn kv_blocks(config: &EngineConfig, context: usize, bytes: usize) -> Result<usize> {
    match (config.kv_tokens, config.kv_bytes) {
        (0, 0) => Ok(context.div_ceil(BLOCK_TOKENS)),
        (0, budget) if budget / bytes == 0 => {
            Err(Error::InvalidArgument(format!("kv_bytes: {budget} are less than a block's {bytes}")))
        }
        (0, budget) => Ok((budget / bytes).min(MAX_KV_TOKENS / BLOCK_TOKENS)),
        (tokens, 0) => Ok(tokens.div_ceil(BLOCK_TOKENS)),
        (tokens, bytes) => Err(Error::InvalidArgument(format!("kv_bytes: {bytes}, but kv_tokens is {tokens}"))),
    }
}

/// What the device computes attention from fastest, among the formats that cost no quality.
fn default_kv_dtype(device: &Device) -> KvDType {
    match device {
        Device::Reference => KvDType::F32,
        Device::Cpu(cpu) if cpu.isa() == Isa::Avx512Bf16 => KvDType::BF16,
        Device::Cpu(_) => KvDType::F16,
    }
}

/// The device that `config` asks for.
pub(crate) fn open_device(config: &EngineConfig) -> Result<Device> {
    let DeviceConfig::Cpu(isa) = config.device else {
        return Ok(Device::Reference);
    };
    let isa = isa.unwrap_or_else(Isa::best);
    let threads = if config.threads == 0 { available_threads() } else { config.threads };
    let pool = Pool::new(threads, config.pin).map_err(|e| Error::OutOfMemory(format!("{threads} threads: {}", e.0)))?;
    let cpu = Cpu::new(isa, pool);
    cpu.map(Device::Cpu).ok_or_else(|| Error::Unsupported(format!("this machine has no {}", isa.name())))
}

/// Cores that this process may use.
fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}
