//! Results of `aieng bench serve`: a Markdown table, or JSON with the field names of vLLM's `bench serve`.

use super::measured::{Measured, Spread};
use super::options::PolicyName;
use aieng_runtime::metrics::Snapshot;
use serde_json::{Map, Value, json};

/// The table's first two lines.
pub const HEAD: &str = "\
| policy     | conc |    rate |  req/s | out tok/s | all tok/s |    TTFT p50 / p90 / p99 ms |   TPOT p50 / p99 ms |    ITL p50 / p99 ms | E2E p50 / p99 ms | cached | preempted |
| ---------- | ---: | ------: | -----: | --------: | --------: | -------------------------: | ------------------: | ------------------: | ---------------: | -----: | --------: |
";

/// One run.
#[derive(Debug)]
pub struct Row {
    pub policy: &'static str,
    pub max_concurrency: usize,
    /// `None`: all at once.
    pub request_rate: Option<f64>,
    completed: usize,
    duration: f64,
    total_input_tokens: usize,
    total_output_tokens: usize,
    request_throughput: f64,
    pub output_throughput: f64,
    total_token_throughput: f64,
    pub ttft: Spread,
    tpot: Spread,
    itl: Spread,
    e2e: Spread,
    /// Share of the prompts' tokens that the prefix cache had.
    cached: f64,
    preemptions: u64,
    /// Share of the steps' time that was not spent in kernels.
    overhead: f64,
}

impl Row {
    /// A run, and the engine's counts before and after it.
    pub fn new(
        policy: PolicyName,
        concurrency: usize,
        rate: f64,
        measured: &Measured,
        before: &Snapshot,
        after: &Snapshot,
    ) -> Row {
        let duration = measured.duration.as_secs_f64();
        let input: usize = measured.timelines.iter().map(|t| t.prompt_tokens).sum();
        let output: usize = measured.timelines.iter().map(|t| t.tokens).sum();
        let steps = (after.step_time - before.step_time).as_secs_f64();
        let kernels = (after.kernel_time - before.kernel_time).as_secs_f64();
        Row {
            policy: policy.name(),
            max_concurrency: concurrency,
            request_rate: rate.is_finite().then_some(rate),
            completed: measured.timelines.len(),
            duration,
            total_input_tokens: input,
            total_output_tokens: output,
            request_throughput: measured.timelines.len() as f64 / duration,
            output_throughput: output as f64 / duration,
            total_token_throughput: (input + output) as f64 / duration,
            ttft: measured.ttft(),
            tpot: measured.tpot(),
            itl: measured.itl(),
            e2e: measured.e2e(),
            cached: (after.prefix_hits - before.prefix_hits) as f64 / input.max(1) as f64,
            preemptions: after.preemptions - before.preemptions,
            overhead: 1.0 - kernels / steps.max(f64::MIN_POSITIVE),
        }
    }

    /// A line of the table.
    pub fn line(&self) -> String {
        let rate = self.request_rate.map_or("inf".to_owned(), |rate| format!("{rate:.2}"));
        let (ttft, tpot, itl, e2e) = (self.ttft, self.tpot, self.itl, self.e2e);
        let columns = [
            format!("{:<10}", self.policy),
            format!("{:>4}", self.max_concurrency),
            format!("{rate:>7}"),
            format!("{:>6.2}", self.request_throughput),
            format!("{:>9.1}", self.output_throughput),
            format!("{:>9.1}", self.total_token_throughput),
            format!("{:>26}", format!("{:.1} / {:.1} / {:.1}", ttft.median, ttft.p90, ttft.p99)),
            format!("{:>19}", format!("{:.2} / {:.2}", tpot.median, tpot.p99)),
            format!("{:>19}", format!("{:.2} / {:.2}", itl.median, itl.p99)),
            format!("{:>16}", format!("{:.0} / {:.0}", e2e.median, e2e.p99)),
            format!("{:>5.1}%", 100.0 * self.cached),
            format!("{:>9}", self.preemptions),
        ];
        format!("| {} |", columns.join(" | "))
    }

    fn json(&self) -> Value {
        let mut fields = Map::new();
        let mut put = |name: String, value: Value| drop(fields.insert(name, value));
        put("policy".into(), json!(self.policy));
        put("max_concurrency".into(), json!(self.max_concurrency));
        put("request_rate".into(), json!(self.request_rate.map_or(json!("inf"), |rate| json!(rate))));
        put("duration".into(), json!(self.duration));
        put("completed".into(), json!(self.completed));
        put("total_input_tokens".into(), json!(self.total_input_tokens));
        put("total_output_tokens".into(), json!(self.total_output_tokens));
        put("request_throughput".into(), json!(self.request_throughput));
        put("output_throughput".into(), json!(self.output_throughput));
        put("total_token_throughput".into(), json!(self.total_token_throughput));
        for (name, spread) in [("ttft", self.ttft), ("tpot", self.tpot), ("itl", self.itl), ("e2el", self.e2e)] {
            let Spread { mean, std, median, p90, p99 } = spread;
            let values = [("mean", mean), ("std", std), ("median", median), ("p90", p90), ("p99", p99)];
            values.iter().for_each(|(statistic, ms)| put(format!("{statistic}_{name}_ms"), json!(ms)));
        }
        put("cached_tokens_share".into(), json!(self.cached));
        put("preemptions".into(), json!(self.preemptions));
        put("scheduling_overhead".into(), json!(self.overhead));
        Value::Object(fields)
    }
}

/// All runs.
pub fn json(rows: &[Row]) -> Vec<Value> {
    rows.iter().map(Row::json).collect()
}
