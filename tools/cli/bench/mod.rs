//! `aieng bench`: speed by llama-bench's conventions, through the engine's public API.
//!
//! "pp512" is the time from submitting 512 tokens to the first token, "tg128" that of generating 128 tokens after one,
//! "pp512+tg128" both in one request. Each test runs once to warm up, then `-r` times.
//! No two runs share a prompt, so that no cached prefix can make a later one look faster; only the context of `-d` is put into
//! the cache before the clock starts.

mod ceilings;
mod counts;
mod make_model;
mod profile;
mod report;
mod serve;
mod subject;
mod test;
mod turns;

use crate::args::{DeviceName, IsaName, ModelArgs, device_config};
use crate::failure::{Failure, Result};
use aieng_runtime::BLOCK_TOKENS;
use aieng_runtime::engine::{Engine, EngineConfig};
use clap::{Args, Subcommand};
use counts::Counts;
use report::{Format, Report, Row};
use std::path::{Path, PathBuf};
use subject::{QuantName, Subject};
use test::Test;

/// Measure a model's speed
#[derive(Debug, Args)]
#[command(
    after_help = "Numbers can be lists and ranges: 128,512 or 1-4 or 128-512+128 or 1-64*2.",
    args_conflicts_with_subcommands = true
)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: Option<BenchCommand>,
    #[command(flatten)]
    model: ModelArgs,
    /// Prompt lengths; 0 leaves the test out
    #[arg(short = 'p', long, value_name = "N", default_value = "512")]
    n_prompt: Counts,
    /// Numbers of tokens to generate; 0 leaves the test out
    #[arg(short = 'n', long, value_name = "N", default_value = "128")]
    n_gen: Counts,
    /// A prompt and a generation in one test; repeatable
    #[arg(long, value_name = "PP,TG", value_parser = parse_pair)]
    pg: Vec<(usize, usize)>,
    /// Tokens of context that are there before each test (in whole blocks of 16), not measured
    #[arg(short = 'd', long, value_name = "N", default_value = "0")]
    n_depth: Counts,
    /// Worker threads [default: one a physical core]
    #[arg(short, long, value_name = "N")]
    threads: Option<Counts>,
    /// Times that each test is measured
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repetitions: u32,
    /// Tokens in one step of a prompt
    #[arg(short, long, value_name = "N", default_value_t = 512)]
    batch_size: usize,
    /// What computes; the reference is scalar f32, slow and exact
    #[arg(long, value_enum, default_value = "cpu")]
    device: DeviceName,
    /// Which GPU, with --device cuda [default: 0]
    #[arg(long, value_name = "NUMBER")]
    gpu: Option<usize>,
    /// Instruction sets, separated by commas [default: the best that this CPU has]
    #[arg(long, value_enum, value_delimiter = ',')]
    isa: Vec<IsaName>,
    /// Print a JSON array
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print CSV
    #[arg(long)]
    csv: bool,
    /// Break down by operation: prompts of -p tokens, and a step that decodes (unless -n is 0)
    #[arg(long, conflicts_with_all = ["csv", "pg"])]
    profile: bool,
    /// Measure what the machine can do at best: reading, and arithmetic without memory
    #[arg(long, conflicts_with_all = ["csv", "profile"])]
    ceilings: bool,
    /// Measure a model with the sizes of a real one (llama-3-8b: Llama 3 8B) whose random weights are made on the device
    /// and never are a file
    #[arg(long, value_name = "SHAPE", conflicts_with_all = ["model", "make_model", "ceilings"])]
    random_weights: Option<String>,
    /// What --random-weights are held in
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "int4", requires = "random_weights")]
    quant: QuantName,
    /// Write a GGUF file with the sizes of a real model and random weights (llama-1b: Llama 3.2 1B in Q4_0)
    #[arg(long, num_args = 2, value_names = ["SHAPE", "FILE"], conflicts_with_all = ["model", "profile", "ceilings"])]
    make_model: Vec<String>,
    /// Sequences at once
    #[arg(long, value_name = "N", default_value = "1")]
    sequences: Counts,
    /// Draw a bar for each operation
    #[arg(long, value_name = "FILE.svg", requires = "profile")]
    plot: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    Serve(Box<serve::ServeArgs>),
    Turns(Box<turns::TurnsArgs>),
}

