//! The step loop: the one thread that owns the model and all scheduling state.
//!
//! A turn takes in commands, lets the scheduler choose a batch, executes it, samples, and queues events. Invariants:
//! each accepted request gets exactly one last event; when events find no room the loop waits, and nothing is dropped;
//! a panic ends every request with an error and closes the engine, and never reaches the host. A step in which requests
//! only decode allocates nothing and takes no lock.

use super::flight::{Flight, Scratch, Surroundings, Taken};
use super::outbox::Outbox;
use super::trace;
use super::{Command, EngineConfig, Executor, FinishReason, MAX_SAMPLES, RequestId, Shared, Sizes, Submission};
use crate::log::Level;
use crate::scheduler::{Arrival, Config, Ready, Row, Scheduler, SeqId};
use crate::tokenizer::Tokenizer;
use crate::{Result, memory};
use aieng_kernels::sample::{Drawn, Draws};
use hashbrown::DefaultHashBuilder;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Why requests fail.
const NOT_FINITE: &str = "the model's logits are not finite numbers";
const NO_MEMORY: &str = "no memory to go on with it";

/// Most tokens, prompt and output together, of a request.
pub(super) fn longest(prompt: usize, max_tokens: u32, context: usize) -> usize {
    context.min(prompt.saturating_add(max_tokens as usize))
}

/// The sequence of a request's sample.
pub(super) fn sequence(id: RequestId, sample: usize) -> SeqId {
    SeqId(id.0 * u64::from(MAX_SAMPLES) + sample as u64)
}

/// Whose sequence it is.
fn request(seq: SeqId) -> (RequestId, usize) {
    let samples = u64::from(MAX_SAMPLES);
    (RequestId(seq.0 / samples), (seq.0 % samples) as usize)
}

/// A row of logits, and which draws from it were asked for.
struct Asked {
    row: Row,
    draws: Range<usize>,
}

pub(super) struct StepLoop<E> {
    executor: E,
    scheduler: Scheduler,
    tokenizer: Arc<Tokenizer>,
    shared: Arc<Shared>,
    /// What the scheduler's times are counted from.
    beginning: Instant,
    /// Looked up twice for each token. Callers do not choose ids, so the hash need not resist them.
    flights: HashMap<RequestId, Box<Flight>, DefaultHashBuilder>,
    deadlines: BTreeSet<(Instant, RequestId)>,
    /// Where events go. It holds at most one step's, and those of requests that ended since.
    out: Outbox,
    /// Rows of this step's logits.
    rows: Vec<Row>,
    /// What is wanted of the rows that were computed last: all draws, for whom they are, and their answers.
    draws: Draws,
    asked: Vec<Asked>,
    drawn: Vec<Drawn>,
    /// Requests that this step cannot go on with, and why.
    failed: Vec<(RequestId, &'static str)>,
    scratch: Scratch,
}

impl<E: Executor> StepLoop<E> {
    pub(super) fn new(
        executor: E,
        sizes: Sizes,
        config: &EngineConfig,
        tokenizer: Arc<Tokenizer>,
        shared: Arc<Shared>,
    ) -> Result<StepLoop<E>> {
        let scheduler = Scheduler::new(Config {
            sequences: config.max_sequences,
            batch_tokens: config.max_batch_tokens,
            context: sizes.context,
            blocks: sizes.blocks,
            policy: config.policy,
            ageing: config.ageing,
            weights: config.tenant_weights.clone(),
        })?;
        shared.metrics.kv_blocks.set(sizes.blocks as u64);
        let out = Outbox::new(Arc::clone(&shared), 2 * config.max_sequences)?;
        Ok(StepLoop {
            executor,
            scheduler,
            tokenizer,
            shared,
            beginning: Instant::now(),
            flights: memory::map("requests", config.max_requests)?,
            deadlines: BTreeSet::new(),
            out,
            rows: memory::list("rows of logits", config.max_batch_tokens)?,
            draws: Draws::default(),
            asked: memory::list("rows of logits", config.max_batch_tokens)?,
            drawn: memory::list("drawn tokens", config.max_sequences)?,
            failed: Vec::new(),
            scratch: Scratch::default(),
        })
    }

    /// Steps until shutdown.
    pub(super) fn run(mut self) {
        self.executor.device().pin_caller();
        let turns = catch_unwind(AssertUnwindSafe(|| -> Result<()> {
            while self.turn()? {}
            Ok(())
        }));
        let failure = match turns {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(panic) => Some(panic_message(&*panic)),
        };
        if let Some(what) = &failure {
            let _ = self.shared.panic.set(what.clone());
            self.shared.log.say(Level::Error, "engine", || format!("stopped by an internal error: {what}"));
        }
        let reason = if failure.is_some() { FinishReason::Error } else { FinishReason::Cancelled };
        // From here on submit fails; what slipped in before is ended with the rest.
        self.shared.shutdown.store(true, Ordering::SeqCst);
        // Ending requests runs the same code that may have panicked, so it is guarded too.
        let _ = catch_unwind(AssertUnwindSafe(|| self.end_all(reason, failure.as_deref())));
        self.shared.log.say(Level::Info, "engine", || "ended".into());
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.events.wake();
    }

