//! The step thread's way out: events go into the queue while it has room, and wait here while it has none.
//!
//! Invariants: events leave in the order in which they came; none is dropped; who waits for events is woken once for all
//! that were queued between two flushes, for each wake would find one and sleep again.

use super::{Event, Finish, Shared, trace};
use crate::log::Level;
use crate::{Result, memory};
use std::collections::{TryReserveError, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub(super) struct Outbox {
    shared: Arc<Shared>,
    /// Events that found no room.
    waiting: VecDeque<Event>,
    /// Whether events were queued that nobody was woken for.
    unannounced: bool,
}

impl Outbox {
    /// With room for `events` that find none in the queue.
    ///
    /// Errors: [`Error::OutOfMemory`](crate::Error).
    pub(super) fn new(shared: Arc<Shared>, events: usize) -> Result<Outbox> {
        Ok(Outbox { shared, waiting: memory::list("events", events)?.into(), unannounced: false })
    }

    /// Whether all events are in the queue.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Makes room for `events` more: then [`Outbox::push`] allocates nothing for them.
    pub(super) fn reserve(&mut self, events: usize) -> std::result::Result<(), TryReserveError> {
        self.waiting.try_reserve(events)
    }

    /// Requests whose last event still waits.
    pub(super) fn requests(&self) -> usize {
        self.waiting.iter().filter(|event| is_last(event)).count()
    }

    /// Queues an event, behind those that wait.
    #[inline]
    pub(super) fn push(&mut self, event: Event) {
        trace::deliver(&event);
        if let Some(finish) = &event.finish {
            self.shared.log.say(Level::Debug, "request", || ended(&event, finish));
        }
        let refused = if self.waiting.is_empty() { self.queue(event) } else { Err(event) };
        if let Err(event) = refused {
            self.waiting.push_back(event);
        }
    }

    /// Queues what waits, as far as there is room, and wakes who waits for events if any were queued.
    pub(super) fn flush(&mut self) {
        while let Some(event) = self.waiting.pop_front() {
            if let Err(event) = self.queue(event) {
                self.waiting.push_front(event);
                break;
            }
        }
        if std::mem::take(&mut self.unannounced) {
            self.shared.events.wake();
        }
    }

    #[inline]
    fn queue(&mut self, event: Event) -> std::result::Result<(), Event> {
        let last = is_last(&event);
        if last {
            // Before the event is there: who sees a request's end may submit the next one.
            self.shared.in_flight.fetch_sub(1, Ordering::SeqCst);
        }
        let queued = self.shared.events.push_quietly(event);
        if last && queued.is_err() {
            self.shared.in_flight.fetch_add(1, Ordering::SeqCst);
        }
        self.unannounced |= queued.is_ok();
        queued
    }
}

fn is_last(event: &Event) -> bool {
    event.finish.as_ref().is_some_and(|finish| finish.last)
}

/// What the log says of a sample's end.
fn ended(event: &Event, finish: &Finish) -> String {
    let Finish { reason, prompt_tokens, cached_tokens, completion_tokens, timings, .. } = finish;
    let ttft = timings.ttft.unwrap_or_default();
    let (request, sample) = (event.request.0, event.sample);
    format!(
        "{request}: sample {sample} ended ({reason:?}): {prompt_tokens} tokens of prompt, {cached_tokens} of them cached, \
         {completion_tokens} generated, the first after {ttft:.1?}"
    )
}
