//! Options that several subcommands share: each is defined once and flattened into the commands that take it.
//! Ranges that the runtime checks are not checked again here.

use crate::failure::{Failure, Result};
use crate::models::DEFAULT_MODEL;
use crate::progress::Progress;
use crate::pull::command::model_file;
use aieng_runtime::engine::{DeviceConfig, Engine, EngineConfig};
use aieng_runtime::model::{self, Model};
use aieng_runtime::sampling::SamplingParams;
use aieng_runtime::{Isa, KvDType, TokenId};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};

/// Which model.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// An alias or hf:org/repo/file.gguf, pulled on first use (see `aieng pull --help`), or the path of a GGUF file
    #[arg(short, long, default_value = DEFAULT_MODEL)]
    pub model: String,
}

impl ModelArgs {
    /// The model's file, pulled if it is not there.
    pub fn file(&self) -> Result<PathBuf> {
        model_file(&self.model)
    }
}

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeviceName {
    Cpu,
    Reference,
    /// An NVIDIA GPU; in a build with the feature `emulate` alone, an emulated one
    Cuda,
}

/// Instruction sets, by the names that reports use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IsaName {
    Portable,
    Avx2,
    AvxVnni,
    Avx512,
    Avx512Bf16,
    Amx,
}

impl IsaName {
    fn isa(self) -> Isa {
        match self {
            IsaName::Portable => Isa::Portable,
            IsaName::Avx2 => Isa::Avx2,
            IsaName::AvxVnni => Isa::AvxVnni,
            IsaName::Avx512 => Isa::Avx512,
            IsaName::Avx512Bf16 => Isa::Avx512Bf16,
            IsaName::Amx => Isa::Amx,
        }
    }
}

/// The runtime's name of a device; only the CPU has a choice of instruction sets, and only GPUs have numbers.
pub fn device_config(device: DeviceName, isa: Option<IsaName>, gpu: Option<usize>) -> Result<DeviceConfig> {
    let meaningless = |option| Err(Failure::Usage(format!("{option}: has no meaning with this --device")));
    match (device, isa, gpu) {
        (DeviceName::Cpu, isa, None) => Ok(DeviceConfig::Cpu(isa.map(IsaName::isa))),
        (DeviceName::Reference, None, None) => Ok(DeviceConfig::Reference),
        (DeviceName::Cuda, None, gpu) => Ok(DeviceConfig::Cuda(gpu.unwrap_or(0))),
        (DeviceName::Cpu | DeviceName::Reference, _, Some(_)) => meaningless("--gpu"),
        (DeviceName::Reference | DeviceName::Cuda, Some(_), _) => meaningless("--isa"),
    }
}

/// Where the model runs.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// What computes; the reference is scalar f32, slow and exact
    #[arg(long, value_enum, default_value = "cpu", help_heading = "Device")]
    pub device: DeviceName,
    /// Instruction set [default: the best that this CPU has]
    #[arg(long, value_enum, help_heading = "Device")]
    pub isa: Option<IsaName>,
    /// Which GPU, with --device cuda [default: 0]
    #[arg(long, value_name = "NUMBER", help_heading = "Device")]
    pub gpu: Option<usize>,
    /// Worker threads; 0 takes one a physical core
    #[arg(short, long, default_value_t = 0, hide_default_value = true, help_heading = "Device")]
    pub threads: usize,
    /// Format of the KV cache [default: bf16 or f16, as the device likes; f32 with --device reference]
    #[arg(long, value_enum, value_name = "FORMAT", help_heading = "Device")]
    pub kv_dtype: Option<KvName>,
}

/// Formats of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KvName {
    F32,
    F16,
    Bf16,
    /// 8 bits, and a scale for each token and head
    Q8,
}

impl KvName {
    fn dtype(self) -> KvDType {
        match self {
            KvName::F32 => KvDType::F32,
            KvName::F16 => KvDType::F16,
            KvName::Bf16 => KvDType::BF16,
            KvName::Q8 => KvDType::Q8,
        }
    }
}

