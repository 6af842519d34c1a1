use super::cases::CASES;
use super::*;
use crate::testing::{Matrix, Rng, assert_close, devices};

/// Turns by complex multiplication in f64.
fn oracle(x: &Matrix, head_dim: usize, style: Style, frequencies: &Frequencies, positions: &[u32]) -> Matrix {
    let mut out = x.clone();
    let pairs = frequencies.inverse().len();
    for (t, position) in positions.iter().enumerate() {
        for head in out.row_mut(t).chunks_exact_mut(head_dim) {
            let old = head.to_vec();
            for (i, f) in frequencies.inverse().iter().enumerate() {
                let (a, b) = match style {
                    Style::Interleaved => (2 * i, 2 * i + 1),
                    Style::Neox => (i, i + pairs),
                };
                let (sin, cos) = (f * f64::from(*position)).sin_cos();
                let m = f64::from(frequencies.magnitude());
                let (x, y) = (f64::from(old[a]), f64::from(old[b]));
                head[a] = (m * (x * cos - y * sin)) as f32;
                head[b] = (m * (x * sin + y * cos)) as f32;
            }
        }
    }
    out
}

#[test]
fn turns_pairs_of_either_style() {
    let mut rng = Rng::new(4);
    for (rows, heads, head_dim, dims) in CASES {
        for style in [Style::Interleaved, Style::Neox] {
            let yarn = Scaling::Yarn {
                factor: 4.0,
                original_context: 2048.0,
                beta_fast: 32.0,
                beta_slow: 1.0,
                attention_factor: 1.0,
            };
            let frequencies = Frequencies::new(dims, 10000.0, yarn, None);
            let positions: Vec<u32> = (0..rows).map(|_| rng.below(100_000) as u32).collect();
            let x = Matrix::random(&mut rng, rows, heads * head_dim);
            let want = oracle(&x, head_dim, style, &frequencies, &positions);
            let mut angles = RopeAngles::default();
            angles.set(&frequencies, &positions);
            for device in devices() {
                let mut out = x.clone();
                rope(&device, &mut out.view_mut(), head_dim, style, &angles);
                assert_close(&out, &want, 1e-6, &format!("{rows}x{heads}x{head_dim} {style:?} {}", device.name()));
            }
        }
    }
}

#[test]
fn scalings_keep_high_and_divide_low_frequencies() {
    let plain = Frequencies::new(128, 500_000.0, Scaling::None, None);
    let llama3 = Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original_context: 8192.0 };
    let llama3 = Frequencies::new(128, 500_000.0, llama3, None);
    let ratio = |f: &Frequencies, i: usize| plain.inverse()[i] / f.inverse()[i];
    assert!((ratio(&llama3, 0) - 1.0).abs() < 1e-9 && (ratio(&llama3, 63) - 8.0).abs() < 1e-9);
    // Pair 30 makes 8192 * 500000^(-60/128) / 2π = 2.78 turns: 0.5934 of it is kept.
    let turns = 8192.0 * 500_000f64.powf(-60.0 / 128.0) / (2.0 * std::f64::consts::PI);
    let keep = (turns - 1.0) / 3.0;
    assert!((1.0 / ratio(&llama3, 30) - (keep + (1.0 - keep) / 8.0)).abs() < 1e-9);
    let linear = Frequencies::new(128, 500_000.0, Scaling::Linear { factor: 8.0 }, None);
    assert!((0..64).all(|i| (ratio(&linear, i) - 8.0).abs() < 1e-9));
    let factors: Vec<f32> = (1..=64).map(|i| i as f32).collect();
    let divided = Frequencies::new(128, 500_000.0, Scaling::None, Some(&factors));
    assert!((0..64).all(|i| (ratio(&divided, i) - (i + 1) as f64).abs() < 1e-9));
}
