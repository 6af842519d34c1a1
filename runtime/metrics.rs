//! What an engine counts and measures, with vLLM's names, read without locks from any thread.
//!
//! Each value has one writer, the step thread, which therefore adds with a plain load and store; rejects are counted by
//! the threads that submit. A snapshot reads one value after the other: each is exact, but a step may end between two of
//! them. Recording allocates nothing.

use crate::engine::FinishReason;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the histograms' buckets in seconds: those of vLLM's time_to_first_token_seconds
/// (vllm/v1/metrics/loggers.py), for all of them, because its other lists begin too high for a small model.
pub const BUCKETS: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
];

/// The same in nanoseconds.
const BUCKETS_NS: [u64; BUCKETS.len()] = {
    let mut bounds = [0; BUCKETS.len()];
    let mut i = 0;
    while i < bounds.len() {
        bounds[i] = (BUCKETS[i] * 1e9).round() as u64;
        i += 1;
    }
    bounds
};

/// The ends that requests can have, in the order of [`Snapshot::finished`].
pub const REASONS: [(FinishReason, &str); 5] = [
    (FinishReason::Stop, "stop"),
    (FinishReason::Length, "length"),
    (FinishReason::Cancelled, "cancelled"),
    (FinishReason::Deadline, "deadline"),
    (FinishReason::Error, "error"),
];

/// A number that one thread writes and any thread reads.
#[derive(Debug, Default)]
pub(crate) struct Cell(AtomicU64);

impl Cell {
    /// Only by the writer.
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Only by the writer.
    pub(crate) fn add(&self, n: u64) {
        self.set(self.get() + n);
    }

    /// By any thread, if all use this.
    pub(crate) fn add_shared(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Durations by size.
#[derive(Debug, Default)]
pub(crate) struct Times {
    /// One for each of [`BUCKETS`], and one for what is longer.
    counts: [Cell; BUCKETS.len() + 1],
    nanoseconds: Cell,
}

impl Times {
    /// Only by the writer.
    pub(crate) fn record(&self, time: Duration) {
        let nanoseconds = time.as_nanos() as u64;
        // One after the other: what is recorded for each token lies in the first few, and most often in the same one.
        let bucket = BUCKETS_NS.iter().position(|bound| nanoseconds <= *bound).unwrap_or(BUCKETS.len());
        self.counts[bucket].add(1);
        self.nanoseconds.add(nanoseconds);
    }

    fn read(&self) -> Histogram {
        let counts = std::array::from_fn(|i| self.counts[i].get());
        Histogram { counts, sum: Duration::from_nanos(self.nanoseconds.get()) }
    }
}

/// What an engine records; see [`Snapshot`] for the meanings.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) running: Cell,
    pub(crate) waiting: Cell,
    pub(crate) kv_blocks_used: Cell,
    pub(crate) kv_blocks: Cell,
    pub(crate) prefix_queries: Cell,
    pub(crate) prefix_hits: Cell,
    pub(crate) evictions: Cell,
    pub(crate) preemptions: Cell,
    pub(crate) prompt_tokens: Cell,
    pub(crate) generation_tokens: Cell,
    pub(crate) finished: [Cell; REASONS.len()],
    pub(crate) rejected_busy: Cell,
    pub(crate) rejected_invalid: Cell,
    pub(crate) steps: Cell,
    pub(crate) step_nanoseconds: Cell,
    pub(crate) kernel_nanoseconds: Cell,
    pub(crate) time_to_first_token: Times,
    pub(crate) inter_token_latency: Times,
    pub(crate) e2e_latency: Times,
    pub(crate) queue_time: Times,
}

impl Metrics {
    pub(crate) fn finish(&self, reason: FinishReason) {
        if let Some(i) = REASONS.iter().position(|(r, _)| *r == reason) {
            self.finished[i].add(1);
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            running: self.running.get(),
            waiting: self.waiting.get(),
            kv_blocks_used: self.kv_blocks_used.get(),
            kv_blocks: self.kv_blocks.get(),
            prefix_queries: self.prefix_queries.get(),
            prefix_hits: self.prefix_hits.get(),
            evictions: self.evictions.get(),
            preemptions: self.preemptions.get(),
            prompt_tokens: self.prompt_tokens.get(),
            generation_tokens: self.generation_tokens.get(),
            finished: std::array::from_fn(|i| self.finished[i].get()),
            rejected_busy: self.rejected_busy.get(),
            rejected_invalid: self.rejected_invalid.get(),
            steps: self.steps.get(),
            step_time: Duration::from_nanos(self.step_nanoseconds.get()),
            kernel_time: Duration::from_nanos(self.kernel_nanoseconds.get()),
            time_to_first_token: self.time_to_first_token.read(),
            inter_token_latency: self.inter_token_latency.read(),
            e2e_latency: self.e2e_latency.read(),
            queue_time: self.queue_time.read(),
        }
    }
}

/// Durations by size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Histogram {
    /// How many fell up to each of [`BUCKETS`] and above the one before; the last one holds what is longer.
    pub counts: [u64; BUCKETS.len() + 1],
    /// All of them together.
    pub sum: Duration,
}

