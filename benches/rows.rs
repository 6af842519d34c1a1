//! Speed of the operations that pass over rows of activations: norm and activation, behind an operation that has just written
//! their input. Bytes are those read and written.

mod harness;

use aieng_kernels::act_mul::Activation;
use aieng_kernels::cpu::ceiling::Arithmetic;
use aieng_kernels::{Tensor, TensorMut, act_mul, add_rms_norm};
use harness::{Bench, Work};

/// Columns of the residual stream, and of a gate.
const WIDTHS: [(usize, usize); 2] = [(576, 1536), (2048, 8192)];
/// Rows of activations.
const BATCHES: [usize; 3] = [1, 16, 512];

fn main() {
    harness::run("rms_norm, act_mul", measure);
}

fn measure(bench: &Bench) {
    bench.head(&["isa", "operation", "columns", "rows"]);
    for (hidden, width) in WIDTHS {
        for batch in BATCHES {
            norm(bench, hidden, batch);
            for activation in [Activation::Silu, Activation::GeluTanh] {
                gate(bench, activation, width, batch);
            }
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

fn gate(bench: &Bench, activation: Activation, cols: usize, rows: usize) {
    let (columns, batch, name) = (cols.to_string(), rows.to_string(), format!("act_mul {activation:?}").to_lowercase());
    let cells = [bench.isa.name(), &name, &columns, &batch];
    if !bench.wants(&cells) {
        return;
    }
    let x = some_rows(rows, 2 * cols);
    let mut out = vec![0.0; rows * cols];
    // An exponential is a polynomial of degree 6; with its reduction, a division and the products, some 25 operations.
    let bytes = 3 * 4 * rows * cols;
    let work = Work { bytes, footprint: bytes, operations: 25 * rows * cols, arithmetic: Arithmetic::F32 };
    bench.row(&cells, work, &mut || {
        act_mul(&bench.device, Tensor::new(&x, rows, 2 * cols), activation, &mut TensorMut::new(&mut out, rows, cols));
    });
}
