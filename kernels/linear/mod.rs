//! `y = x Wᵀ + b`: activations `x` `[T, K]` f32, weights `W` `[N, K]` in any [`crate::DType`], output `y` `[T, N]` f32.
//!
//! On [`Device::Cpu`] quantised weights meet activations that are quantised in blocks of 64 to 8 or more bits ([`Precision`]),
//! and the products are summed as integers within a block; float weights meet f32 activations, those of bf16 by AMX three parts of
//! each, which are bf16 as well. Each output element is summed block by block in the order of K, whatever T and the number of
//! threads, so a row's result never depends on the batch.

mod activations;
#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod bf16;
#[cfg(any(test, feature = "testing"))]
pub mod cases;
mod cpu;
mod float;
mod format;
mod quantised;
mod reference;
#[cfg(test)]
mod tests;
mod weight;

pub use activations::Scratch;
pub use weight::{OutOfMemory, Precision, Source, Weight, laid_out_bytes};

use crate::act_mul::Activation;
use crate::{Device, Tensor, TensorMut};

/// `y = x Wᵀ + b`.
///
/// Shapes: x `[T, w.cols()]`, y `[T, w.rows()]`; `w` must have been made for `device`. Panics otherwise.
pub fn linear(device: &Device, x: Tensor, w: &Weight, scratch: &mut Scratch, y: &mut TensorMut) {
    assert_eq!(x.cols(), w.cols(), "columns of x and of the weight");
    assert_eq!(y.cols(), w.rows(), "columns of y and rows of the weight");
    assert_eq!(x.rows(), y.rows(), "rows of x and y");
    match device {
        Device::Reference => reference::linear(x, w, y),
        Device::Cpu(cpu) => cpu::linear(cpu, x, w, scratch, y),
    }
}

/// `y = act(x Gᵀ) * (x Uᵀ)` for a weight of two parts, gate G above up U; a bias is that of the gate, then that of up.
///
/// Shapes: x `[T, w.cols()]`, y `[T, F]`, both parts `[F, w.cols()]`; `w` must have been made for `device`. Panics otherwise.
pub fn gate_up(
    device: &Device,
    x: Tensor,
    w: &Weight,
    activation: Activation,
    scratch: &mut Scratch,
    y: &mut TensorMut,
) {
    assert_eq!(x.cols(), w.cols(), "columns of x and of the weight");
    assert!(w.parts().iter().map(|part| part.rows).eq([y.cols(); 2]), "columns of y and rows of gate and up");
    assert_eq!(x.rows(), y.rows(), "rows of x and y");
    match device {
        Device::Reference => reference::gate_up(x, w, activation, y),
        Device::Cpu(cpu) => cpu::gate_up(cpu, x, w, activation, scratch, y),
    }
}
