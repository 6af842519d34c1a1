//! Bad input, by table: every export is called with each kind of it in each of its arguments, and must answer with an error
//! that names the argument. Below, an export is its name and a call; a kind of bad input is a way to spoil one argument.

#[path = "../../ffi/abi.rs"]
#[allow(non_camel_case_types, unused, unsafe_op_in_unsafe_fn)]
mod abi;

use abi::*;
use std::ffi::{CStr, CString, c_char};
use std::ptr::{null, null_mut};

// The library is linked for its exported functions, which abi.rs declares.
extern crate aieng;

const STRLEN: usize = usize::MAX;

/// A struct of the ABI that is in order.
fn zero<T>() -> T {
    // SAFETY: the structs of the ABI are valid for zeroes.
    unsafe {
        let mut value = std::mem::MaybeUninit::<T>::zeroed();
        value.as_mut_ptr().cast::<u32>().write(size_of::<T>() as u32);
        value.assume_init()
    }
}

fn last_error() -> String {
    // SAFETY: a string that ends in NUL.
    unsafe { CStr::from_ptr(aieng_last_error()) }.to_string_lossy().into_owned()
}

/// The status is an error, and its message has these words.
#[track_caller]
fn refused(what: &str, status: aieng_status, words: &str) {
    let message = last_error();
    assert_eq!(status, AIENG_ERR_INVALID_ARGUMENT, "{what}: {message}");
    assert!(message.contains(words), "{what}: {message:?} does not say {words:?}");
}

fn engine() -> *mut aieng_engine {
    let config = aieng_engine_config { device: AIENG_DEVICE_SIMULATED, kv_tokens: 65_536, ..zero() };
    let mut engine = null_mut();
    // SAFETY: a struct in order and room for a handle.
    assert_eq!(unsafe { aieng_engine_create(null(), &config, &mut engine) }, AIENG_OK, "{}", last_error());
    engine
}

const ON_ENGINES: [&str; 12] = [
    "destroy",
    "shutdown",
    "describe",
    "submit",
    "cancel",
    "next",
    "event_fd",
    "tokenize",
    "detokenize",
    "render",
    "metrics_read",
    "metrics_text",
];

/// Calls a function on an engine, with everything else in order.
fn on_engine(name: &str, e: *mut aieng_engine) -> aieng_status {
    let request = aieng_request { text: c"x".as_ptr(), text_length: STRLEN, ..zero() };
    let chat = aieng_request { chat_json: c"[]".as_ptr(), chat_json_length: STRLEN, ..zero() };
    // SAFETY: any handle will do, and the other arguments are in order.
    unsafe {
        match name {
            "destroy" => aieng_engine_destroy(e),
            "shutdown" => aieng_engine_shutdown(e),
            "describe" => aieng_engine_describe(e, &mut zero()),
            "submit" => aieng_submit(e, &request, &mut 0),
            "cancel" => aieng_cancel(e, u64::MAX),
            "next" => aieng_next(e, &mut zero(), 1, 0, &mut 0),
            "event_fd" => aieng_event_fd(e, &mut 0),
            "tokenize" => aieng_tokenize(e, c"x".as_ptr(), STRLEN, 0, null_mut(), 0, &mut 0),
            "detokenize" => aieng_detokenize(e, null(), 0, 0, null_mut(), 0, &mut 0),
            "render" => aieng_render(e, &chat, null_mut(), 0, &mut 0),
            "metrics_read" => aieng_metrics_read(e, &mut zero()),
            "metrics_text" => aieng_metrics_text(e, null_mut(), 0, &mut 0),
            _ => unreachable!(),
        }
    }
}

