//! `aieng bench --profile`: a prefill and a decoding step broken down by operation.
//!
//! The model runs without the engine round it, so scheduling and delivery are not in the figures; the likeliest token is
//! taken, and its time is part of the rest.

use super::subject::Subject;
use super::{BenchArgs, ceilings};
use crate::failure::{Failure, Result};
use crate::{output, plot};
use aieng_runtime::engine::{DeviceConfig, EngineConfig};
use aieng_runtime::model::{Model, Op, Work};
use aieng_runtime::profile::{Ceilings, Load, OpProfile, Phase, Profile, profile};
use serde_json::{Value, json};
use std::path::Path;

/// Everything that one load's profile says.
struct Report {
    backend: &'static str,
    threads: usize,
    /// None on the reference device.
    ceilings: Option<Ceilings>,
    load: Load,
    profile: Profile,
}

/// Runs `aieng bench --profile`.
pub fn run(args: &BenchArgs, configs: &[EngineConfig]) -> Result<()> {
    let loads = loads(args)?;
    let subject = Subject::new(args)?;
    let mut reports = Vec::new();
    for config in configs {
        let config = with_room(config, &loads);
        let mut model = subject.load(&config)?;
        for &load in &loads {
            let report = Report::measure(&mut model, &config, load, args.repetitions as usize)?;
            if !args.json {
                output::text(&report.table())?;
            }
            reports.push(report);
        }
    }
    if args.json {
        output::json_pretty(&reports.iter().map(Report::json).collect::<Vec<_>>())?;
    }
    args.plot.as_deref().map_or(Ok(()), |path| draw(path, &reports))
}

/// A prefill of each of `-p`, and a step that decodes each of `--sequences` at once, unless `-n` is 0; all at each depth.
fn loads(args: &BenchArgs) -> Result<Vec<Load>> {
    let mut loads = Vec::new();
    for &depth in &args.n_depth.0 {
        let prompts = args.n_prompt.0.iter().filter(|tokens| **tokens > 0);
        loads.extend(prompts.map(|tokens| Load { phase: Phase::Prefill(*tokens), sequences: 1, depth }));
        if args.n_gen.0.iter().any(|tokens| *tokens > 0) {
            let decode = |sequences: &usize| Load { phase: Phase::Decode, sequences: *sequences, depth };
            loads.extend(args.sequences.0.iter().map(decode));
        }
    }
    if loads.is_empty() { Err(Failure::Usage("-p and -n: nothing to profile".into())) } else { Ok(loads) }
}

/// The configuration, with room for every load.
fn with_room(config: &EngineConfig, loads: &[Load]) -> EngineConfig {
    let most = |f: fn(&Load) -> usize| loads.iter().map(f).max().unwrap_or(0);
    let (context, sequences) = (most(Load::length), most(|load| load.sequences));
    EngineConfig {
        context,
        kv_tokens: most(Load::kv_tokens),
        max_sequences: sequences.max(1),
        max_batch_tokens: config.max_batch_tokens.max(sequences),
        ..config.clone()
    }
}

impl Report {
    fn measure(model: &mut Model, config: &EngineConfig, load: Load, repetitions: usize) -> Result<Report> {
        // Next to each load: what memory yields drifts.
        let ceilings = matches!(config.device, DeviceConfig::Cpu(_)).then(|| ceilings::measure(config)).transpose()?;
        let profile = profile(model, load, repetitions)?;
        Ok(Report { backend: model.kernels(), threads: model.device().threads(), ceilings, load, profile })
    }

    fn name(&self) -> String {
        let Load { phase, sequences, depth } = self.load;
        let name = match phase {
            Phase::Prefill(tokens) => format!("pp{tokens}"),
            Phase::Decode if sequences == 1 => "decode".to_owned(),
            Phase::Decode => format!("decode x{sequences}"),
        };
        if depth == 0 { name } else { format!("{name} @ d{depth}") }
    }

    fn seconds(&self) -> f64 {
        self.profile.total.as_secs_f64()
    }

    fn tokens_per_second(&self) -> f64 {
        (self.load.sequences * self.load.tokens()) as f64 / self.seconds()
    }

    fn share(&self, operation: &OpProfile) -> f64 {
        operation.time.as_secs_f64() / self.seconds()
    }

