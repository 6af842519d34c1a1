use super::*;
use crate::cpu::{Isa, Kernel, LANES};
use crate::testing::{Matrix, Rng, assert_close};
use std::marker::PhantomData;

struct Run<'a, A>(&'a [f32; LANES], &'a mut [f32], PhantomData<A>);

impl<A: Act> Kernel for Run<'_, A> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        // SAFETY: Isa::run vouches for the instruction set; both have sixteen numbers.
        unsafe { S::store(self.1.as_mut_ptr(), A::act::<S>(S::load(self.0.as_ptr()))) }
    }
}

#[test]
fn activations_are_close_and_saturate() {
    let mut rng = Rng::new(6);
    for round in 0..200 {
        let mut gate: [f32; LANES] = std::array::from_fn(|_| 8.0 * rng.float());
        if round == 0 {
            // Far out, where exponentials saturate.
            (gate[0], gate[1]) = (200.0, -200.0);
        }
        let both = [gate, [1.0; LANES]].concat();
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let mut want = Matrix::poisoned(1, LANES);
            act_mul(Tensor::new(&both, 1, 2 * LANES), activation, &mut want.view_mut());
            for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
                let mut out = Matrix::poisoned(1, LANES);
                match activation {
                    Activation::Silu => isa.run(Run::<Silu>(&gate, out.row_mut(0), PhantomData)),
                    Activation::GeluTanh => isa.run(Run::<GeluTanh>(&gate, out.row_mut(0), PhantomData)),
                }
                assert_close(&out, &want, 2e-6, &format!("{activation:?} on {}", isa.name()));
            }
        }
    }
}