#[test]
fn forged_handles_are_told_from_real_ones() {
    let alive = engine();
    let gone = engine();
    // SAFETY: a handle.
    assert_eq!(unsafe { aieng_engine_destroy(gone) }, AIENG_OK);
    let handle = |bits: u64| std::ptr::without_provenance_mut::<aieng_engine>(bits as usize);
    let mut forged: Vec<u64> = (0..64).map(|bit| alive.addr() as u64 ^ 1 << bit).collect();
    // The table of event storage has another tag; these name its first slots.
    forged.extend([1, u64::MAX, 0xE7 << 56, 0xE7 << 56 | 1, (&raw const forged).addr() as u64]);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..10_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        forged.push(state);
    }
    for name in ON_ENGINES {
        // NULL is nothing to destroy, which is no error.
        if name != "destroy" {
            refused(name, on_engine(name, null_mut()), "engine: NULL");
        }
        for bits in forged.iter().filter(|bits| **bits != alive.addr() as u64) {
            let status = on_engine(name, handle(*bits));
            let message = last_error();
            // One bit away from the living one may be the one that is gone.
            let known = status == AIENG_ERR_CLOSED && message.contains("was destroyed");
            assert!(
                known || status == AIENG_ERR_INVALID_ARGUMENT && message.contains("engine: not a handle"),
                "{name}: {bits:#x}: {message}"
            );
        }
        assert_eq!(on_engine(name, gone), AIENG_ERR_CLOSED, "{name}");
        assert!(last_error().contains("engine: was destroyed"), "{name}");
    }
    // SAFETY: a handle.
    assert_eq!(unsafe { aieng_engine_destroy(alive) }, AIENG_OK);
}

/// Calls each function that takes a versioned struct with the struct at the given place.
fn with_struct(engine: *mut aieng_engine, name: &str, at: *mut u8) -> aieng_status {
    // SAFETY: as many bytes as the struct says are there, or it says what is refused; other arguments are in order.
    unsafe {
        match name {
            "config" => aieng_engine_create(c"/missing".as_ptr(), at.cast(), &mut null_mut()),
            "build info" => aieng_build_describe(at.cast()),
            "engine info" => aieng_engine_describe(engine, at.cast()),
            "request" => aieng_submit(engine, at.cast(), &mut 0),
            "request to render" => aieng_render(engine, at.cast(), null_mut(), 0, &mut 0),
            "sampling" => {
                let request = aieng_request { text: c"x".as_ptr(), text_length: STRLEN, sampling: at.cast(), ..zero() };
                aieng_submit(engine, &request, &mut 0)
            }
            "messages" => {
                let request = aieng_request { messages: at.cast(), message_count: 1, ..zero() };
                aieng_submit(engine, &request, &mut 0)
            }
            "events" => aieng_next(engine, at.cast(), 1, 0, &mut 0),
            "events to clear" => aieng_events_clear(at.cast()),
            "metrics" => aieng_metrics_read(engine, at.cast()),
            _ => unreachable!(),
        }
    }
}

