//! Memory that cannot be had: whatever the library was doing, it says so, and the next request is served.
//!
//! This program's allocator refuses the nth request for 64 KiB or more, for n = 1, 2, …, until nothing is left to refuse;
//! and a child of it loads under limits on its address space. An allocation that Rust's collections make by themselves would
//! end the process, and with it this test.

#[path = "../../ffi/abi.rs"]
#[allow(non_camel_case_types, unused, unsafe_op_in_unsafe_fn)]
mod abi;
mod allocator;
mod limits;
mod support;

use abi::*;
use allocator::with_nth_refused;
use std::sync::Mutex;
use support::{Client, Outcome};

/// Refusals are the whole process's, so one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// A configuration in which everything that can be large is.
fn config(device: aieng_device) -> aieng_engine_config {
    aieng_engine_config {
        device,
        context: if device == AIENG_DEVICE_SIMULATED { 65_536 } else { 4096 },
        kv_tokens: 131_072,
        kv_type: AIENG_KV_AUTO,
        max_requests: 20_000,
        max_sequences: 64,
        max_batch_tokens: 2048,
        flags: AIENG_ENGINE_UNPINNED,
        ..support::zero()
    }
}

/// Refuses the nth allocation of `action` for n = 1, 2, … up to 300 or until none was refused; each time `action` has to
/// end with an error (or be none the worse), and `after` has to succeed. Returns how many were refused.
fn refuse_each(name: &str, mut action: impl FnMut() -> Outcome, mut after: impl FnMut()) -> usize {
    for n in 1..=300 {
        let (outcome, refused) = with_nth_refused(n, &mut action);
        if !refused {
            assert_eq!(outcome, Outcome::Done, "{name}: nothing was refused");
            return n - 1;
        }
        assert!(matches!(outcome, Outcome::Done | Outcome::NoMemory), "{name}: allocation {n}: {outcome:?}");
        after();
    }
    300
}

fn every_allocation(model: Option<&std::path::Path>, device: aieng_device, least: [usize; 3]) {
    let config = config(device);
    // The regex crate's tables, once a process: a fixed amount, and not the library's to refuse (see runtime/memory.rs).
    drop(support::load(model, &config));
    let client = support::load(model, &config).expect("memory enough");
    let next = || assert_eq!(client.generate("Once upon a time", 4), Outcome::Done, "the next request is served");
    let loads = refuse_each("load", || support::load(model, &config).map_or_else(|e| e, |_| Outcome::Done), next);
    let long = "All work and no play makes Jack a dull boy. ".repeat(if model.is_some() { 80 } else { 1200 });
    let conversation = format!("[{{\"role\": \"user\", \"content\": \"{long}\"}}]");
    let submits = refuse_each("submit", || client.generate_all_features(&long), next);
    let renders = refuse_each("render", || client.render(&conversation), next);
    let longer = "All work and no play makes Jack a dull boy. ".repeat(4000);
    let mut ids = vec![0; longer.len() + 1];
    let tokenized = refuse_each("tokenize", || client.tokenize_and_back(&longer, &mut ids), next);
    eprintln!(
        "refused: {loads} of a load, {submits} of a request, {renders} of a rendering, {tokenized} of a tokenizing"
    );
    assert!(tokenized > 0);
    assert!(loads >= least[0] && submits >= least[1] && renders >= least[2], "too few: is the allocator in use?");
}

#[test]
fn a_simulated_engine_survives_each_refusal() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    every_allocation(None, AIENG_DEVICE_SIMULATED, [5, 10, 2]);
}

#[test]
fn a_model_survives_each_refusal() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let name = "a_model_survives_each_refusal";
    let Some(model) = support::model(name) else { return };
    every_allocation(Some(&model), AIENG_DEVICE_CPU, [20, 1, 2]);
}

#[test]
fn loading_under_a_limit_is_an_error() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let name = "loading_under_a_limit_is_an_error";
    match (limits::is_child(), support::model(name)) {
        (_, None) => {}
        (false, Some(_)) => limits::run_all(name),
        (true, Some(model)) => limits::child(&model),
    }
}

impl Client {
    /// Everything of a request that makes the engine remember or deliver more.
    fn generate_all_features(&self, text: &str) -> Outcome {
        let sampling = aieng_sampling {
            temperature: 0.9,
            repetition_penalty: 1.1,
            max_tokens: 24,
            min_tokens: 24,
            flags: AIENG_SAMPLING_LOGPROBS,
            top_logprobs: 5,
            ..support::zero()
        };
        let request = aieng_request {
            flags: AIENG_REQUEST_ECHO | AIENG_REQUEST_NO_PREFIX_CACHE,
            n: 2,
            best_of: 3,
            ..support::zero()
        };
        self.run(text, request, sampling)
    }
}
