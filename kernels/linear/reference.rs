//! The oracle: each weight row is decoded to f32 and multiplied as it stands, without quantised activations.

use super::Weight;
use crate::act_mul::{Activation, act_mul};
use crate::{Tensor, TensorMut};

/// Partial sums of a dot product: enough to keep f32 sums short, and for the compiler to vectorise.
const SUMS: usize = 16;

pub fn linear(x: Tensor, w: &Weight, y: &mut TensorMut) {
    let mut row = vec![0.0; w.cols()];
    for n in 0..w.rows() {
        w.row(n, &mut row);
        let bias = w.bias().map_or(0.0, |b| b[n]);
        for t in 0..x.rows() {
            y.row_mut(t)[n] = dot(x.row(t), &row) + bias;
        }
    }
}

pub fn gate_up(x: Tensor, w: &Weight, activation: Activation, y: &mut TensorMut) {
    let mut both = vec![0.0; x.rows() * w.rows()];
    linear(x, w, &mut TensorMut::new(&mut both, x.rows(), w.rows()));
    act_mul(Tensor::new(&both, x.rows(), w.rows()), activation, y);
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; SUMS];
    for (a, b) in a.chunks(SUMS).zip(b.chunks(SUMS)) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    sums.iter().sum()
}
