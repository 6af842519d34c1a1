//! Gated linear units (arXiv:2002.05202): `act(gate) * up`. On the CPU the products with gate and up end in it
//! ([`crate::linear::gate_up`]); here are the functions, and the oracle.

#[cfg(any(test, feature = "testing"))]
pub mod cases;
#[cfg(test)]
mod tests;

use crate::cpu::{Simd, sigmoid};
use crate::{Tensor, TensorMut};
use std::f32::consts::PI;

/// An activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^-x)`
    Silu,
    /// `x / 2 * (1 + tanh(sqrt(2 / π) (x + 0.044715 x³)))`
    GeluTanh,
}

/// The oracle: `out = act(x[:, ..F]) * x[:, F..]`.
///
/// Shapes: x `[T, 2F]`, out `[T, F]`. Panics otherwise.
pub fn act_mul(x: Tensor, activation: Activation, out: &mut TensorMut) {
    assert_eq!((x.rows(), x.cols()), (out.rows(), 2 * out.cols()), "shapes of x and out");
    let act = |x: f32| match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => 0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x * x * x)).tanh()),
    };
    let width = out.cols();
    for t in 0..x.rows() {
        let (gate, up) = x.row(t).split_at(width);
        for ((out, gate), up) in out.row_mut(t).iter_mut().zip(gate).zip(up) {
            *out = act(*gate) * up;
        }
    }
}

/// An activation function of sixteen lanes. (A closure would not be inlined into the instruction set's function.)
pub(crate) trait Act {
    /// # Safety
    /// Needs the instruction set.
    unsafe fn act<S: Simd>(x: S::F) -> S::F;
}

pub(crate) struct Silu;
impl Act for Silu {
    #[inline(always)]
    unsafe fn act<S: Simd>(x: S::F) -> S::F {
        // SAFETY: the caller's.
        unsafe { S::mul(x, sigmoid::<S>(x)) }
    }
}

pub(crate) struct GeluTanh;
impl Act for GeluTanh {
    /// `x / 2 * (1 + tanh(y)) = x * sigmoid(2 y)`
    #[inline(always)]
    unsafe fn act<S: Simd>(x: S::F) -> S::F {
        // SAFETY: the caller's.
        unsafe {
            let c = 2.0 * (2.0 / PI).sqrt();
            let cubic = S::fma(S::mul(x, x), S::splat(0.044715 * c), S::splat(c));
            S::mul(x, sigmoid::<S>(S::mul(x, cubic)))
        }
    }
}