#[test]
fn structs_of_every_wrong_size_are_refused() {
    let engine = engine();
    // (what, what messages call it, its size now; the first it ever had, if that is another)
    let first = |name, size| match name {
        "config" => 152,
        "engine info" => 112,
        _ => size,
    };
    let structs = [
        ("config", "config", size_of::<aieng_engine_config>()),
        ("build info", "info", size_of::<aieng_build_info>()),
        ("engine info", "info", size_of::<aieng_engine_info>()),
        ("request", "request", size_of::<aieng_request>()),
        ("request to render", "request", size_of::<aieng_request>()),
        ("sampling", "sampling", size_of::<aieng_sampling>()),
        ("messages", "request.messages", size_of::<aieng_message>()),
        ("events", "events", size_of::<aieng_event>()),
        ("events to clear", "events", size_of::<aieng_event>()),
        ("metrics", "metrics", size_of::<aieng_metrics>()),
    ];
    for (name, called, size) in structs {
        // NULL is no sampling, no messages and nothing to clear, which are no errors.
        match name {
            "sampling" | "events to clear" => {}
            "messages" => refused(name, with_struct(engine, name, null_mut()), "request.messages: NULL"),
            _ => refused(name, with_struct(engine, name, null_mut()), &format!("{called}: NULL")),
        }
        let mut memory = vec![0u64; 1024];
        let at = memory.as_mut_ptr().cast::<u8>();
        for wrong in [0, 1, 4, 7, first(name, size) as u32 - 1, 4097, 0x7fff_ffff, 0xcccc_cccc, u32::MAX] {
            // SAFETY: there is room.
            unsafe { at.cast::<u32>().write(wrong) };
            refused(name, with_struct(engine, name, at), &format!("{called}.struct_size: {wrong}"));
        }
        // A newer caller's, with something in a field that this library does not know.
        for newer in [size as u32 + 1, size as u32 + 8, 4096] {
            // SAFETY: there is room.
            unsafe {
                at.cast::<u32>().write(newer);
                at.add(newer as usize - 1).write(1);
            }
            refused(name, with_struct(engine, name, at), "is not zero");
            // SAFETY: as above.
            unsafe { at.add(newer as usize - 1).write(0) };
        }
        // At an odd address, as packed structs of other languages may be.
        // SAFETY: there is room.
        unsafe { at.add(1).cast::<u32>().write_unaligned(1) };
        // SAFETY: inside the memory.
        refused(name, with_struct(engine, name, unsafe { at.add(1) }), &format!("{called}.struct_size: 1"));
    }
    // SAFETY: a handle.
    unsafe { aieng_engine_destroy(engine) };
}

#[test]
fn outputs_that_cannot_be_written_are_refused() {
    let engine = engine();
    let request = aieng_request { text: c"x".as_ptr(), text_length: STRLEN, ..zero() };
    let chat = c"[{\"role\": \"user\", \"content\": \"x\"}]";
    let chat = aieng_request { chat_json: chat.as_ptr(), chat_json_length: STRLEN, ..zero() };
    let config: aieng_engine_config = zero();
    let (x, id) = (c"x".as_ptr(), 0u32);
    // SAFETY: everything but the output is in order.
    unsafe {
        refused("create", aieng_engine_create(x, &config, null_mut()), "engine: NULL");
        refused("create", aieng_engine_create(null(), &config, &mut null_mut()), "path: NULL");
        refused("submit", aieng_submit(engine, &request, null_mut()), "request_id: NULL");
        refused("next", aieng_next(engine, &mut zero(), 1, 0, null_mut()), "count: NULL");
        refused("next", aieng_next(engine, &mut zero(), 0, 0, &mut 0), "capacity: 0");
        refused("event_fd", aieng_event_fd(engine, null_mut()), "fd: NULL");
        refused("tokenize", aieng_tokenize(engine, x, 1, 0, null_mut(), 0, null_mut()), "count: NULL");
        refused("tokenize", aieng_tokenize(engine, x, 1, 0, null_mut(), 9, &mut 0), "token_ids: NULL");
        refused("detokenize", aieng_detokenize(engine, &id, 1, 0, null_mut(), 0, null_mut()), "text_length: NULL");
        refused("detokenize", aieng_detokenize(engine, &id, 1, 0, null_mut(), 9, &mut 0), "text: NULL");
        refused("render", aieng_render(engine, &chat, null_mut(), 0, null_mut()), "text_length: NULL");
        refused("render", aieng_render(engine, &chat, null_mut(), 9, &mut 0), "text: NULL");
        refused("metrics_text", aieng_metrics_text(engine, null_mut(), 0, null_mut()), "text_length: NULL");
        refused("metrics_text", aieng_metrics_text(engine, null_mut(), 9, &mut 0), "text: NULL");
        aieng_engine_destroy(engine);
    }
}

