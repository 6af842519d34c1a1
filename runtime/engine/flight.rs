//! A request in flight: its samples, and the events that they become.
//!
//! Invariants: each sample to deliver gets exactly one event with a [`Finish`], and nothing after it; the last of
//! those is marked, and nothing of the request follows.

use super::outbox::Outbox;
use super::stream::{End, Stream};
use super::{Event, Finish, FinishReason, Logprobs, Origin, Provenance, Request, RequestId, Timings};
use crate::metrics::Metrics;
use crate::sampling::{ask_score, logprobs};
use crate::scheduler::Row;
use crate::tokenizer::{Decoder, Tokenizer};
use crate::{Result, TokenId, memory};
use aieng_kernels::sample::{Drawn, Draws};
use compact_str::CompactString;
use std::collections::TryReserveError;
use std::time::{Duration, Instant};

/// Memory that all requests of an engine use in turn.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    banned: Vec<u32>,
    piece: String,
    text: String,
    /// Time of this step that kernels took.
    pub(super) kernel_time: Duration,
}

impl Scratch {
    /// Runs a kernel and adds up its time.
    pub(super) fn time_kernel<T>(&mut self, kernel: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let result = kernel();
        self.kernel_time += begin.elapsed();
        result
    }
}

/// What a request's samples need of the engine during one step.
pub(super) struct Surroundings<'a> {
    pub(super) tokenizer: &'a Tokenizer,
    /// When the step's tokens were there.
    pub(super) now: Instant,
    pub(super) metrics: &'a Metrics,
    pub(super) scratch: &'a mut Scratch,
    /// Where events go.
    pub(super) out: &'a mut Outbox,
}

/// What became of a sample's draw.
pub(super) enum Taken {
    /// The sample goes on with this token.
    Token(TokenId),
    /// The sample has ended.
    Last,
    /// The logits are not finite; nothing was delivered.
    NotANumber,
}

pub(super) struct Flight {
    pub(super) id: RequestId,
    user_data: u64,
    /// One for each candidate.
    streams: Vec<Stream>,
    /// Samples that have not ended.
    open: usize,
    /// Samples to deliver.
    n: usize,
    /// Events of each candidate, where the best of more than `n` are delivered.
    held: Option<Vec<Vec<Event>>>,
    /// Whether the caller wants the output's log-probabilities.
    logprobs: bool,
    prompt: Prompt,
    pub(super) submitted: Instant,
    pub(super) deadline: Option<Instant>,
    started: Option<Instant>,
    cached: usize,
    provenance: Provenance,
}

/// What is delivered of a prompt.
struct Prompt {
    /// Its length.
    len: usize,
    /// Its tokens, if they are delivered.
    tokens: Vec<TokenId>,
    decoder: Decoder,
    /// Tokens delivered so far.
    delivered: usize,
    /// How many of the most likely tokens go with each, if they are scored.
    top: Option<usize>,
}

impl Flight {
    /// A request whose samples may have `most` tokens each. Its prompt stays the caller's.
    pub(super) fn new(
        id: RequestId,
        request: &mut Request,
        most: usize,
        at: Instant,
        provenance: Provenance,
    ) -> Result<Flight> {
        let candidates = request.candidates();
        let logprobs = request.sampling.logprobs.is_some();
        if candidates > request.n {
            // They decide who is best.
            request.sampling.logprobs.get_or_insert(0);
        }
        let shown = request.echo || request.prompt_logprobs.is_some();
        let mut streams = memory::list("samples", candidates as usize)?;
        for sample in 0..candidates {
            streams.push(Stream::new(request, sample, most)?);
        }
        let mut held = None;
        if candidates > request.n {
            let mut lists = memory::list("samples", candidates as usize)?;
            for _ in 0..candidates {
                lists.push(memory::list("events of a sample", most + 1)?);
            }
            held = Some(lists);
        }
        Ok(Flight {
            id,
            user_data: request.user_data,
            streams,
            open: candidates as usize,
            n: request.n as usize,
            held,
            logprobs,
            prompt: Prompt {
                len: request.prompt.len(),
                tokens: memory::copy("prompt", if shown { &request.prompt } else { &[] })?,
                decoder: Decoder::default(),
                delivered: 0,
                top: request.prompt_logprobs.map(|n| n as usize),
            },
            submitted: at,
            deadline: request.deadline.and_then(|d| at.checked_add(d)),
            started: None,
            cached: 0,
            provenance: Provenance { seed: (request.sampling.seed, 0), ..provenance },
        })
    }

