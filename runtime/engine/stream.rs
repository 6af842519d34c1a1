//! One sample's output: tokens become text, and the sample's end is recognised.

use super::{FinishReason, Request, StopCause};
use crate::sampling::{Sampler, StopMatcher};
use crate::tokenizer::{Decoder, Tokenizer};
use crate::{Result, TokenId};
use std::time::Instant;

/// What the step thread keeps of a sample besides its tokens.
pub(super) struct Stream {
    pub(super) sampler: Sampler,
    decoder: Decoder,
    stops: StopMatcher,
    stop_tokens: Vec<TokenId>,
    ignore_eos: bool,
    pub(super) generated: usize,
    /// Below this many tokens nothing stops the sample.
    least: usize,
    /// Most tokens to generate.
    pub(super) most: usize,
    /// When the first and the last token came.
    pub(super) times: Option<(Instant, Instant)>,
    /// Sum of the log-probabilities of the tokens, if they are computed.
    pub(super) logprob: f64,
    pub(super) ended: bool,
}

/// Why a stream ends.
pub(super) type End = (FinishReason, Option<StopCause>);

impl Stream {
    /// Sample `sample` of a request that may generate `most` tokens.
    pub(super) fn new(request: &Request, sample: u32, most: usize) -> Result<Stream> {
        let sampling = &request.sampling;
        Ok(Stream {
            sampler: Sampler::new(sampling, &request.prompt, sample, most)?,
            decoder: Decoder::default(),
            stops: StopMatcher::new(sampling.stop.clone()),
            stop_tokens: sampling.stop_token_ids.clone(),
            ignore_eos: sampling.ignore_eos,
            generated: 0,
            least: sampling.min_tokens as usize,
            most,
            times: None,
            logprob: 0.0,
            ended: false,
        })
    }

    /// Whether a token that would stop the sample may be drawn now.
    pub(super) fn may_stop(&self) -> bool {
        self.generated >= self.least
    }

    /// Calls `each` for the tokens that would stop the sample.
    pub(super) fn stop_tokens<'a>(&'a self, tokenizer: &'a Tokenizer) -> impl Iterator<Item = TokenId> + 'a {
        let eos = if self.ignore_eos { &[] } else { tokenizer.stop_tokens() };
        self.stop_tokens.iter().chain(eos).copied()
    }

    /// Takes in a sampled token and appends to `text` what becomes final with it; `piece` is scratch. Returns why the
    /// sample ends, if it does.
    pub(super) fn push(
        &mut self,
        token: TokenId,
        now: Instant,
        tokenizer: &Tokenizer,
        piece: &mut String,
        text: &mut String,
    ) -> Option<End> {
        self.generated += 1;
        self.times = Some((self.times.map_or(now, |(first, _)| first), now));
        let end = self.take_in(token, tokenizer, piece, text);
        if end.is_some() {
            self.ended = true;
        }
        end
    }

    fn take_in(&mut self, token: TokenId, tokenizer: &Tokenizer, piece: &mut String, text: &mut String) -> Option<End> {
        let cause = self.stop_cause(token, tokenizer);
        if cause.is_none() {
            piece.clear();
            self.decoder.push(tokenizer, token, false, piece);
            // What is held back stands behind the stop string.
            if let Some(stop) = self.stops.push(piece, self.generated >= self.least, text) {
                return Some((FinishReason::Stop, Some(StopCause::Text(stop))));
            }
        }
        let end = match cause {
            Some(cause) => (FinishReason::Stop, Some(cause)),
            None if self.generated == self.most => (FinishReason::Length, None),
            None => return None,
        };
        self.flush(piece, text);
        Some(end)
    }

    fn stop_cause(&self, token: TokenId, tokenizer: &Tokenizer) -> Option<StopCause> {
        if self.stop_tokens.contains(&token) {
            return Some(StopCause::Token(token));
        }
        let eos = !self.ignore_eos && tokenizer.stop_tokens().contains(&token);
        eos.then_some(StopCause::EndOfText(token))
    }

    /// Ends the sample without another token: appends to `text` half characters and the beginnings of stop strings.
    pub(super) fn end(&mut self, text: &mut String) {
        self.ended = true;
        self.flush(&mut String::new(), text);
    }

    fn flush(&mut self, piece: &mut String, text: &mut String) {
        piece.clear();
        self.decoder.finish(piece);
        if self.stops.push(piece, self.generated >= self.least, text).is_none() {
            self.stops.finish(text);
        }
    }

    /// Mean log-probability of the tokens.
    pub(super) fn mean_logprob(&self) -> f64 {
        self.logprob / self.generated.max(1) as f64
    }
}
