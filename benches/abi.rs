//! What the C interface costs: `cargo bench -p aieng --bench abi`. The engine is the simulated one, so that nothing but the
//! way through the library is measured.
//!
//! Figures: an event through aieng_next() takes less than 1 µs of the reader's time, aieng_submit() less than 5 µs, and one
//! thread reads 1,000,000 events a second.

#[path = "../ffi/abi.rs"]
#[allow(non_camel_case_types, unused, unsafe_op_in_unsafe_fn)]
mod abi;

use abi::*;
use std::time::{Duration, Instant};

// The library is linked for its exported functions, which abi.rs declares.
extern crate aieng;

const STREAMS: u32 = 64;
const CAPACITY: usize = 64;
/// So long that the engine's thread sleeps through a measurement of submits.
const STEP: Duration = Duration::from_millis(20);

/// A struct of the ABI that is in order.
fn zero<T>() -> T {
    // SAFETY: the structs of the ABI are valid for zeroes.
    unsafe {
        let mut value = std::mem::MaybeUninit::<T>::zeroed();
        value.as_mut_ptr().cast::<u32>().write(size_of::<T>() as u32);
        value.assume_init()
    }
}

fn check(status: aieng_status) {
    assert_eq!(status, AIENG_OK);
}

struct Client {
    engine: *mut aieng_engine,
    events: Vec<aieng_event>,
}

impl Client {
    fn new(max_requests: u32, step: Duration) -> Client {
        let config = aieng_engine_config {
            device: AIENG_DEVICE_SIMULATED,
            max_sequences: STREAMS,
            max_batch_tokens: 65_536,
            max_requests,
            context: 65_536,
            kv_tokens: 1 << 23,
            simulated_step_us: step.as_micros() as u32,
            ..zero()
        };
        let mut engine = std::ptr::null_mut();
        // SAFETY: a struct in order and room for a handle.
        check(unsafe { aieng_engine_create(std::ptr::null(), &config, &mut engine) });
        Client { engine, events: (0..CAPACITY).map(|_| zero()).collect() }
    }

    fn submit(&self, prompt: &[u32], max_tokens: u32) {
        let sampling = aieng_sampling { max_tokens, flags: AIENG_SAMPLING_IGNORE_EOS, ..zero() };
        let request =
            aieng_request { token_ids: prompt.as_ptr(), token_count: prompt.len(), sampling: &sampling, ..zero() };
        // SAFETY: a handle, structs in order and room for an id.
        check(unsafe { aieng_submit(self.engine, &request, &mut 0) });
    }

    /// Takes some events; how many.
    fn next(&mut self) -> usize {
        let mut count = 0;
        // SAFETY: a handle, an array in order and room for the count.
        check(unsafe { aieng_next(self.engine, self.events.as_mut_ptr(), CAPACITY, -1, &mut count) });
        count
    }

    fn generated(&self) -> u64 {
        let mut metrics: aieng_metrics = zero();
        // SAFETY: a handle and a struct in order.
        check(unsafe { aieng_metrics_read(self.engine, &mut metrics) });
        metrics.generation_tokens
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // SAFETY: the array that the events came in, and a handle.
        unsafe {
            check(aieng_events_clear(self.events.as_mut_ptr()));
            check(aieng_engine_destroy(self.engine));
        }
    }
}

/// Nanoseconds of the reader's time for an event that is there already.
fn event(client: &mut Client) -> f64 {
    const TOKENS: u32 = 200;
    let all = u64::from(STREAMS * TOKENS);
    let before = client.generated();
    (0..STREAMS).for_each(|stream| client.submit(&[stream], TOKENS));
    while client.generated() < before + all {
        std::thread::sleep(Duration::from_millis(1));
    }
    // The last events follow the count at once.
    std::thread::sleep(Duration::from_millis(5));
    let begin = Instant::now();
    let mut taken = 0;
    while taken < all {
        taken += client.next() as u64;
    }
    begin.elapsed().as_nanos() as f64 / all as f64
}

/// Millions of events a second, from an engine that makes them meanwhile.
fn rate(client: &mut Client) -> f64 {
    const TOKENS: u32 = 30_000;
    let all = u64::from(STREAMS * TOKENS);
    (0..STREAMS).for_each(|stream| client.submit(&[stream], TOKENS));
    let begin = Instant::now();
    let mut taken = 0;
    while taken < all {
        taken += client.next() as u64;
    }
    all as f64 / begin.elapsed().as_secs_f64() / 1e6
}

/// Microseconds of a submit with a prompt of so many tokens, while the engine is in a step.
fn submit(client: &mut Client, tokens: usize) -> f64 {
    const REQUESTS: u32 = 200;
    let prompt: Vec<u32> = (0..tokens as u32).map(|i| i % 250).collect();
    // Else its thread would take requests in as they come, and what is measured depends on what its core shares with ours.
    client.submit(&[0], 1);
    std::thread::sleep(STEP / 4);
    let begin = Instant::now();
    (0..REQUESTS).for_each(|_| client.submit(&prompt, 1));
    let time = begin.elapsed();
    assert!(time < STEP / 2, "the step is too short");
    let mut taken = 0;
    while taken <= REQUESTS as usize {
        taken += client.next();
    }
    time.as_secs_f64() * 1e6 / f64::from(REQUESTS)
}

/// The middle and the least of some measurements.
fn measure(mut once: impl FnMut() -> f64) -> (f64, f64) {
    let mut all: Vec<f64> = (0..9).map(|_| once()).collect();
    all.sort_unstable_by(f64::total_cmp);
    (all[all.len() / 2], all[0])
}

fn main() {
    let mut client = Client::new(8192, Duration::ZERO);
    let (middle, least) = measure(|| event(&mut client));
    println!("event: {middle:.0} ns (least {least:.0}), {STREAMS} streams, {CAPACITY} a call");
    let (middle, least) = measure(|| rate(&mut client));
    println!("rate: {middle:.2} million events a second (least {least:.2}), one reader");
    let mut client = Client::new(8192, STEP);
    for tokens in [16, 256, 4096] {
        let (middle, least) = measure(|| submit(&mut client, tokens));
        println!("submit: {middle:.2} µs (least {least:.2}), prompt of {tokens} tokens");
    }
}
