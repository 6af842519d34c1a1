use super::*;
use crate::testing::{Matrix, assert_close, gpus, rounded};
use aieng_kernels::act_mul::cases::CASES;
use aieng_kernels::testing::Rng;
use aieng_kernels::{Tensor, TensorMut};

#[test]
fn matches_the_reference() {
    let mut rng = Rng::new(6);
    for (rows, width) in CASES {
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let mut x = rng.floats(rows * 2 * width);
            // Far out, where exponentials saturate.
            x[0] = 200.0;
            x[(rows - 1) * 2 * width + width - 1] = -200.0;
            let x = rounded(&x);
            let mut want = vec![0.0; rows * width];
            let out = &mut TensorMut::new(&mut want, rows, width);
            aieng_kernels::act_mul(Tensor::new(&x, rows, 2 * width), activation, out);
            for gpu in gpus() {
                // Rows that allow eight columns at a time, and rows that do not.
                for gap in [8, 3] {
                    let x = Matrix::with_gap(&gpu, Element::BF16, rows, 2 * width, gap, &x);
                    let out = Matrix::poisoned(&gpu, Element::BF16, rows, width, gap);
                    act_mul(&gpu, x.view(), activation, out.view()).unwrap();
                    let what = format!("{rows}x{width} {activation:?} on {}", gpu.name());
                    assert_close(&out.read(), &want, width, 0.004, &what);
                }
            }
        }
    }
}