impl Histogram {
    /// How many.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// The state of an engine at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Sequences in the batch.
    pub running: u64,
    /// Sequences that wait for a place or for blocks.
    pub waiting: u64,
    /// Blocks of the KV cache that sequences own.
    pub kv_blocks_used: u64,
    /// Blocks of the KV cache.
    pub kv_blocks: u64,
    /// Tokens that were looked up in the prefix cache.
    pub prefix_queries: u64,
    /// Tokens of those that were found.
    pub prefix_hits: u64,
    /// Cached blocks that were given up for new content.
    pub evictions: u64,
    /// Times that a sequence lost its blocks and had to start anew.
    pub preemptions: u64,
    /// Tokens of prompts that began to run, cached ones included.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub generation_tokens: u64,
    /// Samples that ended, by [`REASONS`].
    pub finished: [u64; REASONS.len()],
    /// Requests refused because the engine was full.
    pub rejected_busy: u64,
    /// Requests refused because of what they asked for.
    pub rejected_invalid: u64,
    /// Steps.
    pub steps: u64,
    /// Time of all steps.
    pub step_time: Duration,
    /// Time of those that the model and the choice of tokens took; the rest is scheduling and delivery.
    pub kernel_time: Duration,
    /// From submit to the first token.
    pub time_to_first_token: Histogram,
    /// Between a sample's tokens.
    pub inter_token_latency: Histogram,
    /// From submit to a sample's end.
    pub e2e_latency: Histogram,
    /// From submit to the first step.
    pub queue_time: Histogram,
}