/// Runs the command.
pub fn run(mut args: BenchArgs) -> Result<()> {
    match args.command.take() {
        Some(BenchCommand::Serve(serve)) => return serve::run(*serve),
        Some(BenchCommand::Turns(turns)) => return turns::run(*turns),
        None => {}
    }
    if let [shape, path] = &args.make_model[..] {
        return make_model::run(shape, Path::new(path));
    }
    if args.ceilings {
        return ceilings::run(&args);
    }
    if args.profile {
        return profile::run(&args, &configs(&args, &[])?);
    }
    let tests = tests(&args)?;
    let configs = configs(&args, &tests)?;
    let subject = Subject::new(&args)?;
    let mut report = Report::new(match (args.json, args.csv) {
        (true, _) => Format::Json,
        (_, true) => Format::Csv,
        _ => Format::Markdown,
    });
    for config in &configs {
        let model = subject.load(config)?;
        let about = subject.describe(&model)?;
        let (backend, threads) = (model.kernels(), model.device().threads());
        let engine = Engine::start(model, config)?;
        for test in &tests {
            let samples_ns = test.measure(&engine, args.repetitions)?;
            let (avg_ns, stddev_ns) = mean_and_deviation(&samples_ns);
            let samples_ts: Vec<f64> = samples_ns.iter().map(|ns| test.tokens() * 1e9 / ns).collect();
            let (avg_ts, stddev_ts) = mean_and_deviation(&samples_ts);
            report.add(Row {
                build_version: env!("CARGO_PKG_VERSION"),
                model_filename: about.filename.clone(),
                model_type: about.kind.clone(),
                model_size: about.bytes,
                model_n_params: about.parameters,
                backends: backend.to_owned(),
                n_threads: threads,
                n_batch: config.max_batch_tokens,
                test: test.name(),
                n_prompt: test.prompt,
                n_gen: test.generated,
                n_depth: test.depth,
                n_sequences: test.sequences,
                avg_ns,
                stddev_ns,
                avg_ts,
                stddev_ts,
                samples_ns,
                samples_ts,
            })?;
        }
    }
    report.finish()
}

fn parse_pair(text: &str) -> std::result::Result<(usize, usize), String> {
    let (prompt, generated) = text.split_once(',').ok_or("expected PP,TG, as in 512,128")?;
    let number = |text: &str| text.parse().map_err(|e| format!("{text:?}: {e}"));
    Ok((number(prompt)?, number(generated)?))
}

fn tests(args: &BenchArgs) -> Result<Vec<Test>> {
    let prompts = args.n_prompt.0.iter().map(|&prompt| (prompt, 0));
    let gens = args.n_gen.0.iter().map(|&generated| (0, generated));
    let sizes: Vec<_> = prompts.chain(gens).chain(args.pg.iter().copied()).filter(|size| *size != (0, 0)).collect();
    let mut tests = Vec::new();
    for depth in args.n_depth.0.iter().map(|depth| depth / BLOCK_TOKENS * BLOCK_TOKENS) {
        for &sequences in args.sequences.0.iter().filter(|sequences| **sequences > 0) {
            tests.extend(sizes.iter().map(|&(prompt, generated)| Test { prompt, generated, sequences, depth }));
        }
    }
    if tests.is_empty() { Err(Failure::Usage("-p and -n: nothing to measure".into())) } else { Ok(tests) }
}

/// One engine for each instruction set and number of threads, with room for every test.
fn configs(args: &BenchArgs, tests: &[Test]) -> Result<Vec<EngineConfig>> {
    let most = |f: fn(&Test) -> usize| tests.iter().map(f).max().unwrap_or(0);
    let (context, kv_tokens) = (most(|test| test.length()), most(|test| test.kv_tokens()));
    let max_sequences = most(|test| test.sequences).max(1);
    let max_batch_tokens = args.batch_size.max(max_sequences);
    let isas = if args.isa.is_empty() { vec![None] } else { args.isa.iter().copied().map(Some).collect() };
    let threads = args.threads.as_ref().map_or(vec![0], |counts| counts.0.clone());
    let mut configs = Vec::new();
    for isa in isas {
        let device = device_config(args.device, isa, args.gpu)?;
        for &threads in &threads {
            configs.push(EngineConfig {
                device,
                threads,
                context,
                kv_tokens,
                max_sequences,
                max_batch_tokens,
                max_requests: max_sequences,
                ..EngineConfig::default()
            });
        }
    }
    Ok(configs)
}

/// Mean and sample standard deviation; one sample deviates by 0.
fn mean_and_deviation(samples: &[f64]) -> (f64, f64) {
    let n = samples.len() as f64;
    let mean = samples.iter().sum::<f64>() / n;
    let squares: f64 = samples.iter().map(|x| (x - mean).powi(2)).sum();
    (mean, if samples.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 })
}

/// Steele, Lea and Flood's generator: enough for token ids that are different each time and the same each day.
struct SplitMix64(pub u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to but not 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviation_is_that_of_a_sample() {
        assert_eq!(mean_and_deviation(&[1.0, 3.0]), (2.0, 2f64.sqrt()));
        assert_eq!(mean_and_deviation(&[5.0]), (5.0, 0.0));
    }
}
