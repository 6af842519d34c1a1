//! Perplexity of a text, by llama-perplexity's protocol.

use crate::model::Model;
use crate::{Error, Result, TokenId};

/// What [`perplexity`] found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Perplexity {
    /// exp of the mean negative log-likelihood.
    pub value: f64,
    /// Standard error of `value`.
    pub standard_error: f64,
    /// Tokens scored.
    pub tokens: usize,
}

/// Splits `tokens` into windows of `ctx` (a shorter rest is left out), replaces each window's first token by BOS where
/// the model adds one, and scores the tokens at positions ctx/2 - 1 … ctx - 1 of each. `progress` is called after each
/// window with the fraction done and the value so far.
pub fn perplexity(
    _model: &mut Model,
    _tokens: &[TokenId],
    _ctx: usize,
    _progress: &mut dyn FnMut(f32, f64),
) -> Result<Perplexity> {
    Err(Error::Internal("not yet".into()))
}
