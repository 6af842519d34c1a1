//! Choosing a token from logits `[vocab]`.
//!
//! Order of operations (as vLLM's): penalties and bias, then temperature, min-p, top-k, top-p, then one draw. The caller
//! brings the random number, so a token depends on its own request alone. [`Draws`] is what a whole step asks for.

mod cpu;
mod draws;
mod reference;
#[cfg(test)]
mod tests;

pub use draws::{Choice, Draw, DrawScratch, Drawn, Draws, MAX_BEST, draw, draw_all};

use crate::Device;

/// What shapes the distribution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Filter {
    /// Divides the logits; 0 picks the most likely token.
    pub temperature: f32,
    /// Keeps the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the smallest set of most likely tokens whose probabilities reach this sum; 1 keeps all.
    pub top_p: f32,
    /// Drops tokens less likely than this times the most likely one.
    pub min_p: f32,
}

/// Penalties of tokens seen before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Penalties {
    /// Divides positive logits and multiplies negative ones (arXiv:1909.05858); for tokens in prompt or output.
    pub repetition: f32,
    /// Subtracted once; for tokens in the output.
    pub presence: f32,
    /// Subtracted for each occurrence in the output.
    pub frequency: f32,
}

/// How often a token was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The token.
    pub id: u32,
    /// Occurrences in the output; a token that is only in the prompt has 0.
    pub in_output: u32,
}

/// A token and its score.
pub type Candidate = (f32, u32);

/// Index of the greatest logit; the first of equals. NaN is never chosen unless all are; `logits` may not be empty.
pub fn argmax(device: &Device, logits: &[f32]) -> u32 {
    assert!(!logits.is_empty(), "no logits");
    let (max, place) = match device {
        Device::Reference => (reference::max(logits), 0..logits.len()),
        Device::Cpu(cpu) => cpu::max(cpu, logits),
    };
    logits[place.clone()].iter().position(|x| *x == max).map_or(0, |i| place.start + i) as u32
}

/// `ln Σ e^x`: what turns a logit into a log-probability by subtraction.
pub fn log_sum_exp(device: &Device, logits: &[f32]) -> f32 {
    match device {
        Device::Reference => reference::log_sum_exp(logits),
        Device::Cpu(cpu) => cpu::log_sum_exp(cpu, logits),
    }
}

/// Applies penalties to the tokens in `seen`; ids outside the vocabulary are ignored.
pub fn penalize(logits: &mut [f32], seen: &[Seen], penalties: Penalties) {
    for token in seen {
        if let Some(x) = logits.get_mut(token.id as usize) {
            *x = if *x > 0.0 { *x / penalties.repetition } else { *x * penalties.repetition };
            if token.in_output > 0 {
                *x -= penalties.presence + penalties.frequency * token.in_output as f32;
            }
        }
    }
}

/// The `n` best tokens, best first; of equals the lower id first. `scratch` is overwritten and holds the result.
pub fn top_n<'a>(logits: &[f32], n: usize, scratch: &'a mut Vec<Candidate>) -> &'a mut [Candidate] {
    scratch.clear();
    scratch.extend(logits.iter().zip(0..).map(|(x, id)| (*x, id)));
    keep_best(scratch, n);
    scratch.sort_unstable_by(better);
    scratch
}

/// Draws a token with `uniform` in [0, 1). `scratch` is overwritten.
///
/// `logits` may not be empty; if none of them is a number, the first token is drawn.
pub fn sample(device: &Device, logits: &[f32], filter: Filter, uniform: f64, scratch: &mut Vec<Candidate>) -> u32 {
    let best = argmax(device, logits);
    let max = logits[best as usize];
    if filter.temperature == 0.0 || !max.is_finite() {
        return best;
    }
    // Below this a token has no weight in f32; min-p raises the bar.
    let floor = max + filter.temperature * filter.min_p.max(1e-30).ln();
    scratch.clear();
    scratch.extend(logits.iter().zip(0..).filter(|(x, _)| **x >= floor).map(|(x, id)| (*x, id)));
    if filter.top_k > 0 {
        keep_best(scratch, filter.top_k);
    }
    let weight = |x: f32| (f64::from(x - max) / f64::from(filter.temperature)).exp();
    for (x, _) in scratch.iter_mut() {
        *x = weight(*x) as f32;
    }
    if filter.top_p < 1.0 {
        keep_mass(scratch, f64::from(filter.top_p));
    }
    // The order in which candidates stand must not depend on how they were selected.
    scratch.sort_unstable_by_key(|(_, id)| *id);
    pick(scratch, uniform)
}

/// Greater first, then the lower id.
fn better(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// Keeps the `n` best, in any order.
fn keep_best(candidates: &mut Vec<Candidate>, n: usize) {
    if n < candidates.len() {
        if n > 0 {
            candidates.select_nth_unstable_by(n - 1, better);
        }
        candidates.truncate(n);
    }
}

/// Keeps the smallest set of the greatest weights that holds at least `share` of their sum. Few tokens usually do, so
/// only a growing head is sorted.
fn keep_mass(candidates: &mut Vec<Candidate>, share: f64) {
    // Summed in the order of ids, so that ties and rounding never depend on how candidates were selected.
    candidates.sort_unstable_by_key(|(_, id)| *id);
    let wanted = share * candidates.iter().map(|(w, _)| f64::from(*w)).sum::<f64>();
    let mut head = 64.min(candidates.len());
    loop {
        if head < candidates.len() {
            candidates.select_nth_unstable_by(head, better);
        }
        candidates[..head].sort_unstable_by(better);
        let mut sum = 0.0;
        for (i, (w, _)) in candidates[..head].iter().enumerate() {
            sum += f64::from(*w);
            if sum >= wanted {
                candidates.truncate(i + 1);
                return;
            }
        }
        if head == candidates.len() {
            return;
        }
        head = (head * 8).min(candidates.len());
    }
}

/// The candidate in whose share of the total weight `uniform` falls.
fn pick(candidates: &[Candidate], uniform: f64) -> u32 {
    let total: f64 = candidates.iter().map(|(w, _)| f64::from(*w)).sum();
    let mut rest = uniform * total;
    for (w, id) in candidates {
        rest -= f64::from(*w);
        if rest < 0.0 {
            return *id;
        }
    }
    candidates.iter().rev().find(|(w, _)| *w > 0.0).map_or(0, |(_, id)| *id)
}
