//! Section "Metrics": the runtime's snapshot in a struct, and as text.

use crate::abi::*;
use crate::guard;
use crate::input::put;
use crate::text::fill_with;
use aieng_runtime::engine::FinishReason;
use aieng_runtime::metrics::{BUCKETS, Histogram, REASONS, Snapshot};
use std::ffi::c_char;
use std::time::Duration;

const _: () = assert!(BUCKETS.len() == AIENG_BUCKETS as usize);

/// What bucket_bounds points to.
static BOUNDS: [f64; BUCKETS.len()] = BUCKETS;

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn histogram(histogram: &Histogram) -> aieng_histogram {
    aieng_histogram { counts: histogram.counts, sum_ns: nanoseconds(histogram.sum) }
}

fn metrics(snapshot: &Snapshot) -> aieng_metrics {
    let finished = |wanted: FinishReason| {
        REASONS.iter().zip(snapshot.finished).find(|((reason, _), _)| *reason == wanted).map_or(0, |(_, count)| count)
    };
    aieng_metrics {
        struct_size: 0,
        buckets: AIENG_BUCKETS,
        bucket_bounds: BOUNDS.as_ptr(),
        running: snapshot.running,
        waiting: snapshot.waiting,
        kv_blocks_used: snapshot.kv_blocks_used,
        kv_blocks: snapshot.kv_blocks,
        prefix_queries: snapshot.prefix_queries,
        prefix_hits: snapshot.prefix_hits,
        evictions: snapshot.evictions,
        preemptions: snapshot.preemptions,
        prompt_tokens: snapshot.prompt_tokens,
        generation_tokens: snapshot.generation_tokens,
        finished_stop: finished(FinishReason::Stop),
        finished_length: finished(FinishReason::Length),
        finished_cancelled: finished(FinishReason::Cancelled),
        finished_error: finished(FinishReason::Error),
        finished_deadline: finished(FinishReason::Deadline),
        rejected_busy: snapshot.rejected_busy,
        rejected_invalid: snapshot.rejected_invalid,
        steps: snapshot.steps,
        step_ns: nanoseconds(snapshot.step_time),
        kernel_ns: nanoseconds(snapshot.kernel_time),
        time_to_first_token: histogram(&snapshot.time_to_first_token),
        inter_token_latency: histogram(&snapshot.inter_token_latency),
        e2e_latency: histogram(&snapshot.e2e_latency),
        queue_time: histogram(&snapshot.queue_time),
    }
}

/// See include/aieng.h.
///
/// # Safety
/// As C has it: `metrics` is NULL or a struct of the size it begins with.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aieng_metrics_read(engine: *mut aieng_engine, metrics_: *mut aieng_metrics) -> aieng_status {
    guard::call_engine(engine, |entry| {
        // SAFETY: passed on.
        unsafe { put("metrics", metrics_, &metrics(&entry.engine.metrics())) }?;
        Ok(AIENG_OK)
    })
}

/// See include/aieng.h.
///
/// # Safety
/// As C has it: each pointer is NULL or has room for what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aieng_metrics_text(
    engine: *mut aieng_engine,
    text: *mut c_char,
    capacity: usize,
    text_length: *mut usize,
) -> aieng_status {
    // SAFETY: passed on.
    unsafe { fill_with(engine, text, capacity, text_length, |entry| Ok(entry.engine.metrics().prometheus())) }
}