#[test]
fn strings_and_counts_that_lie_are_refused() {
    let engine = engine();
    let huge = "x".repeat(100 << 20);
    let broken = [b'a', 0xff, b'b'];
    let mut count = 0;
    // SAFETY: the strings are as long as is said, or the call refuses them before it looks.
    unsafe {
        let tokenize = |at: *const c_char, length| aieng_tokenize(engine, at, length, 0, null_mut(), 0, &mut 0);
        let path = CString::new(huge.as_str()).expect("no NUL");
        let created = aieng_engine_create(path.as_ptr(), &zero(), &mut null_mut());
        refused("path", created, "path: 104857600 bytes, at most 4095");
        refused("text", tokenize(broken.as_ptr().cast(), 3), "text: not UTF-8 at byte 1");
        refused("text", tokenize(null(), 5), "text: NULL");
        refused("text", tokenize(null(), STRLEN), "text: NULL");
        refused("text", tokenize(c"x".as_ptr(), usize::MAX / 2 + 1), "text: ");
        // A long text is work, not an error; as a prompt it fits no context.
        assert_eq!(aieng_tokenize(engine, huge.as_ptr().cast(), 1 << 20, 0, null_mut(), 0, &mut count), AIENG_OK);
        assert_eq!(count, 1 << 20);
        let ids = 0u32;
        let detokenize = |at: *const u32, n| aieng_detokenize(engine, at, n, 0, null_mut(), 0, &mut 0);
        refused("ids", detokenize(null(), 3), "token_ids: NULL");
        refused("ids", detokenize(&ids, usize::MAX / 4 + 1), "token_ids: ");
        refused("ids", detokenize((&raw const ids).byte_add(1), 1), "token_ids: ");

        let submit = |request: aieng_request| aieng_submit(engine, &request, &mut 0);
        let text = |at: *const c_char, length| aieng_request { text: at, text_length: length, ..zero() };
        refused("prompt", submit(text(huge.as_ptr().cast(), huge.len())), "request.text: 104857600 bytes cannot fit");
        refused("prompt", submit(text(broken.as_ptr().cast(), 3)), "request.text: not UTF-8");
        let chat = |at: *const c_char, length| aieng_request { chat_json: at, chat_json_length: length, ..zero() };
        refused("chat", submit(chat(huge.as_ptr().cast(), huge.len())), "request.chat_json: 104857600 bytes");
        refused("chat", submit(chat(broken.as_ptr().cast(), 3)), "request.chat_json: not UTF-8");
        let message = aieng_message {
            role: c"user".as_ptr(),
            role_length: STRLEN,
            content: huge.as_ptr().cast(),
            content_length: huge.len(),
            ..zero()
        };
        let messages = |at, count| aieng_request { messages: at, message_count: count, ..zero() };
        refused("messages", submit(messages(&message, 1)), "request.messages: 104857605 bytes cannot fit");
        refused("messages", submit(messages(&message, usize::MAX)), "request.messages: ");
        let tokens = |at, count| aieng_request { token_ids: at, token_count: count, ..zero() };
        refused("tokens", submit(tokens(&ids, usize::MAX)), "request.token_ids: ");
        refused("tokens", submit(tokens(&ids, 0)), "prompt: no tokens");

        let sampled =
            |sampling: aieng_sampling| submit(aieng_request { sampling: &sampling, ..text(c"x".as_ptr(), STRLEN) });
        let (stop, value) = (huge.as_ptr().cast(), 0f32);
        let stop_length = huge.len();
        let lengths = |n| aieng_sampling { stop: &stop, stop_lengths: &stop_length, stop_count: n, ..zero() };
        refused("stop", sampled(lengths(1)), "stop string: 104857600, at most 4096");
        refused("stop", sampled(lengths(usize::MAX)), "sampling.stop: ");
        refused("stop", sampled(aieng_sampling { stop_count: 1, ..zero() }), "sampling.stop: NULL");
        let bias =
            |n| aieng_sampling { logit_bias_ids: &ids, logit_bias_values: &value, logit_bias_count: n, ..zero() };
        refused("bias", sampled(bias(1025)), "sampling.logit_bias_ids: 1025");
        refused("bias", sampled(bias(usize::MAX)), "sampling.logit_bias_ids: ");
        refused(
            "stops",
            sampled(aieng_sampling { stop_token_ids: &ids, stop_token_count: 65, ..zero() }),
            "stop_token_ids: 65",
        );
        aieng_engine_destroy(engine);
    }
}

