//! `aieng bench --ceilings`: what the machine can do at best, which is what `--profile` compares with.

use super::BenchArgs;
use super::counts::Counts;
use crate::args::device_config;
use crate::failure::Result;
use crate::output;
use aieng_runtime::Isa;
use aieng_runtime::engine::{DeviceConfig, EngineConfig};
use aieng_runtime::profile::Ceilings;
use serde_json::{Value, json};

pub use aieng_runtime::profile::ceilings as measure;

const HEAD: &str = "\
| isa      | threads | memory, GB/s | cache, GB/s | int8, GOP/s | bf16, GOP/s | f32, GOP/s |
| -------- | ------: | -----------: | ----------: | ----------: | ----------: | ---------: |
";

/// Runs the command: a row for each instruction set and number of threads, from one to all cores if none are named.
pub fn run(args: &BenchArgs) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let threads = args.threads.as_ref().map_or_else(|| doubled(cores), |Counts(threads)| threads.clone());
    let isas = if args.isa.is_empty() { vec![None] } else { args.isa.iter().copied().map(Some).collect() };
    let mut rows = Vec::new();
    for isa in isas {
        let device = device_config(args.device, isa, args.gpu)?;
        for &threads in &threads {
            let threads = if threads == 0 { cores } else { threads };
            let ceilings = measure(&EngineConfig { device, threads, ..EngineConfig::default() })?;
            if !args.json {
                let head = if rows.is_empty() { HEAD } else { "" };
                output::text(&format!("{head}{}", line(isa_name(device), threads, &ceilings)))?;
            }
            let mut row = json!({ "isa": isa_name(device), "threads": threads });
            row["ceilings"] = json(&ceilings);
            rows.push(row);
        }
    }
    if args.json { output::json_pretty(&rows) } else { Ok(()) }
}

/// 1, 2, 4 and so on, and `most`.
fn doubled(most: usize) -> Vec<usize> {
    std::iter::successors(Some(1), |n| Some(2 * n)).take_while(|n| *n < most).chain([most]).collect()
}

fn isa_name(device: DeviceConfig) -> &'static str {
    match device {
        DeviceConfig::Reference => "reference",
        DeviceConfig::Cuda(_) => "cuda",
        DeviceConfig::Cpu(isa) => isa.unwrap_or_else(Isa::best).name(),
    }
}

fn giga(rate: Option<f64>) -> String {
    rate.map_or("-".to_owned(), |rate| format!("{:.1}", rate / 1e9))
}

fn line(isa: &str, threads: usize, ceilings: &Ceilings) -> String {
    let Ceilings { memory, cache, int8, bf16, f32 } = *ceilings;
    let [memory, cache, int8, bf16, f32] = [Some(memory), Some(cache), int8, bf16, Some(f32)].map(giga);
    format!("| {isa:<8} | {threads:>7} | {memory:>12} | {cache:>11} | {int8:>11} | {bf16:>11} | {f32:>10} |\n")
}

/// In one line.
pub fn words(ceilings: &Ceilings) -> String {
    let Ceilings { memory, cache, int8, bf16, f32 } = *ceilings;
    let [memory, cache, int8, bf16, f32] = [Some(memory), Some(cache), int8, bf16, Some(f32)].map(giga);
    format!("memory {memory}, cache {cache} GB/s; int8 {int8}, bf16 {bf16}, f32 {f32} GOP/s")
}

/// Bytes and operations a second; null for arithmetic that the instruction set lacks.
pub fn json(ceilings: &Ceilings) -> Value {
    let Ceilings { memory, cache, int8, bf16, f32 } = *ceilings;
    json!({ "memory": memory, "cache": cache, "int8": int8, "bf16": bf16, "f32": f32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_doubled_up_to_all_cores() {
        let cases: [(usize, &[usize]); 4] = [(1, &[1]), (2, &[1, 2]), (6, &[1, 2, 4, 6]), (8, &[1, 2, 4, 8])];
        for (most, threads) in cases {
            assert_eq!(doubled(most), threads);
        }
    }

    #[test]
    fn lines_are_as_wide_as_the_head() {
        let ceilings = Ceilings { memory: 2.5e10, cache: 1e11, int8: Some(9e11), bf16: None, f32: 2e11 };
        let table = HEAD.to_owned() + &line("avx2", 2, &ceilings);
        let widths: Vec<usize> = table.lines().map(str::len).collect();
        assert_eq!(widths, [widths[0]; 3], "{table}");
        assert_eq!(json(&ceilings)["bf16"], Value::Null);
    }
}
