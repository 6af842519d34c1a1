//! What an engine runs.

use super::Executor;
use crate::load::Metadata;
use aieng_kernels::{Device, Isa, KvDType};
use std::fmt;

/// A model on its device.
#[derive(Debug, Clone)]
pub struct Info {
    /// What the file calls the model; empty where it says nothing.
    pub name: String,
    /// The file's architecture; empty where it says nothing.
    pub architecture: String,
    /// Names the weights: see [`Gguf::fingerprint`](crate::load::Gguf::fingerprint).
    pub fingerprint: u128,
    /// The set of kernels: "cpu-avx512", for example.
    pub kernels: &'static str,
    /// The instruction set, if that is what computes.
    pub isa: Option<Isa>,
    /// The GPU's own name, where one is used.
    pub gpu: Option<String>,
    /// Threads that run kernels.
    pub threads: usize,
    /// Bytes of all matrices.
    pub weight_bytes: usize,
    /// Element format of the KV cache.
    pub kv_dtype: KvDType,
    /// Bytes of the KV cache.
    pub kv_bytes: usize,
}

/// What a file calls itself is cut after this: it may be as long as the file.
const MAX_NAME_BYTES: usize = 256;

impl Info {
    /// Of an executor without weights and cache, whose model says this of itself.
    pub(super) fn new(executor: &impl Executor, metadata: &Metadata) -> Info {
        let text = |key| {
            let text = metadata.str(key).ok().flatten().unwrap_or_default();
            text[..text.floor_char_boundary(MAX_NAME_BYTES)].to_owned()
        };
        let device = executor.device();
        Info {
            name: text("general.name"),
            architecture: text("general.architecture"),
            fingerprint: executor.fingerprint(),
            kernels: executor.kernels(),
            isa: if let Device::Cpu(cpu) = device { Some(cpu.isa()) } else { None },
            gpu: None,
            threads: device.threads(),
            weight_bytes: 0,
            kv_dtype: KvDType::F32,
            kv_bytes: 0,
        }
    }
}

impl fmt::Display for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Info { name, architecture, kernels, threads, weight_bytes, kv_bytes, kv_dtype, .. } = self;
        let (weights, kv) = (weight_bytes >> 20, kv_bytes >> 20);
        write!(f, "{name} ({architecture}), {weights} MiB of weights, {kv} MiB of KV cache ({}), ", kv_dtype.name())?;
        write!(f, "{kernels} with {threads} threads")
    }
}
