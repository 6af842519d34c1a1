//! `out = act(gate) * up` (gated linear units, arXiv:2002.05202), gate and up side by side: `[T, 2F]` to `[T, F]`.

#[cfg(any(test, feature = "testing"))]
pub mod cases;
#[cfg(test)]
mod tests;

use crate::cpu::{Cpu, Kernel, LANES, Simd, SyncMutPtr, SyncPtr, sigmoid};
use crate::{Device, Tensor, TensorMut};
use std::f32::consts::PI;
use std::ops::Range;

/// An activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^-x)`
    Silu,
    /// `x / 2 * (1 + tanh(sqrt(2 / π) (x + 0.044715 x³)))`
    GeluTanh,
}

/// `out = act(x[:, ..F]) * x[:, F..]`.
///
/// Shapes: x `[T, 2F]`, out `[T, F]`. Panics otherwise.
pub fn act_mul(device: &Device, x: Tensor, activation: Activation, out: &mut TensorMut) {
    assert_eq!((x.rows(), x.cols()), (out.rows(), 2 * out.cols()), "shapes of x and out");
    match device {
        Device::Reference => reference(x, activation, out),
        Device::Cpu(cpu) => on_cpu(cpu, x, activation, out),
    }
}

fn reference(x: Tensor, activation: Activation, out: &mut TensorMut) {
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

fn on_cpu(cpu: &Cpu, x: Tensor, activation: Activation, out: &mut TensorMut) {
    let (width, out_stride, out) = (out.cols(), out.stride(), SyncMutPtr(out.ptr()));
    let params =
        ActMul { x: SyncPtr(x.ptr()), x_stride: x.stride(), width, activation, out, out_stride, rows: 0..x.rows() };
    cpu.parallel(x.rows(), 8, |rows| ActMul { rows, ..params.clone() });
}

#[derive(Clone)]
struct ActMul {
    x: SyncPtr<f32>,
    x_stride: usize,
    width: usize,
    activation: Activation,
    out: SyncMutPtr<f32>,
    out_stride: usize,
    rows: Range<usize>,
}

impl Kernel for ActMul {
    #[inline(always)]
    fn run<S: Simd>(self) {
        // SAFETY: Isa::run vouches for the instruction set.
        unsafe {
            match self.activation {
                Activation::Silu => self.rows::<S, Silu>(),
                Activation::GeluTanh => self.rows::<S, GeluTanh>(),
            }
        }
    }
}

/// An activation function of sixteen lanes. (A closure would not be inlined into the instruction set's function.)
trait Act {
    /// # Safety
    /// Needs the instruction set.
    unsafe fn act<S: Simd>(x: S::F) -> S::F;
}

struct Silu;
impl Act for Silu {
    #[inline(always)]
    unsafe fn act<S: Simd>(x: S::F) -> S::F {
        // SAFETY: the caller's.
        unsafe { S::mul(x, sigmoid::<S>(x)) }
    }
}

struct GeluTanh;
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

impl ActMul {
    /// # Safety
    /// Needs the instruction set.
    #[inline(always)]
    unsafe fn rows<S: Simd, A: Act>(&self) {
        let whole = self.width / LANES * LANES;
        for row in self.rows.clone() {
            // SAFETY: gate, up and out have `width` elements in each row, and each row is one thread's.
            unsafe {
                let gate = self.x.get().add(row * self.x_stride);
                let up = gate.add(self.width);
                let out = self.out.get().add(row * self.out_stride);
                for i in (0..whole).step_by(LANES) {
                    S::store(out.add(i), S::mul(A::act::<S>(S::load(gate.add(i))), S::load(up.add(i))));
                }
                for i in whole..self.width {
                    let mut lanes = [0.0; LANES];
                    S::store(lanes.as_mut_ptr(), A::act::<S>(S::splat(*gate.add(i))));
                    *out.add(i) = lanes[0] * *up.add(i);
                }
            }
        }
    }
}