    /// The nearer ceiling's name, and how much of it the operation reached. Above 1 a cache had what was read.
    fn ceiling(&self, operation: &OpProfile) -> Option<(&'static str, f64)> {
        let work = operation.work.filter(|work| work.operations > 0)?;
        let bound = self.ceilings?.bound(work.bytes as f64, work.operations as f64, work.arithmetic);
        Some((bound.name, bound.seconds / operation.time.as_secs_f64()))
    }

    fn table(&self) -> String {
        let mut text = format!(
            "{}, {}, {} threads: {:.3} ms, {:.1} tokens/s\n",
            self.name(),
            self.backend,
            self.threads,
            1e3 * self.seconds(),
            self.tokens_per_second()
        );
        text += &self.ceilings.as_ref().map_or(String::new(), |c| format!("ceilings: {}\n", ceilings::words(c)));
        text += "\n";
        text += "| operation  |       ms |  share |       MB |       GOP |   GB/s |   GOP/s | of the ceiling |\n";
        text += "| ---------- | -------: | -----: | -------: | --------: | -----: | ------: | -------------: |\n";
        for operation in &self.profile.operations {
            let seconds = operation.time.as_secs_f64();
            let (bytes, operations) = counted(operation.work);
            let figure = |x: Option<f64>, unit: f64, digits: usize| {
                x.map_or(String::new(), |x| format!("{:.digits$}", x / unit))
            };
            text += &format!(
                "| {:<10} | {:>8.3} | {:>5.1}% | {:>8} | {:>9} | {:>6} | {:>7} | {:>14} |\n",
                operation.op.name(),
                1e3 * seconds,
                100.0 * self.share(operation),
                figure(bytes, 1e6, 2),
                figure(operations, 1e9, 3),
                figure(bytes.map(|n| n / seconds), 1e9, 1),
                figure(operations.map(|n| n / seconds), 1e9, 1),
                self.ceiling(operation).map_or(String::new(), |(name, of)| format!("{:.1}% {name}", 100.0 * of)),
            );
        }
        text + "\n"
    }

    /// What a chart says behind an operation's bar.
    fn note(&self, operation: &OpProfile) -> String {
        let time = format!("{:.3} ({:.1}%)", 1e3 * operation.time.as_secs_f64(), 100.0 * self.share(operation));
        let ceiling = self.ceiling(operation);
        ceiling.map_or(time.clone(), |(name, of)| format!("{time}, {:.0}% of {name}", 100.0 * of))
    }

    fn json(&self) -> Value {
        let operation = |operation: &OpProfile| {
            let seconds = operation.time.as_secs_f64();
            let (bytes, operations) = counted(operation.work);
            json!({
                "operation": operation.op.name(),
                "ms": 1e3 * seconds,
                "share": self.share(operation),
                "bytes": bytes,
                "operations": operations,
                "bytes_per_second": bytes.map(|n| n / seconds),
                "operations_per_second": operations.map(|n| n / seconds),
                "ceiling": self.ceiling(operation).map(|(name, _)| name),
                "ceiling_share": self.ceiling(operation).map(|(_, share)| share),
            })
        };
        json!({
            "test": self.name(),
            "backend": self.backend,
            "threads": self.threads,
            "ms": 1e3 * self.seconds(),
            "tokens_per_second": self.tokens_per_second(),
            "ceilings": self.ceilings.as_ref().map(ceilings::json),
            "operations": self.profile.operations.iter().map(operation).collect::<Vec<_>>(),
        })
    }
}

/// Bytes and operations of what did any: a rate of nothing would be noise.
fn counted(work: Option<Work>) -> (Option<f64>, Option<f64>) {
    let work = work.filter(|work| work.operations > 0);
    (work.map(|w| w.bytes as f64), work.map(|w| w.operations as f64))
}

/// A panel for each profile, a bar for each operation.
fn draw(path: &Path, reports: &[Report]) -> Result<()> {
    let panels = reports.iter().map(|report| plot::BarPanel {
        title: format!("{}, {}, {} threads: ms", report.name(), report.backend, report.threads),
        bars: report
            .profile
            .operations
            .iter()
            .filter(|o| o.op != Op::Rest || !o.time.is_zero())
            .map(|o| plot::Bar {
                name: o.op.name().to_owned(),
                value: 1e3 * o.time.as_secs_f64(),
                note: report.note(o),
            })
            .collect(),
    });
    output::file(path, &plot::bars(&panels.collect::<Vec<_>>()))
}
