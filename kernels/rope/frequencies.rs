//! Frequencies of a model's rotary embedding, and the ways to stretch them to longer contexts.

use std::f64::consts::PI;

/// How frequencies are stretched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scaling {
    /// As trained.
    None,
    /// All frequencies divided by `factor` (arXiv:2306.15595).
    Linear {
        /// At least 1 in real models; greater than 0.
        factor: f32,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, those between blended.
    Llama3 {
        /// Division of the low frequencies.
        factor: f32,
        /// Wavelengths above `original_context / low` are low frequencies.
        low: f32,
        /// Wavelengths below `original_context / high` are high frequencies.
        high: f32,
        /// Context that the model was trained on.
        original_context: f32,
    },
    /// YaRN (arXiv:2309.00071): a ramp between kept and divided frequencies, and a larger magnitude.
    Yarn {
        /// Division of the low frequencies.
        factor: f32,
        /// Context that the model was trained on.
        original_context: f32,
        /// Turns over the trained context above which a frequency is kept; 32 in the paper.
        beta_fast: f32,
        /// Turns below which it is divided; 1 in the paper.
        beta_slow: f32,
        /// Multiplies the magnitude; 1 in the paper.
        attention_factor: f32,
    },
}

/// One frequency for each pair, in radians a position, and the magnitude of the rotation.
#[derive(Debug, Clone, PartialEq)]
pub struct Frequencies {
    inverse: Vec<f64>,
    magnitude: f32,
}

impl Frequencies {
    /// `base^(-2i / dims)` for `dims / 2` pairs, scaled. `factors`, if there are any, divide the frequencies one by one
    /// (GGUF's `rope_freqs.weight`: Llama 3's scaling, worked out by the converter); there must be `dims / 2`.
    pub fn new(dims: usize, base: f32, scaling: Scaling, factors: Option<&[f32]>) -> Frequencies {
        let plain = (0..dims / 2).map(|i| f64::from(base).powf(-2.0 * i as f64 / dims as f64));
        let mut inverse: Vec<f64> = plain.map(|f| scaled(f, scaling, dims, base)).collect();
        if let Some(factors) = factors {
            assert_eq!(factors.len(), inverse.len(), "rope factors");
            inverse.iter_mut().zip(factors).for_each(|(f, factor)| *f /= f64::from(*factor));
        }
        let magnitude = match scaling {
            Scaling::Yarn { factor, attention_factor, .. } => attention_factor * (1.0 + 0.1 * factor.ln()),
            _ => 1.0,
        };
        Frequencies { inverse, magnitude }
    }

    /// Frequencies, pair by pair.
    pub fn inverse(&self) -> &[f64] {
        &self.inverse
    }

    /// Factor of cosine and sine.
    pub fn magnitude(&self) -> f32 {
        self.magnitude
    }
}

fn scaled(frequency: f64, scaling: Scaling, dims: usize, base: f32) -> f64 {
    match scaling {
        Scaling::None => frequency,
        Scaling::Linear { factor } => frequency / f64::from(factor),
        Scaling::Llama3 { factor, low, high, original_context } => {
            let turns = f64::from(original_context) * frequency / (2.0 * PI);
            let keep = ((turns - f64::from(low)) / f64::from(high - low)).clamp(0.0, 1.0);
            frequency * (keep + (1.0 - keep) / f64::from(factor))
        }
        Scaling::Yarn { factor, original_context, beta_fast, beta_slow, .. } => {
            // The pair whose wave makes `beta` turns over the trained context.
            let pair = |beta: f32| {
                let turns = f64::from(original_context) / (f64::from(beta) * 2.0 * PI);
                dims as f64 * turns.ln() / (2.0 * f64::from(base).ln())
            };
            let start = pair(beta_fast).floor().max(0.0);
            let end = pair(beta_slow).ceil().min(dims as f64 - 1.0);
            let i = -frequency.ln() / f64::from(base).ln() * dims as f64 / 2.0;
            let divide = ((i - start) / (end - start).max(0.001)).clamp(0.0, 1.0);
            frequency * (1.0 - divide + divide / f64::from(factor))
        }
    }
}
