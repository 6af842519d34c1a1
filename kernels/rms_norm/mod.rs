//! `out = x / sqrt(mean(x²) + eps) * weight` (arXiv:1910.07467), over groups of `weight.len()` columns: the whole row, or
//! each head of it. A group's squares are summed in a fixed order.

#[cfg(any(test, feature = "testing"))]
pub mod cases;
mod cpu;
mod reference;
#[cfg(test)]
mod tests;

use crate::{Device, Tensor, TensorMut};

/// Norms `x` into `out`.
///
/// Shapes: x and out `[T, G * weight.len()]`. Panics otherwise.
pub fn rms_norm(device: &Device, x: Tensor, weight: &[f32], eps: f32, out: &mut TensorMut) {
    check(x.rows(), x.cols(), weight, &x, out);
    match device {
        Device::Reference => reference::rms_norm(x, weight, eps, out),
        Device::Cpu(cpu) => cpu::rms_norm(cpu, x, weight, eps, out),
    }
}

/// Norms `x` where it stands. Shape: `[T, G * weight.len()]`.
pub fn rms_norm_in_place(device: &Device, x: &mut TensorMut, weight: &[f32], eps: f32) {
    assert!(!weight.is_empty() && x.cols().is_multiple_of(weight.len()), "columns of x and length of the weight");
    match device {
        Device::Reference => reference::rms_norm_in_place(x, weight, eps),
        Device::Cpu(cpu) => cpu::rms_norm_in_place(cpu, x, weight, eps),
    }
}

/// `residual += delta`, then norms `residual` into `out`: one pass over the rows.
///
/// Shapes: all `[T, weight.len()]`.
pub fn add_rms_norm(
    device: &Device,
    residual: &mut TensorMut,
    delta: Tensor,
    weight: &[f32],
    eps: f32,
    out: &mut TensorMut,
) {
    check(delta.rows(), delta.cols(), weight, &residual.view(), out);
    match device {
        Device::Reference => reference::add_rms_norm(residual, delta, weight, eps, out),
        Device::Cpu(cpu) => cpu::add_rms_norm(cpu, residual, delta, weight, eps, out),
    }
}

fn check(rows: usize, cols: usize, weight: &[f32], x: &Tensor, out: &TensorMut) {
    assert!(!weight.is_empty() && cols.is_multiple_of(weight.len()), "columns {cols}, weight {}", weight.len());
    assert_eq!((x.rows(), x.cols()), (rows, cols), "shapes of the inputs");
    assert_eq!((out.rows(), out.cols()), (rows, cols), "shapes of input and out");
}
