use super::cases::CASES;
use super::*;
use crate::testing::{Matrix, Rng, assert_close, cpus};

#[test]
fn matches_the_reference() {
    let mut rng = Rng::new(6);
    for (rows, width) in CASES {
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let mut x = Matrix::random(&mut rng, rows, 2 * width);
            // Far out, where exponentials saturate.
            x.row_mut(0)[0] = 200.0;
            x.row_mut(rows - 1)[width - 1] = -200.0;
            let mut want = Matrix::poisoned(rows, width);
            act_mul(&Device::Reference, x.view(), activation, &mut want.view_mut());
            for device in cpus() {
                let mut out = Matrix::poisoned(rows, width);
                act_mul(&device, x.view(), activation, &mut out.view_mut());
                assert_close(&out, &want, 2e-6, &format!("{rows}x{width} {activation:?} on {}", device.name()));
            }
        }
    }
}
