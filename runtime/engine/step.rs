//! The step loop: the one thread that owns the model and all scheduling state.
//!
//! A turn takes in commands, lets the scheduler choose a batch, executes it, samples, and queues events. Invariants:
//! each accepted request gets exactly one last event; when events find no room the loop waits, and nothing is dropped;
//! a panic ends every request with an error and closes the engine, and never reaches the host.

use super::stream::Stream;
use super::{Command, Event, Executor, FinishReason, RequestId, Shared, Submission};
use crate::sampling::SamplerScratch;
use crate::scheduler::{Limits, Scheduler, SeqId};
use crate::tokenizer::Tokenizer;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Most tokens, prompt and output together, of a request.
pub(super) fn longest(prompt: usize, max_tokens: u32, context: usize) -> usize {
    context.min(prompt.saturating_add(max_tokens as usize))
}

pub(super) struct StepLoop<E> {
    executor: E,
    scheduler: Scheduler,
    context: usize,
    tokenizer: Arc<Tokenizer>,
    shared: Arc<Shared>,
    streams: HashMap<RequestId, Stream>,
    /// Events that found no room: at most one step's, and one for each request that was cancelled since.
    pending: VecDeque<Event>,
    /// Requests sampled in this step, in the order of the logits.
    sampled: Vec<SeqId>,
    scratch: SamplerScratch,
}

impl<E: Executor> StepLoop<E> {
    pub(super) fn new(
        executor: E,
        limits: Limits,
        context: usize,
        tokenizer: Arc<Tokenizer>,
        shared: Arc<Shared>,
    ) -> StepLoop<E> {
        StepLoop {
            executor,
            scheduler: Scheduler::new(limits),
            context,
            tokenizer,
            shared,
            streams: HashMap::new(),
            pending: VecDeque::new(),
            sampled: Vec::with_capacity(limits.sequences),
            scratch: SamplerScratch::default(),
        }
    }

    /// Steps until shutdown.
    pub(super) fn run(mut self) {
        self.executor.device().pin_caller();
        let (reason, message) = match catch_unwind(AssertUnwindSafe(|| self.turns())) {
            Ok(()) => (FinishReason::Cancelled, None),
            Err(panic) => {
                let what = panic_message(&*panic);
                let _ = self.shared.panic.set(what.clone());
                (FinishReason::Error, Some(what))
            }
        };
        // From here on submit fails; what slipped in before is ended with the rest.
        self.shared.shutdown.store(true, Ordering::SeqCst);
        // Ending requests runs the same code that may have panicked, so it is guarded too.
        let _ = catch_unwind(AssertUnwindSafe(|| self.end_all(reason, message)));
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.events.wake();
    }

    fn turns(&mut self) {
        while self.take_commands() {
            if self.pending.is_empty() && !self.scheduler.is_idle() {
                self.step();
            }
        }
    }

    /// Takes in what callers want; sleeps while there is nothing to do. Returns whether to go on.
    fn take_commands(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let stopped = || shared.shutdown.load(Ordering::SeqCst);
        self.flush();
        while let Some(command) = shared.commands.pop() {
            self.obey(command);
        }
        let has_work = !self.scheduler.is_idle() && self.pending.is_empty();
        if !has_work && !stopped() {
            let waiting_for_room = !self.pending.is_empty();
            let wake = || stopped() || (waiting_for_room && shared.events.room() > 0);
            if let Some(command) = shared.commands.pop_wait(None, wake) {
                self.obey(command);
            }
        }
        !stopped()
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Submit(submission) => self.accept(*submission),
            Command::Cancel(id) => {
                if self.scheduler.remove(SeqId(id.0)) {
                    self.end(id, FinishReason::Cancelled, None);
                }
            }
        }
    }

    fn accept(&mut self, Submission { id, request, at }: Submission) {
        let most = longest(request.prompt.len(), request.sampling.max_tokens, self.context);
        let stream = Stream::new(id, &request, most - request.prompt.len(), at, &self.tokenizer);
        self.streams.insert(id, stream);
        self.scheduler.add(SeqId(id.0), request.prompt.iter().map(|t| t.0).collect(), most);
    }

    /// One step: schedule, execute, sample, deliver.
    fn step(&mut self) {
        let step = self.scheduler.schedule();
        self.executor.execute(step.batch);
        self.sampled.clear();
        self.sampled.extend_from_slice(step.sampled);
        for row in 0..self.sampled.len() {
            self.deliver(self.sampled[row], row);
        }
    }

    /// Samples a sequence's next token from row `row` of the logits and tells the world.
    fn deliver(&mut self, seq: SeqId, row: usize) {
        let id = RequestId(seq.0);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let logits = self.executor.logits(row);
        let (token, logprobs) = stream.sampler.draw(self.executor.device(), logits, &mut self.scratch);
        if !logits[token.0 as usize].is_finite() {
            self.scheduler.remove(seq);
            return self.end(id, FinishReason::Error, Some("the model's logits are not finite numbers".into()));
        }
        let event = stream.push(token, logprobs, &self.tokenizer);
        if event.finish.is_some() {
            self.scheduler.remove(seq);
            self.streams.remove(&id);
        } else {
            self.scheduler.append(seq, token.0);
        }
        self.emit(event);
    }

    /// Queues the last event of a request that the scheduler has forgotten.
    fn end(&mut self, id: RequestId, reason: FinishReason, message: Option<String>) {
        if let Some(mut stream) = self.streams.remove(&id) {
            let event = stream.end(reason, message);
            self.emit(event);
        }
    }

    /// Ends every request, also those that wait in the queue of commands, and delivers or gives up all events.
    fn end_all(&mut self, reason: FinishReason, message: Option<String>) {
        // A submit that saw no shutdown has counted itself in flight, and its command comes; unless a panic lost it.
        let patience = Instant::now() + Duration::from_secs(1);
        while self.shared.in_flight.load(Ordering::SeqCst) > self.streams.len() + self.finished_but_pending() {
            match self.shared.commands.pop() {
                Some(Command::Submit(s)) => {
                    let stream = Stream::new(s.id, &s.request, 1, s.at, &self.tokenizer);
                    self.streams.insert(s.id, stream);
                }
                Some(Command::Cancel(_)) => {}
                None if Instant::now() > patience => break,
                None => std::thread::yield_now(),
            }
        }
        let mut ids: Vec<RequestId> = self.streams.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.end(id, reason, message.clone());
        }
        while !self.pending.is_empty() && !self.shared.abandoned.load(Ordering::SeqCst) {
            let shared = Arc::clone(&self.shared);
            let wake = || shared.abandoned.load(Ordering::SeqCst) || shared.events.room() > 0;
            drop(shared.commands.pop_wait(None, wake));
            self.flush();
        }
    }

    fn finished_but_pending(&self) -> usize {
        self.pending.iter().filter(|e| e.finish.is_some()).count()
    }

    fn emit(&mut self, event: Event) {
        self.pending.push_back(event);
        self.flush();
    }

    /// Moves pending events into the queue while there is room.
    fn flush(&mut self) {
        while let Some(event) = self.pending.pop_front() {
            let last = event.finish.is_some();
            match self.shared.events.push(event) {
                Ok(()) if last => drop(self.shared.in_flight.fetch_sub(1, Ordering::SeqCst)),
                Ok(()) => {}
                Err(event) => return self.pending.push_front(event),
            }
        }
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| s.to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a message".into())
}
