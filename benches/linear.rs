//! Speed of the matrix kernel on one shape, for one row of activations, for a batch that decodes, and for a prompt's step.

mod harness;

use aieng_kernels::linear::{Precision, Source};
use aieng_kernels::{AlignedBuffer, Arena, Bytes, DType, Device, Isa, Scratch, Tensor, TensorMut, Weight, linear};
use harness::{Bench, Work};
use std::sync::Arc;

/// Outputs and inputs: from memory rather than from a cache, whatever the format.
const ROWS: usize = 32 * 1024;
const COLS: usize = 4096;
/// Of activations. The 16 bits take twice the multiplications; the work that is counted is the same.
const PRECISIONS: [(&str, Precision); 2] = [("8 bits", Precision::COARSE), ("16 bits", Precision::FINE)];
/// Rows of activations.
const BATCHES: [usize; 4] = [1, 4, 16, 128];

fn main() {
    harness::run(&format!("linear [{ROWS}, {COLS}]"), measure);
}

fn measure(bench: &Bench) {
    bench.head(&["isa", "format", "activations", "rows"]);
    // Plain Rust takes seconds for many rows; nobody runs it for speed.
    let batches = if bench.isa == Isa::Portable { &BATCHES[..1] } else { &BATCHES };
    for dtype in DType::ALL {
        let precisions = if dtype.is_float() { &PRECISIONS[..1] } else { &PRECISIONS };
        let mut weight = None;
        for &(name, precision) in precisions {
            for &batch in batches {
                let rows = batch.to_string();
                let cells = [bench.isa.name(), dtype.name(), name, &rows];
                if bench.wants(&cells) {
                    let weight = weight.get_or_insert_with(|| some_weight(&bench.device, dtype)).clone();
                    row(bench, &cells, weight.with_precision(precision), batch);
                }
            }
        }
    }
}

/// Codes do not change the speed, as long as scales are ordinary numbers.
fn some_weight(device: &Device, dtype: DType) -> Weight {
    let mut buffer = AlignedBuffer::new(ROWS * dtype.row_bytes(COLS)).expect("memory");
    let half = 0x2345u16.to_le_bytes();
    buffer.as_mut_slice().iter_mut().enumerate().for_each(|(i, b)| *b = half[i % 2]);
    let source = Source { dtype, rows: ROWS, bytes: Bytes::Owned(Arc::new(buffer)) };
    // In huge pages, as a model's.
    let arena = Arena::new(source.bytes.as_slice().len()).expect("memory");
    Weight::new(device, COLS, &[source], Vec::new(), &arena, &mut |_, _| ()).expect("memory")
}

fn row(bench: &Bench, cells: &[&str], weight: Weight, batch: usize) {
    let x: Vec<f32> = (0..batch * COLS).map(|i| (i % 251) as f32 / 125.0 - 1.0).collect();
    let mut y = vec![0.0; batch * ROWS];
    let mut scratch = Scratch::new(batch, std::iter::once(&weight)).expect("memory");
    let bytes = weight.bytes();
    let work = Work { bytes, footprint: bytes, operations: 2 * ROWS * COLS * batch, arithmetic: weight.arithmetic() };
    bench.row(cells, work, &mut || {
        let y = &mut TensorMut::new(&mut y, batch, ROWS);
        linear(&bench.device, Tensor::new(&x, batch, COLS), &weight, &mut scratch, y);
    });
}
