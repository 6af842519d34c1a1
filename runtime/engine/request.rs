//! What goes into an engine and what comes out: requests and events.

use crate::TokenId;
use crate::sampling::SamplingParams;
use crate::{Error, Result};
use compact_str::CompactString;
use std::time::Duration;

/// Most samples of one request.
pub const MAX_SAMPLES: u32 = 128;
/// Priorities lie from minus this to this.
pub const MAX_PRIORITY: i32 = 1000;

/// Names one request of one engine; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What to generate from, how, and for whom.
#[derive(Debug, Clone)]
pub struct Request {
    /// At least one token, and fewer than the engine's context.
    pub prompt: Vec<TokenId>,
    /// Sampling and stopping.
    pub sampling: SamplingParams,
    /// Samples to deliver, from 1 to [`MAX_SAMPLES`]: each continues the prompt with random numbers of its own. Sample 0
    /// is what a request for one sample would get.
    pub n: u32,
    /// Samples to generate, of which the `n` with the greatest mean log-probability are delivered, best first, when
    /// all have ended; 0 means `n`.
    pub best_of: u32,
    /// Greater goes first among the requests of a tenant; from -[`MAX_PRIORITY`] to [`MAX_PRIORITY`].
    pub priority: i32,
    /// Whose request it is. Tenants share the machine by weight, and never each other's cached prefixes.
    pub tenant: u32,
    /// The request ends with [`FinishReason::Deadline`] if it takes longer than this.
    pub deadline: Option<Duration>,
    /// Deliver the prompt's tokens too, before the output.
    pub echo: bool,
    /// Deliver the prompt's tokens with their log-probabilities, and with this many of the most likely tokens in their
    /// place; at most 20. With it `max_tokens` may be 0: the text is scored and nothing is generated.
    pub prompt_logprobs: Option<u32>,
    /// Use and leave cached prefixes, where the engine keeps them.
    pub prefix_cache: bool,
    /// The caller's own; comes back in each of the request's events.
    pub user_data: u64,
}

impl Request {
    /// One sample of a continuation of `prompt`.
    pub fn new(prompt: Vec<TokenId>, sampling: SamplingParams) -> Request {
        Request {
            prompt,
            sampling,
            n: 1,
            best_of: 0,
            priority: 0,
            tenant: 0,
            deadline: None,
            echo: false,
            prompt_logprobs: None,
            prefix_cache: true,
            user_data: 0,
        }
    }

    /// Checks every range that does not depend on the model.
    pub(super) fn validate(&self) -> Result<()> {
        let invalid = |what: String| Err(Error::InvalidArgument(what));
        let scores_only = self.prompt_logprobs.is_some() && self.sampling.max_tokens == 0;
        if scores_only {
            SamplingParams { max_tokens: 1, ..self.sampling.clone() }.validate()?;
        } else {
            self.sampling.validate()?;
        }
        if self.prompt.is_empty() {
            return invalid("prompt: no tokens".into());
        }
        if !(1..=MAX_SAMPLES).contains(&self.n) {
            return invalid(format!("n: {} is not from 1 to {MAX_SAMPLES}", self.n));
        }
        if self.best_of != 0 && !(self.n..=MAX_SAMPLES).contains(&self.best_of) {
            return invalid(format!("best_of: {} is not 0 or from n = {} to {MAX_SAMPLES}", self.best_of, self.n));
        }
        if !(-MAX_PRIORITY..=MAX_PRIORITY).contains(&self.priority) {
            return invalid(format!("priority: {} is not from -{MAX_PRIORITY} to {MAX_PRIORITY}", self.priority));
        }
        if self.deadline.is_some_and(|d| d.is_zero()) {
            return invalid("deadline: 0, no request is that fast".into());
        }
        match self.prompt_logprobs {
            Some(top) if top > 20 => invalid(format!("prompt_logprobs: {top}, at most 20 allowed")),
            _ => Ok(()),
        }
    }