    /// Takes in commands and makes a step; sleeps while there is nothing to do. Returns whether to go on.
    ///
    /// Errors: the executor's.
    pub(super) fn turn(&mut self) -> Result<bool> {
        let go_on = self.take_commands();
        if go_on && self.out.is_empty() {
            self.step()?;
        }
        Ok(go_on)
    }

    /// Takes in what callers want; sleeps while there is nothing to do. Returns whether to go on.
    fn take_commands(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let stopped = || shared.shutdown.load(Ordering::SeqCst);
        self.out.flush();
        while let Some(command) = shared.commands.pop() {
            self.obey(command);
        }
        self.end_overdue();
        let waiting_for_room = !self.out.is_empty();
        let ready = self.scheduler.ready(self.beginning.elapsed());
        if (ready != Ready::Now || waiting_for_room) && !stopped() {
            self.publish_state();
            let wake = || stopped() || (waiting_for_room && shared.events.room() > 0);
            if let Some(command) = shared.commands.pop_wait(self.patience(ready), wake) {
                self.obey(command);
            }
            // The wait may have been for a deadline, and what came may be late.
            self.end_overdue();
        }
        !stopped()
    }

    /// How long the loop may sleep: until a deadline, or until the scheduler's policy has waited enough.
    fn patience(&self, ready: Ready) -> Option<Duration> {
        let policy = if let Ready::At(time) = ready { Some(self.beginning + time) } else { None };
        let deadline = self.deadlines.first().map(|(deadline, _)| *deadline);
        let until = policy.into_iter().chain(deadline).min()?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Submit(submission) => self.accept(*submission),
            Command::Cancel(id) => self.end(id, FinishReason::Cancelled, None),
        }
    }

    fn accept(&mut self, Submission { arrival, flight }: Submission) {
        let id = flight.id;
        self.shared.log.say(Level::Debug, "request", || {
            let (tokens, most, tenant) = (arrival.tokens.len(), arrival.most, arrival.tenant);
            format!("{}: accepted: a prompt of {tokens} tokens, {most} with the output, tenant {tenant}", id.0)
        });
        self.scheduler.add(Arrival { at: flight.submitted.saturating_duration_since(self.beginning), ..arrival });
        self.deadlines.extend(flight.deadline.map(|deadline| (deadline, id)));
        self.flights.insert(id, flight);
    }

    /// Ends requests whose deadline has passed.
    fn end_overdue(&mut self) {
        while let Some((deadline, id)) = self.deadlines.first().copied()
            && deadline <= Instant::now()
        {
            self.deadlines.pop_first();
            self.end(id, FinishReason::Deadline, None);
        }
    }

    /// One step: schedule, execute, sample, deliver.
    fn step(&mut self) -> Result<()> {
        let now = Instant::now();
        let step = self.scheduler.schedule(now - self.beginning);
        if step.batch.is_empty() {
            return Ok(());
        }
        for started in step.started {
            let (id, _) = request(started.seq);
            if let Some(flight) = self.flights.get_mut(&id) {
                flight.start(now, started.cached, &self.shared.metrics);
            }
        }
        self.rows.clear();
        self.rows.extend_from_slice(step.rows);
        self.scratch.kernel_time = Duration::ZERO;
        let _span = trace::step(step.batch.len(), step.batch.context_lens.len());
        self.scratch.time_kernel(|| {
            let _span = trace::execute();
            self.executor.execute(step.batch)
        })?;
        let window = self.executor.logits_rows();
        for first in (0..self.rows.len()).step_by(window) {
            let last = self.rows.len().min(first + window);
            self.scratch.time_kernel(|| self.executor.compute_logits(first..last))?;
            self.ask(first..last);
            self.scratch.time_kernel(|| self.executor.draw(&self.draws, &mut self.drawn))?;
            let now = Instant::now();
            for i in 0..self.asked.len() {
                self.deliver(i, now);
            }
        }
        while let Some((id, why)) = self.failed.pop() {
            self.end(id, FinishReason::Error, Some(why));
        }
        self.out.flush();
        self.record(now);
        Ok(())
    }

    /// Counts a step that began at `begin`.
    fn record(&self, begin: Instant) {
        let metrics = &self.shared.metrics;
        metrics.steps.add(1);
        metrics.kernel_nanoseconds.add(self.scratch.kernel_time.as_nanos() as u64);
        metrics.step_nanoseconds.add(begin.elapsed().as_nanos() as u64);
        self.publish_state();
    }

    /// Shows the scheduler's state.
    fn publish_state(&self) {
        let (metrics, stats) = (&self.shared.metrics, self.scheduler.stats());
        metrics.running.set(stats.running as u64);
        metrics.waiting.set(stats.waiting as u64);
        metrics.kv_blocks_used.set(stats.used_blocks as u64);
        metrics.prefix_queries.set(stats.prefix_queries);
        metrics.prefix_hits.set(stats.prefix_hits);
        metrics.evictions.set(stats.evictions);
        if metrics.preemptions.get() == 0 && stats.preemptions > 0 {
            let what =
                "the KV cache is too small for its load: the first sequence had to start anew (metrics count them)";
            self.shared.log.say(Level::Warn, "engine", || what.into());
        }
        metrics.preemptions.set(stats.preemptions);
    }

