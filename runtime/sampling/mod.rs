//! How the next token is chosen, and when a generation ends.

mod sampler;
mod stop;

pub use sampler::{Sampler, ask_score, logprobs};
pub use stop::StopMatcher;

use crate::{Error, Result, TokenId};

/// Sampling and stopping of one request. [`Default`] samples from the model's own distribution: temperature 1, nothing
/// cut off, 128 tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy. At most 100.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set whose probabilities sum to at least this; in (0, 1], 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less likely than this times the most likely one; in [0, 1], 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output (CTRL, arXiv:1909.05858); > 0, 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once from the logit of each token in the output; in [-2, 2].
    pub presence_penalty: f32,
    /// Subtracted once per occurrence in the output; in [-2, 2].
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens; at most 1024 of them.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// The same seed gives the same tokens, in any batch.
    pub seed: u64,
    /// Generation ends before any of these; at most 64, of 1 to 4096 bytes.
    pub stop: Vec<String>,
    /// Generation ends at any of these tokens, which are not part of the text; at most 64.
    pub stop_token_ids: Vec<TokenId>,
    /// At most this many tokens are generated; at least 1.
    pub max_tokens: u32,
    /// Nothing ends the generation before it has this many tokens: stop tokens are not drawn, stop strings not seen. At
    /// most `max_tokens`.
    pub min_tokens: u32,
    /// Go on after the model's end-of-text tokens.
    pub ignore_eos: bool,
    /// `Some(n)`: report each token's log-probability and the n most likely ones (n at most 20), from the unmodified logits.
    pub logprobs: Option<u32>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        SamplingParams {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            max_tokens: 128,
            min_tokens: 0,
            ignore_eos: false,
            logprobs: None,
        }
    }
}

impl SamplingParams {
    /// Checks every range that does not depend on the model.
    pub fn validate(&self) -> Result<()> {
        fn range(name: &str, x: f32, ok: bool, wanted: &str) -> Result<()> {
            if x.is_finite() && ok {
                Ok(())
            } else {
                Err(Error::InvalidArgument(format!("{name}: {x} is not {wanted}")))
            }
        }
        range("temperature", self.temperature, (0.0..=100.0).contains(&self.temperature), "in [0, 100]")?;
        range("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "in (0, 1]")?;
        range("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "in [0, 1]")?;
        let repetition = self.repetition_penalty;
        range("repetition_penalty", repetition, repetition > 0.0 && repetition <= 100.0, "in (0, 100]")?;
        let signed = -2.0..=2.0;
        range("presence_penalty", self.presence_penalty, signed.contains(&self.presence_penalty), "in [-2, 2]")?;
        range("frequency_penalty", self.frequency_penalty, signed.contains(&self.frequency_penalty), "in [-2, 2]")?;
        for (id, bias) in &self.logit_bias {
            range(&format!("logit_bias of token {}", id.0), *bias, true, "finite")?;
        }
        let at_most = |name: &str, n: usize, most: usize| {
            if n <= most { Ok(()) } else { Err(Error::InvalidArgument(format!("{name}: {n}, at most {most} allowed"))) }
        };
        at_most("logit_bias", self.logit_bias.len(), 1024)?;
        at_most("stop", self.stop.len(), 64)?;
        at_most("stop_token_ids", self.stop_token_ids.len(), 64)?;
        at_most("logprobs", self.logprobs.unwrap_or(0) as usize, 20)?;
        if self.stop.iter().any(|s| s.is_empty()) {
            return Err(Error::InvalidArgument("stop: an empty string".into()));
        }
        for stop in &self.stop {
            at_most("bytes of a stop string", stop.len(), 4096)?;
        }
        if self.min_tokens > self.max_tokens {
            let SamplingParams { min_tokens, max_tokens, .. } = self;
            return Err(Error::InvalidArgument(format!("min_tokens: {min_tokens} is above max_tokens = {max_tokens}")));
        }
        if self.max_tokens == 0 {
            return Err(Error::InvalidArgument("max_tokens: 0, at least 1 wanted".into()));
        }
        Ok(())
    }
}
