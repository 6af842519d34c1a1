//! Speed of the operations on a GPU, each against the nearer of two ceilings that are measured first: copying, and products
//! of bf16 by `mma.sync` (which an H100 takes to about two thirds of what its own instructions reach).
//!
//! `cargo bench -p aieng-cuda --features cuda --bench cuda [-- --emulated] [--json FILE] [WORD...]`: rows are measured that
//! contain each WORD. Launches are recorded once and run as a graph, over copies of the operands that the L2 does not hold
//! together; the figure is the median of several runs over the number of launches. With `--emulated` the shapes are tiny
//! and the times mean nothing.

#[path = "cuda/cases.rs"]
mod cases;

use aieng_cuda::{Arg, Gpu, GpuBuffer, GpuError, Launch};
use std::fmt::Write;
use std::process::ExitCode;
use std::time::Instant;

/// Runs of each case.
const RUNS: usize = 7;
/// Operands of launches in turn have this many bytes together: several times an L2.
const FLUSHED: usize = 256 << 20;

/// What a launch cannot do without.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// Read and written.
    pub bytes: usize,
    /// Multiplications and additions.
    pub operations: usize,
}

/// A device, its ceilings, and the rows so far.
pub struct Bench {
    pub gpu: Gpu,
    /// Tiny shapes.
    pub tiny: bool,
    words: Vec<String>,
    /// Bytes and operations a second.
    ceilings: (f64, f64),
    json: String,
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let (mut emulated, mut json, mut words) = (false, None, Vec::new());
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--emulated" => emulated = true,
            "--json" => json = args.next(),
            _ => words.push(arg.to_lowercase()),
        }
    }
    let gpu = match open(emulated) {
        Ok(gpu) => gpu,
        Err(error) => {
            println!("SKIPPED: {error}");
            return ExitCode::SUCCESS;
        }
    };
    match run(gpu, words, json.as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn open(emulated: bool) -> Result<Gpu, GpuError> {
    #[cfg(feature = "emulate")]
    if emulated {
        return Ok(Gpu::emulated(1));
    }
    if emulated { Err(GpuError::Unavailable("built without the emulator".into())) } else { Gpu::open(0) }
}

fn run(gpu: Gpu, words: Vec<String>, json: Option<&str>) -> Result<(), String> {
    let tiny = gpu.is_emulated();
    let mut bench = Bench { gpu, tiny, words, ceilings: (1.0, 1.0), json: String::new() };
    bench.ceilings = bench.measure_ceilings().map_err(|error| error.to_string())?;
    let (copy, mma) = bench.ceilings;
    println!("{}: copy {:.0} GB/s, bf16 {:.1} TFLOP/s\n", bench.gpu.name(), copy / 1e9, mma / 1e12);
    println!(
        "| operation | shape | rows | ms | GB/s | TFLOP/s | of the ceiling |\n| --- | --- | --: | --: | --: | --: | --: |"
    );
    cases::run(&mut bench).map_err(|error| error.to_string())?;
    let Some(path) = json else { return Ok(()) };
    let (device, rows) = (bench.gpu.name(), bench.json.trim_end_matches(",\n"));
    let head = format!("\"device\": {device:?}, \"emulated\": {tiny}, \"copy\": {copy:.4e}, \"mma_bf16\": {mma:.4e}");
    std::fs::write(path, format!("{{{head}, \"rows\": [\n{rows}\n]}}\n")).map_err(|error| format!("{path}: {error}"))
}

impl Bench {
    /// Whether a row is wanted.
    pub fn wants(&self, cells: &[&str]) -> bool {
        self.words.iter().all(|word| cells.iter().any(|cell| cell.to_lowercase().contains(word)))
    }

    /// Copies of operands of `bytes` that keep the L2 from holding all.
    pub fn copies(&self, bytes: usize) -> usize {
        if self.tiny { 1 } else { FLUSHED.div_ceil(bytes.max(1)).clamp(1, 64) }
    }

    /// Measures and prints a row: `launch` is given the number of the launch.
    pub fn row(
        &mut self,
        [operation, shape, rows]: [&str; 3],
        work: Work,
        launch: &mut dyn FnMut(usize) -> Result<(), GpuError>,
    ) -> Result<(), GpuError> {
        let seconds = self.seconds(launch)?;
        let (bytes, operations) = (work.bytes as f64, work.operations as f64);
        let (for_bytes, for_operations) = (bytes / self.ceilings.0, operations / self.ceilings.1);
        let bound = if for_bytes > for_operations { "memory" } else { "bf16" };
        let share = 100.0 * for_bytes.max(for_operations) / seconds;
        let (gigabytes, teraflops, ms) = (bytes / seconds / 1e9, operations / seconds / 1e12, 1e3 * seconds);
        println!(
            "| {operation} | {shape} | {rows} | {ms:.4} | {gigabytes:.0} | {teraflops:.1} | {share:.1}% {bound} |"
        );
        let _ = write!(self.json, "{{\"operation\": {operation:?}, \"shape\": {shape:?}, \"rows\": {rows:?}, ");
        let _ = write!(self.json, "\"ms\": {ms:.6}, \"gb_s\": {gigabytes:.2}, \"tflop_s\": {teraflops:.3}, ");
        let _ = write!(self.json, "\"bound\": {bound:?}, \"percent\": {share:.2}}},\n");
        Ok(())
    }

    /// Seconds of a launch.
    fn seconds(&self, launch: &mut dyn FnMut(usize) -> Result<(), GpuError>) -> Result<f64, GpuError> {
        // Once by itself: what is wrong shows here, and how long it takes.
        let start = Instant::now();
        launch(0)?;
        self.gpu.synchronize()?;
        let once = start.elapsed().as_secs_f64();
        let (launches, runs) = if self.tiny { (1, 1) } else { ((0.02 / once) as usize, RUNS) };
        let launches = launches.clamp(1, 512);
        let graph = self.gpu.capture(|| (0..launches).try_for_each(&mut *launch))?;
        let mut seconds = Vec::new();
        for _ in 0..=runs {
            let start = Instant::now();
            graph.launch()?;
            self.gpu.synchronize()?;
            seconds.push(start.elapsed().as_secs_f64() / launches as f64);
        }
        // The first one warms up.
        seconds.remove(0);
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[seconds.len() / 2])
    }

    /// Bytes and operations a second.
    fn measure_ceilings(&self) -> Result<(f64, f64), GpuError> {
        let blocks = self.gpu.properties().multiprocessors as u32;
        let (bytes, rounds) = if self.tiny { (1 << 16, 4) } else { (1 << 30, 8192) };
        let (from, to) = (self.zeros(bytes)?, self.gpu.alloc(bytes)?);
        let args = [Arg::Ptr(from.ptr()), Arg::Ptr(to.ptr()), Arg::U32((bytes / 16) as u32)];
        let grid = |per: u32| if self.tiny { [2, 1, 1] } else { [per * blocks, 1, 1] };
        let copy = Launch { grid: grid(4), block: 512, shared: 0 };
        let copy_seconds = self.seconds(&mut |_| self.gpu.launch("ceiling_copy", copy, &args))?;
        let mma = Launch { grid: grid(2), block: 256, shared: 0 };
        let threads = mma.grid[0] as usize * 256;
        let sums = self.gpu.alloc(4 * threads)?;
        let args = [Arg::Ptr(sums.ptr()), Arg::U32(rounds)];
        let mma_seconds = self.seconds(&mut |_| self.gpu.launch("ceiling_mma", mma, &args))?;
        let operations = (threads / 32 * 8 * 4096) as f64 * f64::from(rounds);
        Ok((2.0 * bytes as f64 / copy_seconds, operations / mma_seconds))
    }

    /// Zeroed memory.
    pub fn zeros(&self, bytes: usize) -> Result<GpuBuffer, GpuError> {
        let buffer = self.gpu.alloc(bytes)?;
        let piece = vec![0; bytes.min(16 << 20)];
        for offset in (0..bytes).step_by(16 << 20) {
            buffer.upload(offset, &piece[..piece.len().min(bytes - offset)])?;
        }
        Ok(buffer)
    }
}