    /// Asks for what is wanted of these rows, whose logits are being computed.
    fn ask(&mut self, rows: Range<usize>) {
        let StepLoop { tokenizer, flights, failed, scratch, draws, asked, drawn, .. } = self;
        draws.truncate(0);
        asked.clear();
        drawn.clear();
        for (index, row) in self.rows[rows].iter().enumerate() {
            let (id, sample) = request(row.seq);
            let Some(flight) = flights.get(&id) else { continue };
            let first = draws.len();
            let asking = flight.ask(sample, *row, index, tokenizer, scratch, draws);
            if asking.and_then(|()| drawn.try_reserve(draws.len())).is_err() {
                draws.truncate(first);
                failed.push((id, NO_MEMORY));
            }
            asked.push(Asked { row: *row, draws: first..draws.len() });
        }
    }

    /// Takes in the answers for row number `index` of those that were asked about.
    fn deliver(&mut self, index: usize, now: Instant) {
        let StepLoop { scheduler, tokenizer, shared, flights, out, failed, scratch, asked, drawn, .. } = self;
        let Asked { row, ref draws } = asked[index];
        let (id, sample) = request(row.seq);
        let has_failed = failed.iter().any(|(failed, _)| *failed == id);
        let Some(flight) = flights.get_mut(&id).filter(|_| !has_failed) else { return };
        if out.reserve(flight.backlog()).is_err() {
            return failed.push((id, NO_MEMORY));
        }
        let drawn = &drawn[draws.clone()];
        let mut around = Surroundings { tokenizer, now, metrics: &shared.metrics, scratch, out };
        if !row.sample {
            if !drawn.iter().all(|scored| flight.score(scored, &mut around)) {
                failed.push((id, NOT_FINITE));
            }
            return;
        }
        if sample == 0 && !flight.has_begun() {
            flight.echo(&mut around);
            if flight.scores_only() {
                scheduler.finish(row);
                return self.end(id, FinishReason::Length, None);
            }
            // The other samples go on from here, each with a token of its own.
            for (other, drawn) in drawn.iter().enumerate().skip(1) {
                if let Taken::Token(token) = flight.take(other, drawn, &mut around)
                    && scheduler.fork(row, sequence(id, other), token.0).is_err()
                {
                    return failed.push((id, NO_MEMORY));
                }
            }
        }
        match flight.take(sample, &drawn[0], &mut around) {
            Taken::Token(token) => scheduler.advance(row, token.0),
            Taken::Last => scheduler.finish(row),
            Taken::NotANumber => return failed.push((id, NOT_FINITE)),
        }
        if !flight.is_open() {
            self.forget(id);
        }
    }

    /// Ends a request between two steps, if it has not ended.
    fn end(&mut self, id: RequestId, reason: FinishReason, message: Option<&str>) {
        let Some(mut flight) = self.forget(id) else { return };
        for sample in (0..flight.candidates()).filter(|sample| !flight.has_ended(*sample)) {
            self.scheduler.remove(sequence(id, sample));
        }
        if self.out.reserve(flight.backlog()).is_err() {
            flight.forget_held();
        }
        flight.end(reason, message, &self.shared.metrics, &mut self.out);
        self.out.flush();
    }

    fn forget(&mut self, id: RequestId) -> Option<Box<Flight>> {
        let flight = self.flights.remove(&id)?;
        if let Some(deadline) = flight.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        Some(flight)
    }

    /// Ends every request, also those that wait in the queue of commands, and delivers or gives up all events.
    fn end_all(&mut self, reason: FinishReason, message: Option<&str>) {
        // A submit that saw no shutdown has counted itself in flight, and its command comes; unless a panic lost it.
        let patience = Instant::now() + Duration::from_secs(1);
        while self.shared.in_flight.load(Ordering::SeqCst) > self.flights.len() + self.out.requests() {
            match self.shared.commands.pop() {
                Some(Command::Submit(s)) => {
                    self.flights.insert(s.flight.id, s.flight);
                }
                Some(Command::Cancel(_)) => {}
                None if Instant::now() > patience => break,
                None => std::thread::yield_now(),
            }
        }
        let mut ids: Vec<RequestId> = self.flights.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            if let Some(mut flight) = self.flights.remove(&id) {
                flight.end(reason, message, &self.shared.metrics, &mut self.out);
                self.out.flush();
            }
        }
        while !self.out.is_empty() && !self.shared.abandoned.load(Ordering::SeqCst) {
            let shared = Arc::clone(&self.shared);
            let wake = || shared.abandoned.load(Ordering::SeqCst) || shared.events.room() > 0;
            drop(shared.commands.pop_wait(None, wake));
            self.out.flush();
        }
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| s.to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a message".into())
}
