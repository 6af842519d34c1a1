use super::*;
use crate::testing::{Matrix, assert_close, gpus, rounded};
use aieng_kernels::rms_norm::cases::CASES;
use aieng_kernels::testing::Rng;
use aieng_kernels::{Device, Tensor, TensorMut};

/// Half a unit in the last place of bf16, of the greatest element of a row, which may be some times its mean.
const TOLERANCE: f32 = 0.004;

const EPS: f32 = 1e-5;

/// Cases as the device takes them.
fn cases() -> impl Iterator<Item = (usize, usize)> {
    CASES.into_iter().map(|(rows, groups, width)| (rows, (groups * width).next_multiple_of(32)))
}

/// What the operation is to make of `delta`, which may be none: the residual stream and the norm behind it.
fn expected(residual: &[f32], delta: Option<(&[f32], &[f32])>, weight: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let cols = weight.len();
    let norm = |x: &[f32], weight: &[f32]| {
        let mut out = vec![0.0; x.len()];
        let rows = x.len() / cols;
        let view = &mut TensorMut::new(&mut out, rows, cols);
        aieng_kernels::rms_norm(&Device::Reference, Tensor::new(x, rows, cols), weight, EPS, view);
        out
    };
    let mut sum = residual.to_vec();
    if let Some((delta, post)) = delta {
        sum.iter_mut().zip(&norm(delta, post)).for_each(|(r, d)| *r += d);
    }
    let out = norm(&sum, weight);
    (sum, out)
}

/// What a product makes of weighed rows before it multiplies them.
fn normed(rows: &Matrix, cols: usize) -> Vec<f32> {
    let (all, bits) = (rows.read(), rows.read_bits());
    let stride = Weighed::stride(cols);
    let row = |r: usize| {
        let squares = &bits[(r * stride + cols) * 2..][..cols / 16 * 4];
        let sum: f32 = squares.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).sum();
        let factor = (sum / cols as f32 + EPS).sqrt().recip();
        all[r * stride..][..cols].iter().map(move |x| x * factor).collect::<Vec<_>>()
    };
    (0..all.len() / stride).flat_map(row).collect()
}

#[test]
fn matches_the_reference() {
    let mut rng = Rng::new(8);
    for (rows, cols) in cases() {
        let (residual, delta) = (rng.floats(rows * cols), rounded(&rng.floats(rows * cols)));
        let (post, weight) = (rng.floats(cols), rng.floats(cols));
        for with_delta in [false, true] {
            let (want_sum, want) = expected(&residual, with_delta.then_some((&delta, &post)), &weight);
            for gpu in gpus() {
                let residual = Matrix::with_gap(&gpu, Element::F32, rows, cols, 8, &residual);
                let delta = Matrix::with_gap(&gpu, Element::BF16, rows, cols, 8, &delta);
                let out = Matrix::poisoned(&gpu, Element::BF16, rows, Weighed::stride(cols), 8);
                let [post, weight] = [&post, &weight].map(|x| Matrix::from(&gpu, Element::F32, 1, cols, x));
                let delta = with_delta.then(|| (delta.view(), post.view()));
                let to = Weighed::new(out.view(), cols);
                add_rms_norm(&gpu, residual.view(), delta, weight.view(), EPS, to).unwrap();
                let what = format!("{rows}x{cols} {with_delta} on {}", gpu.name());
                assert_close(&residual.read(), &want_sum, cols, 3e-6, &what);
                assert_close(&normed(&out, cols), &want, cols, TOLERANCE, &what);
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    let mut rng = Rng::new(9);
    let (rows, cols) = (16, 576);
    let (residual, delta) = (rng.floats(rows * cols), rng.floats(rows * cols));
    let (post, weight) = (rng.floats(cols), rng.floats(cols));
    let mut first: Option<Vec<Vec<u8>>> = None;
    for gpu in gpus() {
        let run = |rows: std::ops::Range<usize>| {
            let part = rows.start * cols..rows.end * cols;
            let residual = Matrix::from(&gpu, Element::F32, rows.len(), cols, &residual[part.clone()]);
            let delta = Matrix::from(&gpu, Element::BF16, rows.len(), cols, &delta[part]);
            let out = Matrix::poisoned(&gpu, Element::BF16, rows.len(), Weighed::stride(cols), 0);
            let [post, weight] = [&post, &weight].map(|x| Matrix::from(&gpu, Element::F32, 1, cols, x));
            let delta = Some((delta.view(), post.view()));
            let to = Weighed::new(out.view(), cols);
            add_rms_norm(&gpu, residual.view(), delta, weight.view(), EPS, to).unwrap();
            (residual.read_bits(), out.read_bits())
        };
        let (sums, outs) = run(0..rows);
        for row in 0..rows {
            let (sum, out) = run(row..row + 1);
            assert_eq!(sum, sums[row * sum.len()..][..sum.len()], "row {row} of the stream on {}", gpu.name());
            assert_eq!(out, outs[row * out.len()..][..out.len()], "row {row} on {}", gpu.name());
        }
        // The emulator's seeds among themselves; a device rounds products and sums at once, and may differ.
        if gpu.name() == "emulated" {
            let bits = vec![sums, outs];
            assert_eq!(*first.get_or_insert(bits.clone()), bits, "bits differ between orders of lanes");
        }
    }
}

#[test]
#[should_panic(expected = "weight")]
#[cfg(feature = "emulate")]
fn a_weight_of_another_width_panics() {
    let gpu = Gpu::emulated(0);
    let [residual, weight] = [32, 64].map(|cols| Matrix::from(&gpu, Element::F32, 1, cols, &vec![0.0; cols]));
    let out = Matrix::poisoned(&gpu, Element::BF16, 1, Weighed::stride(32), 0);
    let _ = add_rms_norm(&gpu, residual.view(), None, weight.view(), EPS, Weighed::new(out.view(), 32));
}
