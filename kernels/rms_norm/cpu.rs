//! One pass for the squares (and the residual's sum), one for the product.

use crate::cpu::{Cpu, Kernel, LANES, Simd, SyncMutPtr, SyncPtr};
use crate::{Tensor, TensorMut};
use std::ops::Range;

pub fn rms_norm(cpu: &Cpu, x: Tensor, weight: &[f32], eps: f32, out: &mut TensorMut) {
    run(cpu, Params { delta: None, ..params(x.rows(), x.cols(), (x.ptr(), x.stride()), weight, eps, out) });
}

pub fn rms_norm_in_place(cpu: &Cpu, x: &mut TensorMut, weight: &[f32], eps: f32) {
    let read = (x.ptr().cast_const(), x.stride());
    run(cpu, params(x.rows(), x.cols(), read, weight, eps, x));
}

pub fn add_rms_norm(cpu: &Cpu, residual: &mut TensorMut, delta: Tensor, weight: &[f32], eps: f32, out: &mut TensorMut) {
    let x = (residual.ptr().cast_const(), residual.stride());
    let delta =
        Some(Delta { delta: SyncPtr(delta.ptr()), stride: delta.stride(), residual: SyncMutPtr(residual.ptr()) });
    let (rows, cols) = (out.rows(), out.cols());
    run(cpu, Params { delta, ..params(rows, cols, x, weight, eps, out) });
}

#[derive(Clone, Copy)]
struct Delta {
    delta: SyncPtr<f32>,
    stride: usize,
    residual: SyncMutPtr<f32>,
}

/// Rows of `x` (of the residual, if there is a delta) are normed into `out`, which may be `x` itself.
#[derive(Clone)]
struct Params<'a> {
    rows: Range<usize>,
    cols: usize,
    x: SyncPtr<f32>,
    x_stride: usize,
    out: SyncMutPtr<f32>,
    out_stride: usize,
    delta: Option<Delta>,
    weight: &'a [f32],
    eps: f32,
}

fn params<'a>(
    rows: usize,
    cols: usize,
    (x, x_stride): (*const f32, usize),
    weight: &'a [f32],
    eps: f32,
    out: &mut TensorMut,
) -> Params<'a> {
    let (out, out_stride) = (SyncMutPtr(out.ptr()), out.stride());
    Params { rows: 0..rows, cols, x: SyncPtr(x), x_stride, out, out_stride, delta: None, weight, eps }
}

fn run(cpu: &Cpu, params: Params) {
    cpu.parallel(params.rows.len(), 8, |rows| Params { rows, ..params.clone() });
}

impl Kernel for Params<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let n = self.weight.len();
        for row in self.rows.clone() {
            for group in (0..self.cols).step_by(n) {
                // SAFETY: the pointers are to matrices of `cols` columns, and each row is one thread's.
                unsafe {
                    let x = self.x.get().add(row * self.x_stride + group);
                    let out = self.out.get().add(row * self.out_stride + group);
                    if let Some(d) = self.delta {
                        let delta = d.delta.get().add(row * d.stride + group);
                        add::<S>(d.residual.get().add(row * self.x_stride + group), delta, n);
                    }
                    let mean = sum_of_squares::<S>(x, n) / n as f32;
                    let scale = 1.0 / (mean + self.eps).sqrt();
                    product::<S>(x, scale, self.weight.as_ptr(), out, n);
                }
            }
        }
    }
}

/// `a[i] += b[i]`
///
/// # Safety
/// Needs the instruction set and `n` elements at each pointer, as the two below.
#[inline(always)]
unsafe fn add<S: Simd>(a: *mut f32, b: *const f32, n: usize) {
    // SAFETY: the caller's.
    unsafe {
        let whole = n / LANES * LANES;
        for i in (0..whole).step_by(LANES) {
            S::store(a.add(i), S::add(S::load(a.add(i)), S::load(b.add(i))));
        }
        for i in whole..n {
            *a.add(i) += *b.add(i);
        }
    }
}

#[inline(always)]
unsafe fn sum_of_squares<S: Simd>(x: *const f32, n: usize) -> f32 {
    // SAFETY: the caller's.
    unsafe {
        let whole = n / LANES * LANES;
        let mut acc = S::splat(0.0);
        for i in (0..whole).step_by(LANES) {
            let x = S::load(x.add(i));
            acc = S::fma(x, x, acc);
        }
        let mut sum = S::sum(acc);
        for i in whole..n {
            sum += *x.add(i) * *x.add(i);
        }
        sum
    }
}

#[inline(always)]
unsafe fn product<S: Simd>(x: *const f32, scale: f32, weight: *const f32, out: *mut f32, n: usize) {
    // SAFETY: the caller's.
    unsafe {
        let whole = n / LANES * LANES;
        for i in (0..whole).step_by(LANES) {
            let x = S::mul(S::load(x.add(i)), S::splat(scale));
            S::store(out.add(i), S::mul(x, S::load(weight.add(i))));
        }
        for i in whole..n {
            *out.add(i) = *x.add(i) * scale * *weight.add(i);
        }
    }
}