impl DeviceArgs {
    /// An engine's configuration for one user, with room for `context` tokens (0: the engine's default).
    pub fn engine_config(&self, context: usize) -> Result<EngineConfig> {
        let device = device_config(self.device, self.isa, self.gpu)?;
        let kv_dtype = self.kv_dtype.map(KvName::dtype);
        Ok(EngineConfig { device, threads: self.threads, context, kv_dtype, ..EngineConfig::default() })
    }
}

/// Loads a model behind a progress bar.
pub fn load_model(path: &Path, config: &EngineConfig) -> Result<Model> {
    with_progress(|progress| Model::load(path, config, progress))
}

/// As [`load_model`], by any means of loading.
pub fn with_progress(load: impl FnOnce(model::Progress) -> aieng_runtime::Result<Model>) -> Result<Model> {
    let progress = Progress::fraction("Loading");
    Ok(load(&mut |done| {
        progress.set_fraction(done);
        Ok(())
    })?)
}

/// Loads a model behind a progress bar and starts its engine.
pub fn load_engine(path: &Path, config: &EngineConfig) -> Result<Engine> {
    Ok(Engine::start(load_model(path, config)?, config)?)
}

/// How tokens are chosen and when generation ends. The defaults are lively and, the seed being fixed, reproducible.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Generate at most this many tokens
    #[arg(short = 'n', long, alias = "n-predict", default_value_t = 512)]
    pub max_tokens: u32,
    /// Randomness; 0 always takes the likeliest token
    #[arg(long, alias = "temp", default_value_t = 0.8, allow_negative_numbers = true)]
    pub temperature: f32,
    /// Choose among the K likeliest tokens; 0 is off
    #[arg(long, value_name = "K", default_value_t = 40)]
    pub top_k: u32,
    /// Choose among the likeliest tokens whose probabilities sum to P; 1 is off
    #[arg(long, value_name = "P", default_value_t = 0.95, allow_negative_numbers = true)]
    pub top_p: f32,
    /// Drop tokens less likely than P times the likeliest; 0 is off
    #[arg(long, value_name = "P", default_value_t = 0.05, allow_negative_numbers = true)]
    pub min_p: f32,
    /// Make tokens of the prompt and the output less likely; 1 is off
    #[arg(long, alias = "repeat-penalty", value_name = "FACTOR", default_value_t = 1.0, allow_negative_numbers = true)]
    pub repetition_penalty: f32,
    /// Subtract from the logit of each token of the output, once
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub presence_penalty: f32,
    /// Subtract from the logit of each token of the output, once per occurrence
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub frequency_penalty: f32,
    /// Add BIAS to the logit of token ID; repeatable
    #[arg(long, value_name = "ID=BIAS", value_parser = parse_bias)]
    pub logit_bias: Vec<(TokenId, f32)>,
    /// The same seed gives the same text
    #[arg(short, long, default_value_t = 0)]
    pub seed: u64,
    /// End before this text appears; repeatable
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// End at this token; repeatable
    #[arg(long, value_name = "ID", value_parser = parse_token)]
    pub stop_token: Vec<TokenId>,
    /// Do not end before this many tokens
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub min_tokens: u32,
    /// Go on after the model's end-of-text tokens
    #[arg(long)]
    pub ignore_eos: bool,
}

impl SamplingArgs {
    /// The runtime's parameters, checked.
    pub fn params(&self, logprobs: Option<u32>) -> Result<SamplingParams> {
        let params = SamplingParams {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: self.logit_bias.clone(),
            seed: self.seed,
            stop: self.stop.clone(),
            stop_token_ids: self.stop_token.clone(),
            max_tokens: self.max_tokens,
            min_tokens: self.min_tokens,
            ignore_eos: self.ignore_eos,
            logprobs,
        };
        params.validate()?;
        Ok(params)
    }
}

fn parse_token(text: &str) -> std::result::Result<TokenId, String> {
    text.parse().map(TokenId).map_err(|e| format!("not a token id: {e}"))
}

fn parse_bias(text: &str) -> std::result::Result<(TokenId, f32), String> {
    let (id, bias) = text.split_once('=').ok_or("expected ID=BIAS, as in 42=-1.5")?;
    Ok((parse_token(id)?, bias.parse().map_err(|e| format!("bias: {e}"))?))
}