    /// Samples that are generated.
    pub(super) fn candidates(&self) -> u32 {
        self.n.max(self.best_of)
    }
}

/// A token and its log-probability in nats.
/// Laid out as in C, whose callers see it.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct TokenLogprob {
    /// The token.
    pub id: TokenId,
    /// ln p, from the logits before penalties and temperature.
    pub logprob: f32,
}

/// Log-probabilities of one token.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// The token that stands there.
    pub chosen: TokenLogprob,
    /// The most likely ones, best first.
    pub top: Vec<TokenLogprob>,
}

/// Why a sample ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-text token, a stop token or a stop string.
    Stop,
    /// `max_tokens` or the context is used up.
    Length,
    /// By [`Engine::cancel`](super::Engine::cancel) or shutdown.
    Cancelled,
    /// The request's deadline passed.
    Deadline,
    /// By an error inside the engine; the event's text says which.
    Error,
}

/// What [`FinishReason::Stop`] was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopCause {
    /// One of the model's end-of-text tokens.
    EndOfText(TokenId),
    /// One of the request's stop tokens.
    Token(TokenId),
    /// The stop string of this index.
    Text(usize),
}

/// Where a request's time went. Parts that were not reached are `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// From submit to the first step that computed anything of it.
    pub queue: Option<Duration>,
    /// From then to the first token.
    pub prefill: Option<Duration>,
    /// From the first token to the last.
    pub decode: Option<Duration>,
    /// From submit to the first token.
    pub ttft: Option<Duration>,
    /// Mean time of each token after the first.
    pub tpot: Option<Duration>,
}

/// What a request's tokens depend on: the same prompt and parameters with the same provenance give the same tokens, alone
/// or in any batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Provenance {
    /// Names the model: see [`Gguf::fingerprint`](crate::load::Gguf::fingerprint).
    pub model: u128,
    /// The set of kernels that computed it: "cpu-avx512", for example.
    pub kernels: &'static str,
    /// The seed, and the sample's number among those generated: they name its random numbers.
    pub seed: (u64, u32),
    /// How much of the above is enough. There is one mode: a row's bits never depend on the batch.
    pub determinism: &'static str,
}

/// Sent once for each sample, as its last event.
#[derive(Debug, Clone, PartialEq)]
pub struct Finish {
    /// Why.
    pub reason: FinishReason,
    /// For [`FinishReason::Stop`]: what it was.
    pub stop: Option<StopCause>,
    /// For [`FinishReason::Error`]: what happened.
    pub message: Option<String>,
    /// This is the request's last event, not only the sample's.
    pub last: bool,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that were found in the prefix cache.
    pub cached_tokens: usize,
    /// Tokens generated, the one that ended it included.
    pub completion_tokens: usize,
    /// Where the time went.
    pub timings: Timings,
    /// What the tokens depend on.
    pub provenance: Provenance,
}

/// What an event's token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A token of the prompt, because [`Request::echo`] or [`Request::prompt_logprobs`] asks for it; in sample 0 only.
    Prompt,
    /// A generated one.
    Output,
}

/// Something happened to a request. A token's text may be empty (half a character, or held back by a stop string that
/// may be starting), and the finishing event carries whatever text was held back.
#[derive(Debug, Clone)]
pub struct Event {
    /// Whose.
    pub request: RequestId,
    /// The request's [`Request::user_data`].
    pub user_data: u64,
    /// Which of its samples, from 0.
    pub sample: u32,
    /// Where the token comes from.
    pub origin: Origin,
    /// The token, if this event carries one.
    pub token: Option<TokenId>,
    /// Its log-probabilities, if they were asked for; the prompt's first token has none.
    pub logprobs: Option<Logprobs>,
    /// Text that became final with this event: always whole UTF-8 characters.
    pub text: CompactString,
    /// Set on the sample's last event.
    pub finish: Option<Box<Finish>>,
}