    /// Whether the request only scores its prompt.
    pub(super) fn scores_only(&self) -> bool {
        self.streams[0].most == 0
    }

    /// Samples that are generated.
    pub(super) fn candidates(&self) -> usize {
        self.streams.len()
    }

    /// Whether sample 0 has a token.
    pub(super) fn has_begun(&self) -> bool {
        self.streams[0].generated > 0
    }

    /// Whether a sample has not ended.
    pub(super) fn is_open(&self) -> bool {
        self.open > 0
    }

    /// Whether sample `sample` has ended.
    pub(super) fn has_ended(&self, sample: usize) -> bool {
        self.streams[sample].ended
    }

    /// Events that it may deliver at once.
    pub(super) fn backlog(&self) -> usize {
        let held = self.held.iter().flatten().map(Vec::len).sum::<usize>();
        self.prompt.tokens.len() - self.prompt.delivered + held + self.streams.len()
    }

    /// Gives up what is held but for the ends.
    pub(super) fn forget_held(&mut self) {
        self.held.iter_mut().flatten().for_each(|events| events.retain(|event| event.finish.is_some()));
    }

    /// Notes that the first step computes something of it.
    pub(super) fn start(&mut self, now: Instant, cached: usize, metrics: &Metrics) {
        metrics.queue_time.record(now.saturating_duration_since(self.submitted));
        metrics.prompt_tokens.add(self.prompt.len as u64);
        self.started = Some(now);
        self.cached = cached;
    }

    /// Asks for what the request wants of `row`, which is row `index` of the logits: the score of a token of its prompt, or the
    /// next token of `sample`; after the prompt, that of every sample.
    ///
    /// Errors: no memory to ask with.
    pub(super) fn ask(
        &self,
        sample: usize,
        row: Row,
        index: usize,
        tokenizer: &Tokenizer,
        scratch: &mut Scratch,
        draws: &mut Draws,
    ) -> std::result::Result<(), TryReserveError> {
        if !row.sample {
            let wanted = self.to_score(row.position as usize);
            return wanted.map_or(Ok(()), |(token, top)| ask_score(index, token, top, draws));
        }
        let samples = match sample {
            _ if self.scores_only() => 0..0,
            0 if !self.has_begun() => 0..self.candidates(),
            sample => sample..sample + 1,
        };
        for stream in &self.streams[samples] {
            scratch.banned.clear();
            if !stream.may_stop() {
                scratch.banned.extend(stream.stop_tokens(tokenizer).map(|token| token.0));
            }
            stream.sampler.ask(index, &scratch.banned, draws)?;
        }
        Ok(())
    }

    /// The token of the prompt that follows `position`, and how many of the best to report with it, if it is to be scored.
    fn to_score(&self, position: usize) -> Option<(TokenId, usize)> {
        let next = position + 1;
        // Rows come again after a preemption.
        let token = self.prompt.tokens.get(next).filter(|_| next >= self.prompt.delivered)?;
        Some((*token, self.prompt.top?))
    }

    /// Takes in what was drawn for `sample`, and delivers it.
    pub(super) fn take(&mut self, sample: usize, drawn: &Drawn, around: &mut Surroundings) -> Taken {
        if !drawn.logit.is_finite() {
            return Taken::NotANumber;
        }
        let Surroundings { tokenizer, now, metrics, ref mut scratch, .. } = *around;
        let Scratch { piece, text, .. } = &mut **scratch;
        let stream = &mut self.streams[sample];
        let (token, logprobs) = stream.sampler.take(drawn);
        stream.logprob += logprobs.as_ref().map_or(0.0, |l| f64::from(l.chosen.logprob));
        text.clear();
        metrics.generation_tokens.add(1);
        match stream.times {
            None => metrics.time_to_first_token.record(now.saturating_duration_since(self.submitted)),
            Some((_, last)) => metrics.inter_token_latency.record(now.saturating_duration_since(last)),
        }
        let end = stream.push(token, now, tokenizer, piece, text);
        let mut event = self.event(sample, Origin::Output, Some(token), logprobs.filter(|_| self.logprobs), text);
        event.finish = end.map(|end| self.finish(sample, end, None, metrics));
        self.emit(sample, event, around.out);
        if end.is_none() { Taken::Token(token) } else { Taken::Last }
    }

