//! Section "Events": what the engine reports, in memory that the caller gives back.
//!
//! What the events of one call point to lives in a table, under a number that the first of them carries: it is the runtime's
//! own events, uncopied. A duplicate of a cleared array is therefore refused, where a pointer in its place would be freed
//! twice. No event is lost: all memory is there before one is taken out of the engine's queue.

use crate::abi::*;
use crate::engine::{Entry, Names, halves};
use crate::guard;
use crate::handle::Table;
use crate::input::{invalid, read, reserve, write, zero};
use aieng_runtime::engine::{Engine, Event, Finish, FinishReason, Origin, StopCause, TokenLogprob};
use aieng_runtime::{Error, Result};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

/// Most events of one call.
const MOST: usize = 4096;

/// Memory of the events of one call, which does not move when this does.
#[derive(Default)]
pub(crate) struct Batch {
    events: Vec<Event>,
    /// Of those that finish a sample, in order.
    finishes: Vec<aieng_finish>,
    /// What strings of `finishes` belong to.
    names: Option<Arc<Names>>,
}

// SAFETY: the pointers in `finishes` lead to memory of the same batch, which is read only.
unsafe impl Send for Batch {}
// SAFETY: as above.
unsafe impl Sync for Batch {}

/// Batches that callers have.
pub(crate) static STORAGE: Table<Batch> = Table::new(0xE7);

impl Batch {
    /// Takes up to `most` events, in place of those before; returns how many, 0 after the timeout.
    pub(crate) fn take(
        &mut self,
        engine: &Engine,
        names: &Arc<Names>,
        most: usize,
        timeout: Option<Duration>,
    ) -> Result<usize> {
        self.finishes.clear();
        self.events.clear();
        self.names = Some(Arc::clone(names));
        reserve("events", &mut self.events, most)?;
        reserve("events", &mut self.finishes, most)?;
        engine.next_many(&mut self.events, most, timeout)?;
        for event in &mut self.events {
            // In the room that short texts have; longer ones are few.
            event.text.push('\0');
            if let Some(finish) = &mut event.finish {
                self.finishes.push(finished(finish, names));
            }
        }
        Ok(self.events.len())
    }

    /// Them as C sees them.
    pub(crate) fn events(&self) -> impl Iterator<Item = aieng_event> + '_ {
        let mut finishes = self.finishes.iter();
        self.events.iter().map(move |event| seen(event, event.finish.as_ref().and_then(|_| finishes.next())))
    }
}

/// An event as C sees it, with its sample's end if it has one.
fn seen(event: &Event, finish: Option<&aieng_finish>) -> aieng_event {
    let logprobs = event.logprobs.as_ref();
    let top: &[TokenLogprob] = logprobs.map_or(&[], |logprobs| &logprobs.top);
    let mut flags = 0;
    let mut set = |condition: bool, flag: u32| flags |= if condition { flag } else { 0 };
    set(event.token.is_some(), AIENG_EVENT_TOKEN);
    set(logprobs.is_some(), AIENG_EVENT_LOGPROBS);
    set(event.origin == Origin::Prompt, AIENG_EVENT_PROMPT);
    set(finish.is_some(), AIENG_EVENT_FINISH);
    set(event.finish.as_ref().is_some_and(|finish| finish.last), AIENG_EVENT_LAST);
    aieng_event {
        struct_size: size_of::<aieng_event>() as u32,
        flags,
        storage: 0,
        request_id: event.request.0,
        user_data: event.user_data,
        sample: event.sample,
        token_id: event.token.map_or(0, |token| token.0),
        text: event.text.as_ptr().cast(),
        text_length: event.text.len() - 1,
        // `TokenLogprob` is laid out as `aieng_token_logprob`: see below.
        top: if top.is_empty() { std::ptr::null() } else { top.as_ptr().cast() },
        top_count: top.len() as u32,
        logprob: logprobs.map_or(0.0, |logprobs| logprobs.chosen.logprob),
        finish: finish.map_or(std::ptr::null(), std::ptr::from_ref),
    }
}

const _: () = {
    assert!(size_of::<TokenLogprob>() == size_of::<aieng_token_logprob>());
    assert!(std::mem::offset_of!(TokenLogprob, id) == std::mem::offset_of!(aieng_token_logprob, token_id));
    assert!(std::mem::offset_of!(TokenLogprob, logprob) == std::mem::offset_of!(aieng_token_logprob, logprob));
};

/// A sample's end as C sees it; its message gets a NUL behind it.
fn finished(finish: &mut Finish, names: &Names) -> aieng_finish {
    let nanoseconds = |time: Option<Duration>| time.map_or(0, |t| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX));
    let (reason, status) = match finish.reason {
        FinishReason::Stop => (AIENG_FINISH_STOP, AIENG_OK),
        FinishReason::Length => (AIENG_FINISH_LENGTH, AIENG_OK),
        FinishReason::Cancelled => (AIENG_FINISH_CANCELLED, AIENG_OK),
        FinishReason::Deadline => (AIENG_FINISH_DEADLINE, AIENG_OK),
        FinishReason::Error => (AIENG_FINISH_ERROR, AIENG_ERR_INTERNAL),
    };
    let (stop_cause, stop_token, stop_index) = match finish.stop {
        None => (AIENG_STOP_NONE, 0, 0),
        Some(StopCause::EndOfText(token)) => (AIENG_STOP_EOS, token.0, 0),
        Some(StopCause::Token(token)) => (AIENG_STOP_TOKEN, token.0, 0),
        Some(StopCause::Text(index)) => (AIENG_STOP_STRING, 0, index as u32),
    };
    let message = finish.message.get_or_insert_default();
    message.push('\0');
    let (timings, provenance) = (finish.timings, finish.provenance);
    aieng_finish {
        struct_size: size_of::<aieng_finish>() as u32,
        reason,
        stop_cause,
        stop_token,
        stop_index,
        status,
        message: message.as_ptr().cast(),
        message_length: message.len() - 1,
        prompt_tokens: finish.prompt_tokens as u64,
        cached_tokens: finish.cached_tokens as u64,
        completion_tokens: finish.completion_tokens as u64,
        queue_ns: nanoseconds(timings.queue),
        prefill_ns: nanoseconds(timings.prefill),
        decode_ns: nanoseconds(timings.decode),
        ttft_ns: nanoseconds(timings.ttft),
        tpot_ns: nanoseconds(timings.tpot),
        model_fingerprint: halves(provenance.model),
        kernels: names.kernels.as_ptr(),
        determinism: c"batch-invariant".as_ptr(),
        seed: provenance.seed.0,
        seed_sample: provenance.seed.1.into(),
    }
}

