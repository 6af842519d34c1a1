use super::cases::CASES;
use super::*;
use crate::testing::{Matrix, Rng, assert_close, cpus};

/// A few units in the last place of a sum of `n` squares.
const TOLERANCE: f32 = 3e-6;

#[test]
fn matches_the_reference() {
    let mut rng = Rng::new(2);
    for (rows, groups, width) in CASES {
        let cols = groups * width;
        let (x, weight) = (Matrix::random(&mut rng, rows, cols), rng.floats(width));
        let mut want = Matrix::poisoned(rows, cols);
        rms_norm(&Device::Reference, x.view(), &weight, 1e-5, &mut want.view_mut());
        for device in cpus() {
            let mut out = Matrix::poisoned(rows, cols);
            rms_norm(&device, x.view(), &weight, 1e-5, &mut out.view_mut());
            assert_close(&out, &want, TOLERANCE, &format!("{rows}x{groups}x{width} on {}", device.name()));
            let mut in_place = x.clone();
            rms_norm_in_place(&device, &mut in_place.view_mut(), &weight, 1e-5);
            assert_close(&in_place, &out, 0.0, "in place");
        }
    }
}

#[test]
fn the_residual_is_added_first() {
    let mut rng = Rng::new(3);
    for (rows, _, cols) in CASES {
        let (x, delta, weight) =
            (Matrix::random(&mut rng, rows, cols), Matrix::random(&mut rng, rows, cols), rng.floats(cols));
        let (mut want, mut want_sum) = (Matrix::poisoned(rows, cols), x.clone());
        add_rms_norm(&Device::Reference, &mut want_sum.view_mut(), delta.view(), &weight, 1e-6, &mut want.view_mut());
        for device in cpus() {
            let (mut out, mut sum) = (Matrix::poisoned(rows, cols), x.clone());
            add_rms_norm(&device, &mut sum.view_mut(), delta.view(), &weight, 1e-6, &mut out.view_mut());
            assert_close(&sum, &want_sum, 0.0, "the sum");
            assert_close(&out, &want, TOLERANCE, device.name());
        }
    }
}
