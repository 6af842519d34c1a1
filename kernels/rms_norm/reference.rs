//! The oracle.

use crate::{Tensor, TensorMut};

pub fn rms_norm(x: Tensor, weight: &[f32], eps: f32, out: &mut TensorMut) {
    for t in 0..x.rows() {
        out.row_mut(t).copy_from_slice(x.row(t));
    }
    rms_norm_in_place(out, weight, eps);
}

pub fn rms_norm_in_place(x: &mut TensorMut, weight: &[f32], eps: f32) {
    for t in 0..x.rows() {
        for group in x.row_mut(t).chunks_exact_mut(weight.len()) {
            let mean = group.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>() / weight.len() as f64;
            let scale = 1.0 / (mean + f64::from(eps)).sqrt();
            for (x, w) in group.iter_mut().zip(weight) {
                *x = (f64::from(*x) * scale) as f32 * w;
            }
        }
    }
}

pub fn add_rms_norm(residual: &mut TensorMut, delta: Tensor, weight: &[f32], eps: f32, out: &mut TensorMut) {
    for t in 0..delta.rows() {
        for (r, d) in residual.row_mut(t).iter_mut().zip(delta.row(t)) {
            *r += d;
        }
    }
    rms_norm(residual.view(), weight, eps, out);
}
