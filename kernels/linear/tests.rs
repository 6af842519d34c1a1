use super::*;
use crate::quant::DType;
use crate::testing::{Matrix, Rng, assert_close, cpus, random_source};

/// (rows of x, outputs, columns); columns are rounded up to whole blocks.
const CASES: [(usize, usize, usize); 9] = [
    (1, 1, 1),
    (1, 16, 32),
    (1, 48, 256),
    (2, 17, 96),
    (3, 33, 576),
    (7, 40, 288),
    (13, 15, 512),
    (16, 64, 1536),
    (67, 100, 320),
];

fn columns(dtype: DType, cols: usize) -> usize {
    cols.next_multiple_of(dtype.block_len())
}

fn run(device: &Device, x: &Matrix, sources: &[Source], bias: &[f32]) -> Matrix {
    run_with(Precision::Coarse, device, x, sources, bias)
}

fn run_with(precision: Precision, device: &Device, x: &Matrix, sources: &[Source], bias: &[f32]) -> Matrix {
    let w = Weight::new(device, x.cols(), sources, bias.to_vec(), &mut |_, _| ()).unwrap().with_precision(precision);
    let mut y = Matrix::poisoned(x.rows(), w.rows());
    linear(device, x.view(), &w, &mut Scratch::default(), &mut y.view_mut());
    y
}

/// Activations that 8 bits hold exactly: whole numbers with 127 in each block. Nothing but f32 rounding may differ.
#[test]
fn exact_activations_give_the_references_result() {
    let mut rng = Rng::new(9);
    for dtype in DType::ALL {
        for (rows, outputs, cols) in CASES {
            let cols = columns(dtype, cols);
            let mut values: Vec<f32> = (0..rows * cols).map(|_| rng.below(255) as f32 - 127.0).collect();
            values.iter_mut().step_by(32).for_each(|x| *x = 127.0);
            let x = Matrix::from_rows(&values, rows, cols);
            let source = random_source(&mut rng, dtype, outputs, cols);
            let bias = rng.floats(outputs);
            let want = run(&Device::Reference, &x, std::slice::from_ref(&source), &bias);
            for device in cpus() {
                let got = run(&device, &x, std::slice::from_ref(&source), &bias);
                // Blocks of F16 minima and sums cancel: the bound is on the scale of the terms, not of the result.
                let terms = 127.0 * (cols as f32).sqrt() * 4.0;
                let what = format!("{} {rows}x{outputs}x{cols} on {}", dtype.name(), device.name());
                let scale = want.view().row(0).iter().fold(1.0f32, |m, x| m.max(x.abs()));
                assert_close(&got, &want, 2e-6 * terms.max(scale) / scale, &what);
            }
        }
    }
}

/// Random activations: rounding to 8 bits costs about half a percent of the result's norm, to 16 some 0.002 percent.
#[test]
fn rounded_activations_stay_close() {
    let mut rng = Rng::new(10);
    for dtype in DType::ALL {
        let (rows, outputs, cols) = (9, 80, 1536);
        let x = Matrix::random(&mut rng, rows, cols);
        let source = random_source(&mut rng, dtype, outputs, cols);
        let want = run(&Device::Reference, &x, std::slice::from_ref(&source), &[]);
        for device in cpus() {
            for (precision, bound) in [(Precision::Coarse, 0.012), (Precision::Fine, 5e-5)] {
                let got = run_with(precision, &device, &x, std::slice::from_ref(&source), &[]);
                let ratio = relative_error(&got, &want);
                let bound = if dtype.is_float() { 1e-6 } else { bound };
                assert!(ratio < bound, "{} {precision:?} on {}: {ratio}", dtype.name(), device.name());
            }
        }
    }
}

/// Norm of the difference over the norm of `want`.
fn relative_error(got: &Matrix, want: &Matrix) -> f64 {
    let (mut error, mut norm) = (0.0f64, 0.0f64);
    for r in 0..want.rows() {
        for (g, w) in got.view().row(r).iter().zip(want.view().row(r)) {
            error += f64::from(g - w).powi(2);
            norm += f64::from(*w).powi(2);
        }
    }
    (error / norm).sqrt()
}

/// A row's bits are the same alone, in a batch, and whatever parts stand beside its weight.
#[test]
fn a_row_depends_on_itself_alone() {
    let mut rng = Rng::new(11);
    for dtype in DType::ALL {
        let (rows, outputs, cols) = (23, 50, columns(dtype, 512));
        let x = Matrix::random(&mut rng, rows, cols);
        let sources = [random_source(&mut rng, dtype, outputs, cols), random_source(&mut rng, DType::Q8_0, 20, cols)];
        for isa in crate::Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let device =
                |threads| Device::Cpu(crate::Cpu::new(isa, crate::cpu::Pool::new(threads, false).unwrap()).unwrap());
            let together = run(&device(3), &x, &sources, &[]);
            for r in 0..rows {
                let alone = Matrix::from_rows(x.view().row(r), 1, cols);
                let alone = run(&device(1), &alone, &sources[..1], &[]);
                let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                let got = &together.view().row(r)[..outputs];
                assert_eq!(bits(got), bits(alone.view().row(0)), "row {r}, {} on {}", dtype.name(), isa.name());
            }
        }
    }
}

#[test]
fn no_rows_are_no_work() {
    for device in cpus() {
        let source = random_source(&mut Rng::new(12), DType::Q4_0, 16, 32);
        run(&device, &Matrix::from_rows(&[], 0, 32), &[source], &[]);
    }
}
