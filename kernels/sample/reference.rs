//! The oracle.

pub fn max(logits: &[f32]) -> f32 {
    logits.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

pub fn log_sum_exp(logits: &[f32]) -> f32 {
    let max = f64::from(max(logits));
    let sum: f64 = logits.iter().map(|x| (f64::from(*x) - max).exp()).sum();
    (max + sum.ln()) as f32
}
