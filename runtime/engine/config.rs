//! How an engine is set up.

use crate::log::Log;
use crate::scheduler::Policy;
use crate::{Error, Result};
use aieng_kernels::{Isa, KvDType};
use std::time::Duration;

/// Most tokens of a KV cache.
pub const MAX_KV_TOKENS: usize = 1 << 30;

/// Where the model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceConfig {
    /// Scalar f32 oracle: slow and exact.
    Reference,
    /// The CPU; `None` picks the best instruction set.
    Cpu(Option<Isa>),
    /// The NVIDIA GPU of this number. In a build with the emulator and without CUDA it is an emulated one, and the number the
    /// seed of its orders.
    Cuda(usize),
}

/// How to load and run a model. [`Default`] suits one user on the whole machine.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Where the model runs.
    pub device: DeviceConfig,
    /// Worker threads, the step thread included; 0 takes one a physical core that this process may use.
    pub threads: usize,
    /// Pin each worker to a core.
    pub pin: bool,
    /// Longest sequence, prompt and output together; 0 takes the smaller of the model's context and 4096.
    pub context: usize,
    /// Sequences in one batch.
    pub max_sequences: usize,
    /// Tokens in one step.
    pub max_batch_tokens: usize,
    /// KV cache size in tokens, rounded up to blocks, shared by all sequences; 0 takes `context`.
    pub kv_tokens: usize,
    /// KV cache size in bytes, if `kv_tokens` is 0; 0 leaves it to `kv_tokens`.
    pub kv_bytes: usize,
    /// Element format of the KV cache; `None` takes F32 on the reference device, BF16 on a GPU and where the
    /// CPU multiplies that in one instruction, and F16 elsewhere.
    pub kv_dtype: Option<KvDType>,
    /// Requests accepted and not yet finished; one more is [`Error::Busy`].
    pub max_requests: usize,
    /// When waiting requests join the batch.
    pub policy: Policy,
    /// Keep blocks of finished requests, so that a prompt that begins like an earlier one need not be computed again.
    pub prefix_cache: bool,
    /// A step of priority counts as much as having been submitted this much earlier.
    pub ageing: Duration,
    /// Shares of tenants under load (tenant, weight); weights from 1 to 1000, who is not named has 1.
    pub tenant_weights: Vec<(u32, u32)>,
    /// Who is told what happens.
    pub log: Log,
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            device: DeviceConfig::Cpu(None),
            threads: 0,
            pin: true,
            context: 0,
            max_sequences: 16,
            max_batch_tokens: 512,
            kv_tokens: 0,
            kv_bytes: 0,
            kv_dtype: None,
            max_requests: 256,
            policy: Policy::Continuous,
            prefix_cache: true,
            ageing: Duration::from_secs(5),
            tenant_weights: Vec::new(),
            log: Log::default(),
        }
    }
}

impl EngineConfig {
    /// Checks every range that does not depend on the model.
    pub fn validate(&self) -> Result<()> {
        let within = |name: &str, n: usize, least: usize, most: usize| {
            let ok = (least..=most).contains(&n);
            if ok { Ok(()) } else { Err(Error::InvalidArgument(format!("{name}: {n} is not from {least} to {most}"))) }
        };
        within("threads", self.threads, 0, 1024)?;
        within("max_sequences", self.max_sequences, 1, 4096)?;
        within("max_batch_tokens", self.max_batch_tokens, self.max_sequences, 65_536)?;
        within("max_requests", self.max_requests, 1, 1 << 20)?;
        within("context", self.context, 0, 1 << 24)?;
        within("kv_tokens", self.kv_tokens, 0, MAX_KV_TOKENS)?;
        if let Policy::Dynamic { size, .. } | Policy::Static { size } = self.policy {
            within("policy.size", size, 1, self.max_sequences)?;
        }
        within("tenant_weights", self.tenant_weights.len(), 0, 1024)?;
        for (tenant, weight) in &self.tenant_weights {
            within(&format!("weight of tenant {tenant}"), *weight as usize, 1, 1000)?;
        }
        Ok(())
    }
}
