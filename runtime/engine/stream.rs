//! One request's output: tokens become text, and the request's end is recognised.

use super::{Event, Finish, FinishReason, Logprobs, Request, RequestId};
use crate::TokenId;
use crate::sampling::{Sampler, StopMatcher};
use crate::tokenizer::{Decoder, Tokenizer};
use std::time::Instant;

/// What the step thread keeps of a request besides its tokens.
pub(super) struct Stream {
    pub(super) id: RequestId,
    pub(super) sampler: Sampler,
    decoder: Decoder,
    stops: StopMatcher,
    stop_tokens: Vec<TokenId>,
    prompt_tokens: usize,
    generated: usize,
    /// Most tokens to generate.
    most: usize,
    submitted: Instant,
    first: Option<Instant>,
}

impl Stream {
    /// The stream of a request that may generate `most` tokens.
    pub(super) fn new(
        id: RequestId,
        request: &Request,
        most: usize,
        submitted: Instant,
        tokenizer: &Tokenizer,
    ) -> Stream {
        let sampling = &request.sampling;
        let mut stop_tokens = sampling.stop_token_ids.clone();
        if !sampling.ignore_eos {
            stop_tokens.extend_from_slice(tokenizer.stop_tokens());
        }
        Stream {
            id,
            sampler: Sampler::new(sampling, &request.prompt),
            decoder: tokenizer.decoder(),
            stops: StopMatcher::new(sampling.stop.clone()),
            stop_tokens,
            prompt_tokens: request.prompt.len(),
            generated: 0,
            most,
            submitted,
            first: None,
        }
    }

    /// Takes in a sampled token; the event is the request's last one if it has a `finish`.
    pub(super) fn push(&mut self, token: TokenId, logprobs: Option<Logprobs>, tokenizer: &Tokenizer) -> Event {
        self.generated += 1;
        self.first.get_or_insert_with(Instant::now);
        let mut text = String::new();
        let reason = if self.stop_tokens.contains(&token) {
            Some(FinishReason::Stop)
        } else {
            let mut piece = String::new();
            self.decoder.push(tokenizer, token, &mut piece);
            if self.stops.push(&piece, &mut text) {
                // What is held back stands behind the stop string.
                return self.event(Some(token), logprobs, text, Some(self.finish(FinishReason::Stop, None)));
            }
            (self.generated == self.most).then_some(FinishReason::Length)
        };
        if reason.is_some() {
            self.flush(&mut text);
        }
        self.event(Some(token), logprobs, text, reason.map(|r| self.finish(r, None)))
    }

    /// The last event of a request that ends without another token.
    pub(super) fn end(&mut self, reason: FinishReason, message: Option<String>) -> Event {
        let mut text = String::new();
        self.flush(&mut text);
        self.event(None, None, text, Some(self.finish(reason, message)))
    }

    /// Lets go of half characters and of the beginnings of stop strings.
    fn flush(&mut self, text: &mut String) {
        let mut rest = String::new();
        self.decoder.finish(&mut rest);
        if !self.stops.push(&rest, text) {
            self.stops.finish(text);
        }
    }

    fn event(&self, token: Option<TokenId>, logprobs: Option<Logprobs>, text: String, finish: Option<Finish>) -> Event {
        Event { request: self.id, token, logprobs, text, finish }
    }

    fn finish(&self, reason: FinishReason, message: Option<String>) -> Finish {
        let later = self.generated.saturating_sub(1) as u32;
        Finish {
            reason,
            message,
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.generated,
            ttft: self.first.map(|first| first - self.submitted),
            tpot: self.first.filter(|_| later > 0).map(|first| first.elapsed() / later),
        }
    }
}
