//! A model: its spec, its weights, its KV cache, and the one forward pass that runs every architecture.

mod arch;
mod cuda;
mod forward;
mod host;
mod profile;
mod random;
mod spec;
pub mod synthetic;
#[cfg(test)]
mod tests;
#[cfg(any(test, feature = "testing"))]
pub mod tiny;
mod weights;

pub use arch::spec as read_spec;
pub use profile::{Op, Spent, Work};
pub use random::{Quant, RandomMatrix};
pub use spec::{AttnSpec, LayerSpec, MlpSpec, ModelSpec, RopeSpec};
pub use weights::{FileMatrix, LayerWeights, Layout, Origin, Role, Weights};

use crate::batch::Batch;
use crate::engine::{DeviceConfig, EngineConfig, MAX_KV_TOKENS};
use crate::load::Gguf;
use crate::{Error, Result};
use aieng_cuda::Gpu;
use aieng_kernels::cpu::Pool;
use aieng_kernels::sample::{Drawn, Draws};
use aieng_kernels::{BLOCK_TOKENS, Cpu, Device, Isa, KvDType};
use cuda::OnGpu;
use host::Host;
use std::path::Path;
use std::sync::Arc;
use synthetic::Shape;

/// Longest context that is taken when the caller asks for none.
const DEFAULT_CONTEXT: usize = 4096;

/// Is told the fraction of a model that is loaded, 0 to 1; an error ends the load, and is what the load then says.
pub type Progress<'a> = &'a mut dyn FnMut(f32) -> Result<()>;

/// A loaded model on its device.
#[derive(Debug)]
pub struct Model {
    spec: ModelSpec,
    place: Place,
    file: Arc<Gguf>,
    fingerprint: u128,
    context: usize,
    kv_blocks: usize,
    max_batch_tokens: usize,
    logits_rows: usize,
}

/// Where a model's weights and cache are, with what it takes to compute there.
#[derive(Debug)]
enum Place {
    /// The reference device or the CPU.
    Host(Box<Host>),
    /// An NVIDIA GPU.
    Cuda(Box<OnGpu>),
}

/// What a place must have room for.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Longest sequence.
    context: usize,
    /// Tokens of a batch.
    batch_tokens: usize,
    /// Sequences of a batch, and rows of logits that are computed at once.
    sequences: usize,
}

impl Model {
    /// Loads `path` for the device in `config`.
    ///
    /// Errors: what [`Gguf::open`] says; [`Error::ModelFormat`] for missing or misshapen tensors and metadata;
    /// [`Error::Unsupported`] for an architecture, head size, instruction set or device that is not there;
    /// [`Error::InvalidArgument`] for a config out of range; [`Error::OutOfMemory`].
    pub fn load(path: &Path, config: &EngineConfig, progress: Progress) -> Result<Model> {
        Model::from_file(Gguf::open(path)?, config, progress)
    }

    /// As [`Model::load`], from a file that is open already.
    pub fn from_file(file: Gguf, config: &EngineConfig, progress: Progress) -> Result<Model> {
        Model::from_file_to(open_gpu(config)?, file, config, progress)
    }

    /// A model of this shape with random weights, which are made where they are to be: for measuring speed.
    ///
    /// Errors: as [`Model::load`].
    pub fn random(shape: &Shape, quant: Quant, config: &EngineConfig, progress: Progress) -> Result<Model> {
        let file = Arc::new(Gguf::from_bytes(Path::new(shape.name), &shape.metadata().bytes())?);
        Model::with_origin(open_gpu(config)?, file, Origin::Random(shape, quant), config, progress)
    }

    /// As [`Model::from_file`], to a GPU that is open, or to the host.
    fn from_file_to(gpu: Option<Gpu>, file: Gguf, config: &EngineConfig, progress: Progress) -> Result<Model> {
        let file = Arc::new(file);
        Model::with_origin(gpu, Arc::clone(&file), Origin::File(&file), config, progress)
    }

    fn with_origin(
        gpu: Option<Gpu>,
        file: Arc<Gguf>,
        origin: Origin,
        config: &EngineConfig,
        progress: Progress,
    ) -> Result<Model> {
        config.validate()?;
        let spec = read_spec(file.metadata())?;
        let context = if config.context == 0 { spec.context.min(DEFAULT_CONTEXT) } else { config.context };
        if context > spec.context {
            return Err(Error::InvalidArgument(format!("context: {context} is above the model's {}", spec.context)));
        }
        let (batch_tokens, sequences) = (config.max_batch_tokens, config.max_sequences);
        let limits = Limits { context, batch_tokens, sequences };
        // Before the weights, which tell the system that their pages are not needed again.
        let fingerprint = file.fingerprint();
        let place = match gpu {
            Some(gpu) => Place::Cuda(Box::new(OnGpu::load(gpu, origin, &spec, config, limits, progress)?)),
            None => Place::Host(Box::new(Host::load(origin, &spec, config, limits, progress)?)),
        };
        Ok(Model::new(place, spec, file, fingerprint, limits))
    }

