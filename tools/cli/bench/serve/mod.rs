//! `aieng bench serve`: an offline load on the engine inside this process, reported as vLLM's `bench serve` does.
//!
//! One thread plays all clients: it submits each request at its time, never more than `--concurrency` at once, and notes
//! when events come. Each run has an engine of its own, warmed up with requests that share nothing with the measured ones.

mod load;
mod measured;
mod options;
mod report;

pub use options::ServeArgs;

use crate::args::load_engine;
use crate::failure::{Failure, Result};
use crate::{interrupt, output, plot};
use aieng_runtime::TokenId;
use aieng_runtime::engine::{Engine, EngineConfig, FinishReason, Request, RequestId};
use aieng_runtime::sampling::SamplingParams;
use load::{Load, Planned};
use measured::{Measured, Timeline};
use options::PolicyName;
use report::Row;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How soon Ctrl-C is noticed while the engine is silent.
const INTERRUPT_POLL: Duration = Duration::from_millis(50);

/// Runs the command.
pub fn run(args: ServeArgs) -> Result<()> {
    let load = args.load()?;
    let model = args.simulate.is_none().then(|| args.model.file()).transpose()?;
    let mut rows = Vec::new();
    let runs = args.runs();
    for (i, (policy, concurrency, rate)) in runs.iter().copied().enumerate() {
        let config = args.engine_config(policy)?;
        let engine = start(&args, model.as_ref(), &config)?;
        fits(&engine, &load)?;
        warm_up(&engine, &load)?;
        let before = engine.metrics();
        let measured = drive(&engine, &load, concurrency, rate)?;
        let row = Row::new(policy, concurrency, rate, &measured, &before, &engine.metrics());
        if !args.json {
            let head = if i == 0 { report::HEAD } else { "" };
            output::text(&format!("{head}{}\n", row.line()))?;
        }
        rows.push(row);
    }
    if args.json {
        output::json_pretty(&report::json(&rows))?;
    }
    match &args.plot {
        Some(path) => draw(path, &rows, args.rate.len() > 1),
        None => Ok(()),
    }
}

fn start(args: &ServeArgs, model: Option<&PathBuf>, config: &EngineConfig) -> Result<Engine> {
    match (model, args.simulate) {
        (Some(path), _) => load_engine(path, config),
        (None, cost) => Ok(Engine::simulated(config, cost.map(|c| c.0).unwrap_or_default())?),
    }
}

/// Refuses a load whose longest request the engine has no room for, before it is half done.
fn fits(engine: &Engine, load: &Load) -> Result<()> {
    let longest = load.longest();
    if longest <= engine.context() {
        return Ok(());
    }
    let context = engine.context();
    Err(Failure::Usage(format!("--prompt-len, --output-len: {longest} tokens together, a context has {context}")))
}

fn request(prompt: Vec<u32>, max_tokens: u32, seed: u64) -> Request {
    let sampling = SamplingParams { temperature: 0.0, max_tokens, ignore_eos: true, seed, ..SamplingParams::default() };
    Request::new(prompt.into_iter().map(TokenId).collect(), sampling)
}

/// Lets the engine touch its memory and its threads start.
fn warm_up(engine: &Engine, load: &Load) -> Result<()> {
    let requests = load.warm_up(engine.vocab_size());
    let count = requests.len();
    for planned in requests {
        engine.submit(request(planned.prompt, planned.output, 0))?;
    }
    let mut ended = 0;
    while ended < count {
        let event = engine.next(None)?;
        ended += usize::from(event.is_some_and(|e| e.finish.is_some()));
    }
    Ok(())
}

/// Plays the load and notes what comes back.
fn drive(engine: &Engine, load: &Load, concurrency: usize, rate: f64) -> Result<Measured> {
    let watch = interrupt::watch();
    let mut planned = load.requests(engine.vocab_size(), rate).into_iter().peekable();
    let mut flying: HashMap<RequestId, Timeline> = HashMap::new();
    let mut done = Vec::new();
    let begin = Instant::now();
    while planned.peek().is_some() || !flying.is_empty() {
        if watch.requested() {
            return Err(Failure::Interrupted);
        }
        let due = |p: &Planned| p.at <= begin.elapsed();
        while flying.len() < concurrency
            && let Some(next) = planned.next_if(due)
        {
            let timeline = Timeline::new(next.prompt.len(), Instant::now());
            let id = engine.submit(request(next.prompt, next.output, next.seed))?;
            flying.insert(id, timeline);
        }
        let until = planned.peek().filter(|_| flying.len() < concurrency).map(|p| p.at.saturating_sub(begin.elapsed()));
        let Some(event) = engine.next(Some(until.unwrap_or(INTERRUPT_POLL).min(INTERRUPT_POLL)))? else { continue };
        let Some(timeline) = flying.get_mut(&event.request) else { continue };
        let now = Instant::now();
        if event.token.is_some() {
            timeline.token(now);
        }
        if let Some(finish) = event.finish {
            if finish.reason == FinishReason::Error {
                return Err(Failure::Failed(finish.message.unwrap_or_else(|| "a request failed".into())));
            }
            done.extend(flying.remove(&event.request));
        }
    }
    Ok(Measured { timelines: done, duration: begin.elapsed() })
}

/// Draws throughput and p99 TTFT over concurrency, or over the rate if there are several.
fn draw(path: &Path, rows: &[Row], over_rate: bool) -> Result<()> {
    let x = |row: &Row| if over_rate { row.request_rate.unwrap_or(0.0) } else { row.max_concurrency as f64 };
    let lines = |y: fn(&Row) -> f64| {
        let of = |policy: &PolicyName| {
            let points = rows.iter().filter(|r| r.policy == policy.name()).map(|r| (x(r), y(r))).collect();
            plot::Line { name: policy.name().to_owned(), points }
        };
        PolicyName::ALL.iter().map(of).filter(|line| !line.points.is_empty()).collect()
    };
    let x_label = if over_rate { "requests/s offered" } else { "concurrency" };
    let panels = [
        plot::Panel { title: "output tokens/s", lines: lines(|r| r.output_throughput) },
        plot::Panel { title: "p99 TTFT in ms", lines: lines(|r| r.ttft.p99) },
    ];
    output::file(path, &plot::lines(x_label, &panels))
}
