//! Speed of the norm, behind an operation that has just written its input. Bytes are those read and written.

mod harness;

use aieng_kernels::cpu::ceiling::Arithmetic;
use aieng_kernels::{Tensor, TensorMut, add_rms_norm};
use harness::{Bench, Work};

/// Columns of the residual stream.
const WIDTHS: [usize; 2] = [576, 2048];
/// Rows of activations.
const BATCHES: [usize; 3] = [1, 16, 512];

fn main() {
    harness::run("rms_norm", measure);
}

fn measure(bench: &Bench) {
    bench.head(&["isa", "operation", "columns", "rows"]);
    for cols in WIDTHS {
        for batch in BATCHES {
            norm(bench, cols, batch);
        }
    }
}

fn some_rows(rows: usize, cols: usize) -> Vec<f32> {
    (0..rows * cols).map(|i| (i % 241) as f32 / 120.0 - 1.0).collect()
}

fn norm(bench: &Bench, cols: usize, rows: usize) {
    let (columns, batch) = (cols.to_string(), rows.to_string());
    let cells = [bench.isa.name(), "add_rms_norm", &columns, &batch];
    if !bench.wants(&cells) {
        return;
    }
    let (mut residual, delta, weight) = (some_rows(rows, cols), vec![1e-3; rows * cols], vec![1.0; cols]);
    let mut out = vec![0.0; rows * cols];
    // Three rows are read or changed, one is written; an addition, a square and its sum, two multiplications.
    let bytes = 4 * 4 * rows * cols;
    let work = Work { bytes, footprint: bytes, operations: 5 * rows * cols, arithmetic: Arithmetic::F32 };
    bench.row(&cells, work, &mut || {
        let (mut residual, mut out) = (TensorMut::new(&mut residual, rows, cols), TensorMut::new(&mut out, rows, cols));
        add_rms_norm(&bench.device, &mut residual, Tensor::new(&delta, rows, cols), &weight, 1e-5, &mut out);
    });
}
