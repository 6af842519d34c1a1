//! Perplexity of a text, by llama-perplexity's protocol.

use crate::batch::{Batch, Logits};
use crate::model::Model;
use crate::{Error, Result, TokenId};
use aieng_kernels::BLOCK_TOKENS;
use aieng_kernels::sample::log_sum_exp;

/// What [`perplexity`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct Perplexity {
    /// exp of the mean negative log-likelihood.
    pub value: f64,
    /// Standard error of `value`.
    pub standard_error: f64,
    /// Of each token scored, in order (nats).
    pub log_likelihoods: Vec<f32>,
}

impl Perplexity {
    fn of(log_likelihoods: Vec<f32>) -> Perplexity {
        let mean = mean_of(&log_likelihoods, |x| x);
        let variance = mean_of(&log_likelihoods, |x| (x - mean).powi(2));
        let (value, n) = ((-mean).exp(), log_likelihoods.len() as f64);
        let standard_error = if n > 1.0 { value * (variance / (n - 1.0)).sqrt() } else { 0.0 };
        Perplexity { value, standard_error, log_likelihoods }
    }
}

fn mean_of(values: &[f32], term: impl Fn(f64) -> f64) -> f64 {
    values.iter().map(|x| term(f64::from(*x))).sum::<f64>() / values.len() as f64
}

/// Splits `tokens` into windows of `ctx` (a shorter rest is left out), replaces each window's first token by `bos`, if
/// there is one, and scores the tokens at positions `ctx / 2 + 1 .. ctx` of each. `progress` is called after each window
/// with the fraction done and the value so far.
///
/// Errors: [`Error::InvalidArgument`] if `ctx` is below 4 or above the model's context or KV cache, if the text has fewer
/// than `ctx` tokens, or if a token is outside the vocabulary.
pub fn perplexity(
    model: &mut Model,
    tokens: &[TokenId],
    ctx: usize,
    bos: Option<TokenId>,
    progress: &mut dyn FnMut(f32, f64),
) -> Result<Perplexity> {
    let most = model.context().min(model.kv_blocks() * BLOCK_TOKENS);
    if !(4..=most).contains(&ctx) {
        return Err(Error::InvalidArgument(format!("ctx: {ctx} is not from 4 to {most}")));
    }
    if tokens.len() < ctx {
        return Err(Error::InvalidArgument(format!("the text has {} tokens, and a window has {ctx}", tokens.len())));
    }
    if let Some(bad) = tokens.iter().find(|t| t.0 as usize >= model.vocab()) {
        return Err(Error::InvalidArgument(format!("token {} is outside the vocabulary of {}", bad.0, model.vocab())));
    }
    let windows = tokens.chunks_exact(ctx);
    let count = windows.len();
    let mut log_likelihoods = Vec::new();
    for (i, window) in windows.enumerate() {
        let mut window: Vec<u32> = window.iter().map(|t| t.0).collect();
        if let Some(bos) = bos {
            window[0] = bos.0;
        }
        score(model, &window, &mut log_likelihoods)?;
        progress((i + 1) as f32 / count as f32, (-mean_of(&log_likelihoods, |x| x)).exp());
    }
    Ok(Perplexity::of(log_likelihoods))
}

/// Appends the log-likelihoods of a window's second half.
fn score(model: &mut Model, window: &[u32], log_likelihoods: &mut Vec<f32>) -> Result<()> {
    let table: Vec<u32> = (0..window.len().div_ceil(BLOCK_TOKENS) as u32).collect();
    let first_scored = window.len() / 2;
    let mut batch = Batch::default();
    let mut done = 0;
    // Chunks end where scoring begins, so that no logits are computed for the first half.
    while done < window.len() {
        let limit = if done < first_scored { first_scored } else { window.len() };
        let end = limit.min(done + model.max_batch_tokens());
        let logits = if done < first_scored { Logits::None } else { Logits::All };
        batch.clear();
        batch.push(&window[done..end], done, &table, logits);
        model.forward(&batch)?;
        // The window's last token is followed by nothing that could be scored.
        let rows = if logits == Logits::All { end.min(window.len() - 1) - done } else { 0 };
        let mut row = 0;
        while row < rows {
            let n = model.logits_rows().min(rows - row);
            model.compute_logits(row..row + n)?;
            for i in 0..n {
                let logits = model.logits_row(i);
                let next = window[done + row + i + 1] as usize;
                log_likelihoods.push(logits[next] - log_sum_exp(model.device(), logits));
            }
            row += n;
        }
        done = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likelihoods_become_a_value_and_its_error() {
        let result = Perplexity::of(vec![-1.0, -2.0, -3.0]);
        assert!((result.value - 2f64.exp()).abs() < 1e-12);
        // The variance is 2/3, of the mean 1/3.
        assert!((result.standard_error - 2f64.exp() * (1.0f64 / 3.0).sqrt()).abs() < 1e-12);
    }
}
