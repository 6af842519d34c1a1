use super::*;
use crate::testing::{Matrix, assert_close, gpus, rounded};
use aieng_kernels::rms_norm::cases::CASES;
use aieng_kernels::testing::Rng;
use aieng_kernels::{Device, Tensor, TensorMut};

/// Half a unit in the last place of bf16, of the greatest element of a row, which may be some times its mean.
const TOLERANCE: f32 = 0.004;

const EPS: f32 = 1e-5;

/// What the operation is to make of `delta` (none, as it is, or normed): the residual stream and the output.
fn expected(residual: &[f32], delta: Option<&[f32]>, post: Option<&[f32]>, weight: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let cols = weight.len();
    let norm = |x: &[f32], weight: &[f32]| {
        let mut out = vec![0.0; x.len()];
        let rows = x.len() / cols;
        let view = &mut TensorMut::new(&mut out, rows, cols);
        aieng_kernels::rms_norm(&Device::Reference, Tensor::new(x, rows, cols), weight, EPS, view);
        out
    };
    let mut sum = residual.to_vec();
    if let Some(delta) = delta {
        let delta = post.map_or(delta.to_vec(), |post| norm(delta, post));
        sum.iter_mut().zip(&delta).for_each(|(r, d)| *r += d);
    }
    let out = norm(&sum, weight);
    (sum, out)
}

#[test]
fn matches_the_reference() {
    let mut rng = Rng::new(8);
    for (rows, groups, width) in CASES {
        let cols = groups * width;
        let (residual, delta) = (rng.floats(rows * cols), rounded(&rng.floats(rows * cols)));
        let (post, weight) = (rng.floats(cols), rng.floats(cols));
        for (with_delta, with_post) in [(false, false), (true, false), (true, true)] {
            let (want_sum, want) =
                expected(&residual, with_delta.then_some(&*delta), with_post.then_some(&*post), &weight);
            for gpu in gpus() {
                // Rows that allow eight columns at a time, and rows that do not.
                for gap in [8, 3] {
                    let residual = Matrix::with_gap(&gpu, Element::F32, rows, cols, gap, &residual);
                    let delta = Matrix::with_gap(&gpu, Element::BF16, rows, cols, gap, &delta);
                    let out = Matrix::poisoned(&gpu, Element::BF16, rows, cols, gap);
                    let [post, weight] = [&post, &weight].map(|x| Matrix::from(&gpu, Element::F32, 1, cols, x));
                    let delta = with_delta.then(|| delta.view());
                    let post = with_post.then(|| post.view());
                    add_rms_norm(&gpu, residual.view(), delta, post.as_ref(), &weight.view(), EPS, out.view()).unwrap();
                    let what = format!("{rows}x{cols} {with_delta} {with_post} on {}", gpu.name());
                    assert_close(&residual.read(), &want_sum, cols, 3e-6, &what);
                    assert_close(&out.read(), &want, cols, TOLERANCE, &what);
                }
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
            let out = Matrix::poisoned(&gpu, Element::BF16, rows.len(), cols, 0);
            let [post, weight] = [&post, &weight].map(|x| Matrix::from(&gpu, Element::F32, 1, cols, x));
            let post = post.view();
            let delta = Some(delta.view());
            add_rms_norm(&gpu, residual.view(), delta, Some(&post), &weight.view(), EPS, out.view()).unwrap();
            (residual.read_bits(), out.read_bits())
        };
        let (sums, outs) = run(0..rows);
        for row in 0..rows {
            let (sum, out) = run(row..row + 1);
            assert_eq!(sum, sums[row * cols * 4..][..cols * 4], "row {row} of the stream on {}", gpu.name());
            assert_eq!(out, outs[row * cols * 2..][..cols * 2], "row {row} on {}", gpu.name());
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
    let [residual, weight] = [8, 9].map(|cols| Matrix::from(&gpu, Element::F32, 1, cols, &vec![0.0; cols]));
    let out = Matrix::poisoned(&gpu, Element::BF16, 1, 8, 0);
    let _ = add_rms_norm(&gpu, residual.view(), None, None, &weight.view(), EPS, out.view());
}
