//! The options of `aieng bench serve`.

use super::load::{Lengths, Load, OutputLengths};
use crate::args::{DeviceArgs, ModelArgs};
use crate::bench::counts::Counts;
use crate::failure::Result;
use aieng_runtime::engine::{EngineConfig, Policy, SimulatedCost};
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Measure an engine under the load of many clients
#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Requests of each run
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    requests: u32,
    /// Most requests at once; several numbers make several runs
    #[arg(long, value_name = "N", default_value = "16")]
    concurrency: Counts,
    /// Requests that arrive in a second, at random times (Poisson); "inf" sends all at once. Several make several runs
    #[arg(long, value_name = "R", value_delimiter = ',', default_value = "inf", value_parser = parse_rate)]
    pub rate: Vec<f64>,
    /// When waiting requests join the batch
    #[arg(long, value_enum, value_delimiter = ',', default_value = "continuous")]
    policy: Vec<PolicyName>,
    /// Tokens of a prompt, behind the shared prefix: a number, or a range to draw from
    #[arg(long, value_name = "A[:B]", default_value = "32:512")]
    prompt_len: Lengths,
    /// Tokens of an answer: a number, or a range to draw from
    #[arg(long, value_name = "A[:B]", default_value = "16:128")]
    output_len: Lengths,
    /// How answers' lengths spread over their range
    #[arg(long, value_enum, default_value = "uniform")]
    output_dist: OutputLengths,
    /// Tokens that all prompts begin with
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    shared_prefix: u32,
    /// Compute every prompt whole
    #[arg(long)]
    no_prefix_cache: bool,
    /// Sequences in one batch
    #[arg(long, value_name = "N", default_value_t = 16)]
    max_sequences: usize,
    /// Tokens in one step
    #[arg(long, value_name = "N", default_value_t = 512)]
    max_batch_tokens: usize,
    /// Tokens of the KV cache; 0 takes room for every sequence of a batch
    #[arg(long, value_name = "N", default_value_t = 0)]
    kv_tokens: usize,
    /// Requests that begin together under the policies dynamic and static [default: --max-sequences]
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// How long the policy dynamic waits for a full batch
    #[arg(long, value_name = "MS", default_value_t = 100)]
    batch_wait_ms: u64,
    /// No model: each step takes this many microseconds, and so many nanoseconds more for each token
    #[arg(long = "simulate-step-us", value_name = "US[:NS]", conflicts_with = "model")]
    pub simulate: Option<Simulate>,
    /// The same seed gives the same requests at the same times
    #[arg(short, long, default_value_t = 0)]
    seed: u64,
    /// Print a JSON array with the field names of vLLM's `bench serve`
    #[arg(long)]
    pub json: bool,
    /// Draw throughput and p99 TTFT, one line a policy, over the concurrency (over the rate, if several are given)
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
}

/// The scheduler's policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PolicyName {
    /// At any step
    Continuous,
    /// When nothing runs, and a batch is full or the first has waited enough
    Dynamic,
    /// When nothing runs
    Static,
}

impl PolicyName {
    pub const ALL: [PolicyName; 3] = [PolicyName::Continuous, PolicyName::Dynamic, PolicyName::Static];

    pub fn name(self) -> &'static str {
        match self {
            PolicyName::Continuous => "continuous",
            PolicyName::Dynamic => "dynamic",
            PolicyName::Static => "static",
        }
    }
}

/// "US[:NS]"
#[derive(Debug, Clone, Copy)]
pub struct Simulate(pub SimulatedCost);

impl FromStr for Simulate {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Simulate, String> {
        let (step, token) = text.split_once(':').unwrap_or((text, "0"));
        let number = |text: &str, most: u64| match text.parse::<u64>() {
            Ok(n) if n <= most => Ok(n),
            Ok(n) => Err(format!("{n} is above {most}")),
            Err(e) => Err(format!("{text:?}: {e}")),
        };
        let (step, token) = (number(step, 60_000_000)?, number(token, 1_000_000_000)?);
        Ok(Simulate(SimulatedCost { step: Duration::from_micros(step), token: Duration::from_nanos(token) }))
    }
}

fn parse_rate(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 => Ok(rate),
        Ok(rate) => Err(format!("{rate} is not above 0")),
        Err(e) => Err(format!("{text:?}: {e}")),
    }
}

impl ServeArgs {
    /// The load, the same in every run.
    pub fn load(&self) -> Result<Load> {
        Ok(Load {
            requests: self.requests as usize,
            prompt: self.prompt_len,
            output: self.output_len,
            spread: self.output_dist,
            shared_prefix: self.shared_prefix as usize,
            seed: self.seed,
        })
    }

    /// Policy, concurrency and rate of each run.
    pub fn runs(&self) -> Vec<(PolicyName, usize, f64)> {
        let mut runs = Vec::new();
        for policy in &self.policy {
            for concurrency in &self.concurrency.0 {
                runs.extend(self.rate.iter().map(|rate| (*policy, (*concurrency).max(1), *rate)));
            }
        }
        runs
    }

    pub fn engine_config(&self, policy: PolicyName) -> Result<EngineConfig> {
        let longest = self.load()?.longest();
        let size = self.batch_size.unwrap_or(self.max_sequences);
        let most = self.concurrency.0.iter().copied().max().unwrap_or(1);
        let room = longest.next_multiple_of(64) * self.max_sequences.min(most.max(1));
        Ok(EngineConfig {
            max_sequences: self.max_sequences,
            max_batch_tokens: self.max_batch_tokens,
            kv_tokens: if self.kv_tokens == 0 { room } else { self.kv_tokens },
            max_requests: most.max(8),
            prefix_cache: !self.no_prefix_cache,
            policy: match policy {
                PolicyName::Continuous => Policy::Continuous,
                PolicyName::Dynamic => Policy::Dynamic { size, wait: Duration::from_millis(self.batch_wait_ms) },
                PolicyName::Static => Policy::Static { size },
            },
            ..self.device.engine_config(longest)?
        })
    }
}