    /// Ends all samples that have not ended.
    pub(super) fn end(&mut self, reason: FinishReason, message: Option<&str>, metrics: &Metrics, out: &mut Outbox) {
        for sample in 0..self.streams.len() {
            if !self.streams[sample].ended {
                let mut text = String::new();
                self.streams[sample].end(&mut text);
                let mut event = self.event(sample, Origin::Output, None, None, &text);
                event.finish = Some(self.finish(sample, (reason, None), message, metrics));
                self.emit(sample, event, out);
            }
        }
    }

    /// Delivers the prompt's tokens, if they are wanted without log-probabilities and were not delivered yet.
    pub(super) fn echo(&mut self, around: &mut Surroundings) {
        while self.prompt.delivered < self.prompt.tokens.len() {
            self.show_prompt_token(None, around);
        }
    }

    /// Delivers the prompt's next token, and before the second the first, which follows nothing. Returns false if its score is
    /// not finite.
    pub(super) fn score(&mut self, scored: &Drawn, around: &mut Surroundings) -> bool {
        if self.prompt.delivered == 0 {
            self.show_prompt_token(None, around);
        }
        debug_assert_eq!(self.prompt.tokens[self.prompt.delivered].0, scored.token);
        if scored.logprob.is_finite() {
            self.show_prompt_token(Some(logprobs(scored)), around);
        }
        scored.logprob.is_finite()
    }

    fn show_prompt_token(&mut self, logprobs: Option<Logprobs>, around: &mut Surroundings) {
        let token = self.prompt.tokens[self.prompt.delivered];
        self.prompt.delivered += 1;
        let text = &mut around.scratch.text;
        text.clear();
        self.prompt.decoder.push(around.tokenizer, token, false, text);
        if self.prompt.delivered == self.prompt.tokens.len() {
            self.prompt.decoder.finish(text);
        }
        let event = self.event(0, Origin::Prompt, Some(token), logprobs, &around.scratch.text);
        around.out.push(event);
    }

    #[inline]
    fn event(
        &self,
        sample: usize,
        origin: Origin,
        token: Option<TokenId>,
        logprobs: Option<Logprobs>,
        text: &str,
    ) -> Event {
        let text = CompactString::new(text);
        let (request, user_data) = (self.id, self.user_data);
        Event { request, user_data, sample: sample as u32, origin, token, logprobs, text, finish: None }
    }

    fn finish(&mut self, sample: usize, (reason, stop): End, message: Option<&str>, metrics: &Metrics) -> Box<Finish> {
        metrics.finish(reason);
        metrics.e2e_latency.record(self.submitted.elapsed());
        self.open -= 1;
        let stream = &self.streams[sample];
        let first = stream.times.map(|(first, _)| first);
        let decode = stream.times.map(|(first, last)| last - first);
        let later = stream.generated.saturating_sub(1) as u32;
        Box::new(Finish {
            reason,
            stop,
            message: message.map(str::to_owned),
            last: self.open == 0 && self.held.is_none(),
            prompt_tokens: self.prompt.len,
            cached_tokens: self.cached,
            completion_tokens: stream.generated,
            timings: Timings {
                queue: self.started.map(|started| started.saturating_duration_since(self.submitted)),
                prefill: self.started.zip(first).map(|(started, first)| first.saturating_duration_since(started)),
                decode,
                ttft: first.map(|first| first.saturating_duration_since(self.submitted)),
                tpot: decode.filter(|_| later > 0).map(|time: Duration| time / later),
            },
            provenance: Provenance { seed: (self.provenance.seed.0, sample as u32), ..self.provenance },
        })
    }

    /// Delivers an event, or holds it until the best samples are known.
    #[inline]
    fn emit(&mut self, sample: usize, event: Event, out: &mut Outbox) {
        let Some(held) = &mut self.held else { return out.push(event) };
        held[sample].push(event);
        if self.open > 0 {
            return;
        }
        let mut order: Vec<usize> = (0..self.streams.len()).collect();
        // Stable: of equals the lower number first.
        order.sort_by(|a, b| self.streams[*b].mean_logprob().total_cmp(&self.streams[*a].mean_logprob()));
        for (place, sample) in order.into_iter().take(self.n).enumerate() {
            for mut event in std::mem::take(&mut held[sample]) {
                event.sample = place as u32;
                if let Some(finish) = &mut event.finish {
                    finish.last = place + 1 == self.n;
                }
                out.push(event);
            }
        }
    }
}