impl Snapshot {
    /// The text format that Prometheus reads (exposition format 0.0.4). Names are vLLM's with the prefix `aieng_`: a
    /// colon, as in `vllm:`, is valid but kept for recording rules.
    pub fn prometheus(&self) -> String {
        let mut out = String::with_capacity(8192);
        let usage = self.kv_blocks_used as f64 / self.kv_blocks.max(1) as f64;
        let gauges = [
            ("num_requests_running", "Sequences in the batch.", self.running as f64),
            ("num_requests_waiting", "Sequences that wait.", self.waiting as f64),
            ("kv_cache_usage_perc", "Share of the KV cache's blocks in use; 1 is all.", usage),
        ];
        for (name, help, value) in gauges {
            head(&mut out, name, help, "gauge");
            line(&mut out, name, "", value);
        }
        let counters = [
            ("prefix_cache_queries_total", "Tokens looked up in the prefix cache.", self.prefix_queries as f64),
            ("prefix_cache_hits_total", "Tokens found in the prefix cache.", self.prefix_hits as f64),
            ("kv_cache_evictions_total", "Cached blocks given up.", self.evictions as f64),
            ("num_preemptions_total", "Times that a sequence lost its blocks.", self.preemptions as f64),
            ("prompt_tokens_total", "Tokens of prompts.", self.prompt_tokens as f64),
            ("generation_tokens_total", "Tokens generated.", self.generation_tokens as f64),
            ("steps_total", "Steps.", self.steps as f64),
            ("step_seconds_total", "Time of all steps.", self.step_time.as_secs_f64()),
            ("kernel_seconds_total", "Time of those spent in kernels.", self.kernel_time.as_secs_f64()),
        ];
        for (name, help, value) in counters {
            head(&mut out, name, help, "counter");
            line(&mut out, name, "", value);
        }
        head(&mut out, "request_success_total", "Samples that ended.", "counter");
        for ((_, reason), n) in REASONS.iter().zip(self.finished) {
            line(&mut out, "request_success_total", &format!("{{finished_reason=\"{reason}\"}}"), n as f64);
        }
        head(&mut out, "requests_rejected_total", "Requests that were refused.", "counter");
        for (reason, n) in [("busy", self.rejected_busy), ("invalid", self.rejected_invalid)] {
            line(&mut out, "requests_rejected_total", &format!("{{reason=\"{reason}\"}}"), n as f64);
        }
        let histograms = [
            ("time_to_first_token_seconds", "From submit to the first token.", &self.time_to_first_token),
            ("inter_token_latency_seconds", "Between a sample's tokens.", &self.inter_token_latency),
            ("e2e_request_latency_seconds", "From submit to the end.", &self.e2e_latency),
            ("request_queue_time_seconds", "From submit to the first step.", &self.queue_time),
        ];
        for (name, help, histogram) in histograms {
            head(&mut out, name, help, "histogram");
            let mut below = 0;
            for (count, bound) in histogram.counts.iter().zip(BUCKETS.into_iter().chain([f64::INFINITY])) {
                below += count;
                let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
                line(&mut out, &format!("{name}_bucket"), &format!("{{le=\"{bound}\"}}"), below as f64);
            }
            line(&mut out, &format!("{name}_sum"), "", histogram.sum.as_secs_f64());
            line(&mut out, &format!("{name}_count"), "", below as f64);
        }
        out
    }
}

fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    // Writing to a string cannot fail.
    let _ = write!(out, "# HELP aieng_{name} {help}\n# TYPE aieng_{name} {kind}\n");
}

fn line(out: &mut String, name: &str, labels: &str, value: f64) {
    let _ = writeln!(out, "aieng_{name}{labels} {value}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let metrics = Metrics::default();
        metrics.kv_blocks.set(4);
        metrics.kv_blocks_used.set(1);
        metrics.generation_tokens.add(3);
        metrics.finish(FinishReason::Deadline);
        metrics.rejected_busy.add_shared();
        for milliseconds in [0, 1, 7, 10_000_000] {
            metrics.time_to_first_token.record(Duration::from_millis(milliseconds));
        }
        let text = metrics.snapshot().prometheus();
        let mut types: HashMap<&str, &str> = HashMap::new();
        let mut values: HashMap<&str, f64> = HashMap::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(types.insert(name, kind).is_none(), "{name} twice");
            } else if !line.starts_with("# HELP ") {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let name = series.split('{').next().unwrap();
                assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{name}");
                let base = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name);
                assert!(types.contains_key(name) || types[base] == "histogram", "{line}");
                assert!(values.insert(series, value.parse().unwrap()).is_none(), "{series} twice");
            }
        }
        assert_eq!(values["aieng_kv_cache_usage_perc"], 0.25);
        assert_eq!(values["aieng_generation_tokens_total"], 3.0);
        assert_eq!(values["aieng_request_success_total{finished_reason=\"deadline\"}"], 1.0);
        assert_eq!(values["aieng_requests_rejected_total{reason=\"busy\"}"], 1.0);
        let bucket = |le: &str| values[format!("aieng_time_to_first_token_seconds_bucket{{le=\"{le}\"}}").as_str()];
        assert_eq!(
            [bucket("0.001"), bucket("0.005"), bucket("0.01"), bucket("2560"), bucket("+Inf")],
            [2.0, 2.0, 3.0, 3.0, 4.0]
        );
        assert_eq!(values["aieng_time_to_first_token_seconds_count"], 4.0);
        assert_eq!(values["aieng_time_to_first_token_seconds_sum"], 10_000.008);
    }
}
