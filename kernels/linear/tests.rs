use super::cases::{CASES, columns};
use super::*;
use crate::Arena;
use crate::quant::DType;
use crate::testing::{Matrix, Rng, assert_close, cpus, random_source};

fn run(device: &Device, x: &Matrix, sources: &[Source], bias: &[f32]) -> Matrix {
    run_with(Precision::COARSE, device, x, sources, bias)
}

fn run_with(precision: Precision, device: &Device, x: &Matrix, sources: &[Source], bias: &[f32]) -> Matrix {
    let arena = Arena::default();
    let w = Weight::new(device, x.cols(), sources, bias.to_vec(), &arena, &mut |_, _| ()).unwrap();
    let w = w.with_precision(precision);
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
            for (precision, bound) in [(Precision::COARSE, 0.012), (Precision::FINE, 5e-5)] {
                let got = run_with(precision, &device, &x, std::slice::from_ref(&source), &[]);
                let ratio = relative_error(&got, &want);
                let bound = if dtype.is_float() { 1e-6 } else { bound };
                assert!(ratio < bound, "{} {precision:?} on {}: {ratio}", dtype.name(), device.name());
            }
        }
    }
}

/// Rows in which some blocks stand out, not the same in each.
fn uneven(rng: &mut Rng, rows: usize, cols: usize) -> Vec<f32> {
    let mut x = rng.floats(rows * cols);
    for block in x.chunks_mut(32) {
        if rng.below(4) == 0 {
            block[rng.below(32)] *= 30.0;
        }
    }
    x
}

/// More bits where a block stands out take most of the error away; the threshold is the one of heads (model/weights.rs).
#[test]
fn what_stands_out_is_taken_finely() {
    let mut rng = Rng::new(13);
    let (rows, outputs, cols) = (33, 80, 1536);
    let x = Matrix::from_rows(&uneven(&mut rng, rows, cols), rows, cols);
    for dtype in DType::ALL.into_iter().filter(|d| !d.is_float()) {
        let source = [random_source(&mut rng, dtype, outputs, cols)];
        let want = run(&Device::Reference, &x, &source, &[]);
        for device in cpus() {
            let errors = [Precision::COARSE, Precision::fine_above(1.6), Precision::FINE]
                .map(|precision| relative_error(&run_with(precision, &device, &x, &source, &[]), &want));
            let what = format!("{} on {}: {errors:?}", dtype.name(), device.name());
            assert!(errors[1] < errors[0] / 4.0 && errors[2] < errors[1], "{what}");
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
        // Enough rows for two bands and for tiles that are decoded beforehand, enough columns for two chunks of them, and half a block
        // of activations at the end.
        let (rows, outputs, cols) = (140, 50, columns(dtype, 1056));
        let x = Matrix::from_rows(&uneven(&mut rng, rows, cols), rows, cols);
        let precision = Precision::fine_above(2.0);
        let sources = [random_source(&mut rng, dtype, outputs, cols), random_source(&mut rng, DType::Q8_0, 20, cols)];
        for isa in crate::Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let device =
                |threads| Device::Cpu(crate::Cpu::new(isa, crate::cpu::Pool::new(threads, false).unwrap()).unwrap());
            let together = run_with(precision, &device(3), &x, &sources, &[]);
            for r in 0..rows {
                let alone = Matrix::from_rows(x.view().row(r), 1, cols);
                let alone = run_with(precision, &device(1), &alone, &sources[..1], &[]);
                let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                let got = &together.view().row(r)[..outputs];
                assert_eq!(bits(got), bits(alone.view().row(0)), "row {r}, {} on {}", dtype.name(), isa.name());
            }
        }
    }
}

/// Two formats, outputs that end within a tile, gates far out where exponentials saturate.
#[test]
fn gates_match_the_reference() {
    let mut rng = Rng::new(14);
    let formats = [(DType::F32, DType::F32), (DType::Q4_1, DType::Q4_1), (DType::Q6_K, DType::Q4_K)];
    for (gate, up) in formats {
        for (rows, width) in [(1, 1), (3, 31), (17, 160), (140, 50)] {
            let cols = 256;
            let x: Vec<f32> = rng.floats(rows * cols).iter().map(|x| 40.0 * x).collect();
            let x = Matrix::from_rows(&x, rows, cols);
            let sources = [random_source(&mut rng, gate, width, cols), random_source(&mut rng, up, width, cols)];
            let bias = rng.floats(2 * width);
            for activation in [Activation::Silu, Activation::GeluTanh] {
                let want = run_gated(&Device::Reference, &x, &sources, &bias, activation);
                for device in cpus() {
                    let got = run_gated(&device, &x, &sources, &bias, activation);
                    let bound = if gate.is_float() { 4e-6 } else { 2e-4 };
                    let what = format!("{} {rows}x{width} {activation:?} on {}", gate.name(), device.name());
                    assert_close(&got, &want, bound, &what);
                }
            }
        }
    }
}

/// With 16 bits everywhere.
fn run_gated(device: &Device, x: &Matrix, sources: &[Source], bias: &[f32], activation: Activation) -> Matrix {
    let arena = Arena::default();
    let w = Weight::new(device, x.cols(), sources, bias.to_vec(), &arena, &mut |_, _| ()).unwrap();
    let mut y = Matrix::poisoned(x.rows(), w.rows() / 2);
    let w = w.with_precision(Precision::FINE);
    gate_up(device, x.view(), &w, activation, &mut Scratch::default(), &mut y.view_mut());
    y
}

#[test]
fn no_rows_are_no_work() {
    for device in cpus() {
        let source = random_source(&mut Rng::new(12), DType::Q4_0, 16, 32);
        run(&device, &Matrix::from_rows(&[], 0, 32), &[source], &[]);
    }
}
