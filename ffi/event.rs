//! Section "Events": what the engine reports, in memory that the caller gives back.
//!
//! What an event points to lives in a table under a number that the event carries. A duplicate of a cleared event is
//! therefore refused, where a pointer in its place would be freed twice.

use crate::abi::*;
use crate::guard;
use crate::handle::Table;
use crate::input::{invalid, read, write};
use aieng_runtime::Result;
use aieng_runtime::engine::{Event, Finish, FinishReason, Logprobs};
use std::time::Duration;

/// Memory of one event. Its buffers do not move when it does.
struct Storage {
    text: Vec<u8>,
    message: Vec<u8>,
    top_token_ids: Vec<u32>,
    top_logprobs: Vec<f32>,
}

static STORAGE: Table<Storage> = Table::new(0xE7);

/// All zero.
fn empty() -> aieng_event {
    // SAFETY: integers, floats and NULL.
    unsafe { std::mem::zeroed() }
}

/// Releases what the caller's event holds and zeroes it.
///
/// # Safety
/// `event` is NULL, or points to a struct of the size it begins with.
unsafe fn release(event: *mut aieng_event) -> Result<()> {
    // SAFETY: passed on.
    let storage = unsafe { read("event", event) }?.storage;
    let released = if storage == 0 { Ok(None) } else { STORAGE.remove(storage).map(Some) };
    // SAFETY: `read` accepted it.
    unsafe { write(event, &empty()) };
    match released {
        Ok(_) => Ok(()),
        Err(_) => Err(invalid(format!(
            "event.storage: {storage:#x} is not in use: the struct was not zeroed, or is a duplicate of a cleared one"
        ))),
    }
}

/// The text with a NUL behind it, which does not count in `text_length`.
fn with_nul(text: String) -> Vec<u8> {
    let mut bytes = text.into_bytes();
    bytes.push(0);
    bytes
}

/// Fills in what only a request's last event has.
fn set_finish(out: &mut aieng_event, finish: &Finish) {
    let nanoseconds = |time: Option<Duration>| time.map_or(0, |t| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX));
    out.flags |= AIENG_EVENT_FINISH;
    (out.finish_reason, out.status) = match finish.reason {
        FinishReason::Stop => (AIENG_FINISH_STOP, AIENG_OK),
        FinishReason::Length => (AIENG_FINISH_LENGTH, AIENG_OK),
        FinishReason::Cancelled => (AIENG_FINISH_CANCELLED, AIENG_OK),
        FinishReason::Deadline => (AIENG_FINISH_DEADLINE, AIENG_OK),
        FinishReason::Error => (AIENG_FINISH_ERROR, AIENG_ERR_INTERNAL),
    };
    out.prompt_tokens = finish.prompt_tokens as u64;
    out.completion_tokens = finish.completion_tokens as u64;
    out.ttft_ns = nanoseconds(finish.timings.ttft);
    out.tpot_ns = nanoseconds(finish.timings.tpot);
}

/// The event as the caller sees it, with its storage in the table.
fn publish(event: Event) -> Result<aieng_event> {
    let mut out = empty();
    out.request_id = event.request.0;
    if let Some(token) = event.token {
        out.flags |= AIENG_EVENT_TOKEN;
        out.token_id = token.0;
    }
    let top = event.logprobs.as_ref().map_or(&[][..], |logprobs: &Logprobs| &logprobs.top);
    if let Some(logprobs) = &event.logprobs {
        out.flags |= AIENG_EVENT_LOGPROBS;
        out.logprob = logprobs.chosen.logprob;
    }
    if let Some(finish) = &event.finish {
        set_finish(&mut out, finish);
    }
    let message = event.finish.as_ref().and_then(|finish| finish.message.as_deref()).unwrap_or_default();
    let storage = Storage {
        message: with_nul(message.replace('\0', " ")),
        top_token_ids: top.iter().map(|t| t.id.0).collect(),
        top_logprobs: top.iter().map(|t| t.logprob).collect(),
        text: with_nul(event.text.into_string()),
    };
    out.text = storage.text.as_ptr().cast();
    out.text_length = storage.text.len() - 1;
    out.message = storage.message.as_ptr().cast();
    if !storage.top_token_ids.is_empty() {
        out.top_token_ids = storage.top_token_ids.as_ptr();
        out.top_logprobs = storage.top_logprobs.as_ptr();
        out.top_count = storage.top_token_ids.len();
    }
    out.storage = STORAGE.insert(storage)?;
    Ok(out)
}

/// See include/aieng.h.
///
/// # Safety
/// As C has it: each pointer is NULL or points to what the header says, and nobody else uses `event` during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aieng_next(
    engine: *mut aieng_engine,
    timeout_ms: i64,
    event: *mut aieng_event,
) -> aieng_status {
    // Before the engine is looked at, so that the event is in order whatever the status.
    let released = guard::call(|| {
        // SAFETY: NULL or a struct of the size it begins with.
        unsafe { release(event) }?;
        Ok(AIENG_OK)
    });
    if released != AIENG_OK {
        return released;
    }
    guard::call_engine(engine, |engine| {
        let timeout = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
        let Some(next) = engine.next(timeout)? else { return Ok(AIENG_TIMEOUT) };
        let published = publish(next)?;
        // SAFETY: `release` accepted it, and it is the caller's promise that nobody has changed it since.
        unsafe { write(event, &published) };
        Ok(AIENG_OK)
    })
}

/// See include/aieng.h.
///
/// # Safety
/// `event` is NULL or points to a struct of the size it begins with, which nobody else uses during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aieng_event_clear(event: *mut aieng_event) -> aieng_status {
    if event.is_null() {
        return AIENG_OK;
    }
    guard::call(|| {
        // SAFETY: not NULL, so a struct of the size it begins with.
        unsafe { release(event) }?;
        Ok(AIENG_OK)
    })
}
