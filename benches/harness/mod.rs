//! What the kernels' benchmarks share: their command line, devices, timing, and one table, whose last column is the share of
//! the nearer ceiling that was measured just before.
//!
//! `cargo bench -p aieng-kernels [--bench NAME] [-- THREADS] [ISA...] [WORD...]`: rows are measured whose cells contain each
//! WORD. Each figure is the median of several runs.

use aieng_kernels::cpu::Pool;
use aieng_kernels::cpu::ceiling::{Arithmetic, CACHE_BYTES, Ceilings};
use aieng_kernels::{Cpu, Device, Isa};
use std::time::Instant;

/// Runs of each case; more of what is short.
const LEAST_RUNS: usize = 7;
/// Seconds after which the runs above are enough.
const ENOUGH: f64 = 0.15;

/// What a case cannot do without.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    pub bytes: usize,
    /// Bytes that runs in turn read. If they are few, each run finds its own in the last-level cache.
    pub footprint: usize,
    /// Multiplications and additions.
    pub operations: usize,
    pub arithmetic: Arithmetic,
}

/// A device, what its threads can do at best, and the rows that are wanted.
pub struct Bench {
    pub device: Device,
    pub isa: Isa,
    ceilings: Ceilings,
    words: Vec<String>,
}

/// Runs `body` for each instruction set, slowest first, on a thread of its own: it is bound to a core.
pub fn run(what: &str, body: impl Fn(&Bench) + Sync) {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let threads = args.iter().find_map(|arg| arg.parse().ok()).unwrap_or(cores);
    let (isas, words): (Vec<String>, Vec<String>) = args
        .into_iter()
        .filter(|arg| arg.parse::<usize>().is_err())
        .map(|arg| arg.to_lowercase())
        .partition(|word| Isa::ALL.iter().any(|isa| isa.name() == word));
    println!("{what}, {threads} threads");
    for isa in Isa::ALL.into_iter().filter(|isa| isas.is_empty() || isas.iter().any(|name| name == isa.name())) {
        std::thread::scope(|scope| {
            scope.spawn(|| match open(isa, threads) {
                None => println!("SKIPPED: {}: this machine lacks it", isa.name()),
                Some(cpu) => {
                    let ceilings = Ceilings::measure(&cpu).expect("memory");
                    body(&Bench { device: Device::Cpu(cpu), isa, ceilings, words: words.clone() });
                }
            });
        });
    }
}

fn open(isa: Isa, threads: usize) -> Option<Cpu> {
    let cpu = Cpu::new(isa, Pool::new(threads, true).expect("threads"))?;
    cpu.pool().pin_caller();
    Some(cpu)
}

impl Bench {
    /// Says what the ceilings are, and begins the table of rows that these columns name.
    pub fn head(&self, columns: &[&str]) {
        let Ceilings { memory, cache, int8, bf16, f32 } = self.ceilings;
        let giga = |rate: Option<f64>| rate.map_or("-".to_owned(), |rate| format!("{:.1}", rate / 1e9));
        println!("\n{}: memory {}, cache {} GB/s;", self.isa.name(), giga(Some(memory)), giga(Some(cache)));
        println!("int8 {}, bf16 {}, f32 {} GOP/s\n", giga(int8), giga(bf16), giga(Some(f32)));
        println!("| {} | ms | GB/s | GOP/s | of the ceiling |", columns.join(" | "));
        println!("|{}", " --- |".repeat(columns.len()) + &" --: |".repeat(4));
    }

    /// Whether the row with these cells is wanted.
    pub fn wants(&self, cells: &[&str]) -> bool {
        self.words.iter().all(|word| cells.iter().any(|cell| cell.to_lowercase().contains(word)))
    }

    /// Times `run` and prints the row.
    pub fn row(&self, cells: &[&str], work: Work, run: &mut dyn FnMut()) {
        let seconds = median_seconds(run);
        let Work { bytes, footprint, operations, arithmetic } = work;
        let in_cache = footprint <= self.device.threads() * CACHE_BYTES;
        let (bytes, operations) = (bytes as f64, operations as f64);
        let bound = if in_cache {
            self.ceilings.bound_in_cache(bytes, operations, arithmetic)
        } else {
            self.ceilings.bound(bytes, operations, arithmetic)
        };
        let share = 100.0 * bound.seconds / seconds;
        let (bandwidth, rate) = (bytes / seconds / 1e9, operations / seconds / 1e9);
        println!(
            "| {} | {:.4} | {bandwidth:.1} | {rate:.1} | {share:.1}% {} |",
            cells.join(" | "),
            1e3 * seconds,
            bound.name
        );
    }
}

fn median_seconds(run: &mut dyn FnMut()) -> f64 {
    run();
    let mut seconds = Vec::new();
    while seconds.len() < LEAST_RUNS || (seconds.iter().sum::<f64>() < ENOUGH && seconds.len() < 1000) {
        let start = Instant::now();
        run();
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}
