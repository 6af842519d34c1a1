//! Speed of the matrix kernel on one shape: bytes of weights a second for one row, multiply-adds a second for many.
//!
//! `cargo bench -p aieng-kernels [-- THREADS]`. Each figure is the median of 15 runs; the bytes are those of the weights.

use aieng_kernels::cpu::Pool;
use aieng_kernels::linear::{Precision, Source};
use aieng_kernels::{AlignedBuffer, Arena, Bytes, Cpu, DType, Device, Isa, Scratch, Tensor, TensorMut, Weight, linear};
use std::sync::Arc;
use std::time::Instant;

/// Outputs and inputs: large enough to come from memory rather than from a cache.
const ROWS: usize = 16 * 1024;
const COLS: usize = 4096;
/// Rows of activations in a prefill's step.
const BATCH: usize = 128;
const RUNS: usize = 15;

fn main() {
    let threads = std::env::args().filter_map(|a| a.parse().ok()).next().unwrap_or(2);
    println!("[{ROWS}, {COLS}], {threads} threads");
    println!("| isa | format | precision | 1 row, GB/s | {BATCH} rows, GMAC/s |");
    println!("| --- | --- | --- | --: | --: |");
    for isa in Isa::ALL {
        let pool = Pool::new(threads, true).expect("threads");
        let Some(cpu) = Cpu::new(isa, pool) else {
            println!("SKIPPED: {}: this machine lacks it", isa.name());
            continue;
        };
        let device = Device::Cpu(cpu);
        device.pin_caller();
        for dtype in DType::ALL {
            let weight = random_weight(&device, dtype);
            for (name, precision) in [("8 bits", Precision::COARSE), ("16 bits", Precision::FINE)] {
                if dtype.is_float() && precision == Precision::FINE {
                    continue;
                }
                let weight = weight.clone().with_precision(precision);
                let bandwidth = weight.bytes() as f64 / median_seconds(&device, &weight, 1) / 1e9;
                // Plain Rust takes seconds for many rows; nobody runs it for speed.
                let rate = match isa {
                    Isa::Portable => "-".to_owned(),
                    _ => format!("{:.0}", (ROWS * COLS * BATCH) as f64 / median_seconds(&device, &weight, BATCH) / 1e9),
                };
                println!("| {} | {} | {name} | {bandwidth:.1} | {rate} |", isa.name(), dtype.name());
            }
        }
    }
}

/// Bytes with a pattern: codes do not change the speed, as long as scales are ordinary numbers.
fn random_weight(device: &Device, dtype: DType) -> Weight {
    let mut buffer = AlignedBuffer::new(ROWS * dtype.row_bytes(COLS)).expect("memory");
    let half = 0x2345u16.to_le_bytes();
    buffer.as_mut_slice().iter_mut().enumerate().for_each(|(i, b)| *b = half[i % 2]);
    let source = Source { dtype, rows: ROWS, bytes: Bytes::Owned(Arc::new(buffer)) };
    Weight::new(device, COLS, &[source], Vec::new(), &Arena::default(), &mut |_, _| ()).expect("memory")
}

fn median_seconds(device: &Device, weight: &Weight, rows: usize) -> f64 {
    let x: Vec<f32> = (0..rows * COLS).map(|i| (i % 251) as f32 / 125.0 - 1.0).collect();
    let mut y = vec![0.0; rows * ROWS];
    let mut scratch = Scratch::new(rows, COLS).expect("memory");
    let mut seconds: Vec<f64> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            linear(device, Tensor::new(&x, rows, COLS), weight, &mut scratch, &mut TensorMut::new(&mut y, rows, ROWS));
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[RUNS / 2]
}