    fn new(place: Place, spec: ModelSpec, file: Arc<Gguf>, fingerprint: u128, limits: Limits) -> Model {
        let kv_blocks = place.kv_blocks();
        let Limits { context, batch_tokens: max_batch_tokens, sequences: logits_rows } = limits;
        Model { spec, place, file, fingerprint, context, kv_blocks, max_batch_tokens, logits_rows }
    }

    /// What the model is.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Where sampling runs; of a model on the host, all the rest too.
    pub fn device(&self) -> &Device {
        match &self.place {
            Place::Host(host) => host.device(),
            Place::Cuda(gpu) => gpu.device(),
        }
    }

    /// The set of kernels: "cpu-avx512", for example.
    pub fn kernels(&self) -> &'static str {
        match &self.place {
            Place::Host(host) => host.device().name(),
            Place::Cuda(gpu) => gpu.kernels(),
        }
    }

    /// The GPU's own name, if it runs on one.
    pub fn gpu_name(&self) -> Option<&str> {
        match &self.place {
            Place::Host(_) => None,
            Place::Cuda(gpu) => Some(gpu.name()),
        }
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
        match &self.place {
            Place::Host(host) => host.vocab(),
            Place::Cuda(gpu) => gpu.vocab(),
        }
    }

    /// Longest sequence.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Bytes of the weights as they are laid out.
    pub fn weight_bytes(&self) -> usize {
        match &self.place {
            Place::Host(host) => host.weight_bytes(),
            Place::Cuda(gpu) => gpu.weight_bytes(),
        }
    }

    /// Blocks of the KV cache.
    pub fn kv_blocks(&self) -> usize {
        self.kv_blocks
    }

    /// The KV cache's element format and bytes.
    pub fn kv_memory(&self) -> (KvDType, usize) {
        match &self.place {
            Place::Host(host) => host.kv_memory(),
            Place::Cuda(gpu) => gpu.kv_memory(),
        }
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
    ///
    /// Errors: [`Error::Internal`] where a device fails, which then computes nothing more.
    pub fn forward(&mut self, batch: &Batch) -> Result<()> {
        match &mut self.place {
            Place::Host(host) => host.forward(&self.spec, batch),
            Place::Cuda(gpu) => gpu.forward(&self.spec, batch)?,
        }
        Ok(())
    }

    /// Computes logits of some of the last batch's `logits_indices`, by their place in that list; at most
    /// [`Model::logits_rows`] of them. They stay where the model is, for [`Model::draw`].
    ///
    /// Errors: as [`Model::forward`].
    pub fn launch_logits(&mut self, rows: std::ops::Range<usize>) -> Result<()> {
        match &mut self.place {
            Place::Host(host) => host.compute_logits(&self.spec, rows),
            Place::Cuda(gpu) => gpu.launch_logits(&self.spec, rows)?,
        }
        Ok(())
    }

    /// As [`Model::launch_logits`], and brings them to the host, for [`Model::logits_row`].
    pub fn compute_logits(&mut self, rows: std::ops::Range<usize>) -> Result<()> {
        let count = rows.len();
        self.launch_logits(rows)?;
        match &mut self.place {
            Place::Host(_) => Ok(()),
            Place::Cuda(gpu) => gpu.fetch_logits(count),
        }
    }

    /// Answers draws from the rows of logits that were computed last; `drawn` is overwritten.
    ///
    /// Errors: as [`Model::forward`].
    pub fn draw(&mut self, draws: &Draws, drawn: &mut Vec<Drawn>) -> Result<()> {
        match &mut self.place {
            Place::Host(host) => host.draw(draws, drawn),
            Place::Cuda(gpu) => gpu.draw(draws, drawn)?,
        }
        Ok(())
    }

    /// Row `row` `[vocab]` of the last [`Model::compute_logits`].
    pub fn logits_row(&self, row: usize) -> &[f32] {
        match &self.place {
            Place::Host(host) => host.logits_row(row),
            Place::Cuda(gpu) => gpu.logits_row(row),
        }
    }
}

impl Place {
    fn kv_blocks(&self) -> usize {
        match self {
            Place::Host(host) => host.kv_blocks(),
            Place::Cuda(gpu) => gpu.kv_blocks(),
        }
    }
}

/// The GPU that `config` asks for, if it does.
fn open_gpu(config: &EngineConfig) -> Result<Option<Gpu>> {
    match config.device {
        DeviceConfig::Cuda(ordinal) => Ok(Some(Gpu::open(ordinal)?)),
        DeviceConfig::Reference | DeviceConfig::Cpu(_) => Ok(None),
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

/// The host's device that `config` asks for.
pub(crate) fn open_device(config: &EngineConfig) -> Result<Device> {
    let isa = match config.device {
        DeviceConfig::Reference => return Ok(Device::Reference),
        DeviceConfig::Cpu(isa) => isa,
        DeviceConfig::Cuda(_) => return Err(Error::Unsupported("this needs a device of the host".into())),
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