#[test]
fn unknown_values_are_refused() {
    let engine = engine();
    type Config = aieng_engine_config;
    let configs: [(Config, &str); 9] = [
        (Config { device: 5, ..zero() }, "config.device: 5"),
        (Config { gpu: 1, ..zero() }, "config.gpu: 1"),
        (Config { device: u32::MAX, ..zero() }, "config.device: 4294967295"),
        (Config { isa: 7, ..zero() }, "config.isa: 7"),
        (Config { kv_type: 5, ..zero() }, "config.kv_type: 5"),
        (Config { policy: 3, ..zero() }, "config.policy: 3"),
        (Config { log_level: 5, ..zero() }, "config.log_level: 5"),
        (Config { flags: 4, ..zero() }, "config.flags: unknown bits 0x4"),
        (Config { tenant_count: usize::MAX, ..zero() }, "config.tenant_count: "),
    ];
    for (config, words) in configs {
        // SAFETY: a path, a struct in order and room for a handle.
        refused(words, unsafe { aieng_engine_create(c"/missing".as_ptr(), &config, &mut null_mut()) }, words);
    }
    let limits: [(Config, &str); 7] = [
        (Config { threads: 1025, ..zero() }, "threads: 1025"),
        (Config { max_sequences: 4097, ..zero() }, "max_sequences: 4097"),
        (Config { max_batch_tokens: 8, ..zero() }, "max_batch_tokens: 8"),
        (Config { max_requests: u32::MAX, ..zero() }, "max_requests: 4294967295"),
        (Config { context: u32::MAX, ..zero() }, "context: 4294967295"),
        (Config { kv_tokens: u64::MAX, ..zero() }, "kv_tokens: 18446744073709551615"),
        (Config { policy: AIENG_POLICY_STATIC, ..zero() }, "policy.size: 0"),
    ];
    for (config, words) in limits {
        // SAFETY: as above.
        refused(words, unsafe { aieng_engine_create(c"/missing".as_ptr(), &config, &mut null_mut()) }, words);
    }
    type Request = aieng_request;
    let requests: [(Request, &str); 7] = [
        (Request { flags: 32, ..zero() }, "request.flags: unknown bits 0x20"),
        (Request { n: 129, ..zero() }, "n: 129"),
        (Request { best_of: 129, ..zero() }, "best_of: 129"),
        (Request { priority: i32::MIN, ..zero() }, "priority: -2147483648"),
        (Request { prompt_top_logprobs: 3, ..zero() }, "request.prompt_top_logprobs: 3"),
        (Request { flags: AIENG_REQUEST_SCORE, prompt_top_logprobs: 21, ..zero() }, "prompt_logprobs: 21"),
        (Request { token_ids: &257, token_count: 1, text: null(), text_length: 0, ..zero() }, "token 257"),
    ];
    for (request, words) in requests {
        let text = if request.token_ids.is_null() { (c"x".as_ptr(), STRLEN) } else { (null(), 0) };
        let request = Request { text: text.0, text_length: text.1, ..request };
        // SAFETY: a handle, a struct in order and room for an id.
        refused(words, unsafe { aieng_submit(engine, &request, &mut 0) }, words);
    }
    // SAFETY: a handle, and texts in order.
    unsafe {
        refused("flags", aieng_tokenize(engine, c"x".as_ptr(), 1, 4, null_mut(), 0, &mut 0), "flags: unknown bits 0x4");
        refused("flags", aieng_detokenize(engine, null(), 0, 2, null_mut(), 0, &mut 0), "flags: unknown bits 0x2");
        aieng_engine_destroy(engine);
    }
}