/// Takes back what the caller's array holds, and zeroes its first element.
///
/// # Safety
/// `events` is NULL, or points to a struct of the size it begins with.
unsafe fn release(events: *mut aieng_event) -> Result<Batch> {
    // SAFETY: passed on.
    let storage = unsafe { read("events", events) }?.storage;
    // SAFETY: `read` accepted it.
    unsafe { write(events, &zero()) };
    if storage == 0 {
        return Ok(Batch::default());
    }
    let batch = STORAGE.remove(storage).map_err(|_| {
        invalid(format!(
            "events.storage: {storage:#x} is not in use: the array was not zeroed, or is a duplicate of a cleared one"
        ))
    })?;
    // Nobody has it but the table: it is never lent.
    Ok(Arc::into_inner(batch).unwrap_or_default())
}

/// Gives a batch to the caller.
///
/// # Safety
/// `events` has room for the batch's events, as far apart as the first says.
unsafe fn publish(batch: Batch, events: *mut aieng_event, storage: impl FnOnce(Batch) -> u64) {
    // SAFETY: passed on; `release` has looked at it.
    let stride = unsafe { events.cast::<u32>().read_unaligned() };
    let known = size_of::<aieng_event>();
    for (i, mut event) in batch.events().enumerate() {
        event.struct_size = stride;
        // SAFETY: inside the caller's array; of an element no more than the caller knows is written, and what the library
        // does not know is zeroed.
        unsafe {
            let element = events.byte_add(i * stride as usize).cast::<u8>();
            let bytes = std::ptr::from_ref(&event).cast::<u8>();
            element.copy_from_nonoverlapping(bytes, known.min(stride as usize));
            element.add(known).write_bytes(0, (stride as usize).saturating_sub(known));
        }
    }
    let number = storage(batch);
    // SAFETY: within the first element, which all callers know.
    unsafe { (&raw mut (*events).storage).write_unaligned(number) };
}

/// The engine whose events are to be taken.
fn without_callback(entry: &Entry) -> Result<&Engine> {
    match entry.delivery {
        None => Ok(&entry.engine),
        Some(_) => Err(invalid("engine: its events go to on_event".into())),
    }
}

/// See include/aieng.h.
///
/// # Safety
/// As C has it: each pointer is NULL or points to what the header says, and nobody else uses `events` during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aieng_next(
    engine: *mut aieng_engine,
    events: *mut aieng_event,
    capacity: usize,
    timeout_ms: i64,
    count: *mut usize,
) -> aieng_status {
    let mut batch = Batch::default();
    // Before the engine is looked at, so that the array is in order whatever the status.
    let released = guard::call(|| {
        // SAFETY: NULL or a struct of the size it begins with.
        batch = unsafe { release(events) }?;
        if count.is_null() {
            return Err(invalid("count: NULL".into()));
        }
        // SAFETY: not NULL, so there is room for it.
        unsafe { count.write_unaligned(0) };
        if capacity == 0 {
            return Err(invalid("capacity: 0".into()));
        }
        Ok(AIENG_OK)
    });
    if released != AIENG_OK {
        return released;
    }
    guard::call_engine(engine, |entry| {
        let engine = without_callback(entry)?;
        let vacancy = STORAGE.vacancy()?;
        let timeout = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
        let taken = batch.take(engine, &entry.names, capacity.min(MOST), timeout)?;
        if taken == 0 {
            return Ok(AIENG_TIMEOUT);
        }
        // SAFETY: there is room for `capacity` events, and for `count`.
        unsafe {
            publish(batch, events, |batch| vacancy.fill(batch));
            count.write_unaligned(taken);
        }
        Ok(AIENG_OK)
    })
}

/// See include/aieng.h.
///
/// # Safety
/// `events` is NULL or points to a struct of the size it begins with, which nobody else uses during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aieng_events_clear(events: *mut aieng_event) -> aieng_status {
    if events.is_null() {
        return AIENG_OK;
    }
    guard::call(|| {
        // SAFETY: not NULL, so a struct of the size it begins with.
        unsafe { release(events) }?;
        Ok(AIENG_OK)
    })
}

/// See include/aieng.h.
///
/// # Safety
/// As C has it: `fd` is NULL or has room for an int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aieng_event_fd(engine: *mut aieng_engine, fd: *mut std::ffi::c_int) -> aieng_status {
    guard::call_engine(engine, |entry| {
        if fd.is_null() {
            return Err(invalid("fd: NULL".into()));
        }
        let descriptor = without_callback(entry)?.event_fd();
        let path = std::path::Path::new("eventfd");
        let descriptor = descriptor.map_err(|source| Error::Io { path: path.into(), action: "make one", source })?;
        // SAFETY: not NULL, so there is room for it.
        unsafe { fd.write_unaligned(descriptor.as_raw_fd()) };
        Ok(AIENG_OK)
    })
}
