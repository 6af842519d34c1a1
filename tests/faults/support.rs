//! A client of the C interface, as small as the tests need it.

use crate::abi::*;
use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};

// The library is linked for its exported functions, which abi.rs declares.
extern crate aieng;

/// How something ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    NoMemory,
    /// Another error, which is not expected.
    Other(String),
}

/// A struct of the ABI that is in order.
pub fn zero<T>() -> T {
    // SAFETY: the structs of the ABI are valid for zeroes.
    unsafe {
        let mut value = std::mem::MaybeUninit::<T>::zeroed();
        value.as_mut_ptr().cast::<u32>().write(size_of::<T>() as u32);
        value.assume_init()
    }
}

fn outcome(status: aieng_status) -> Outcome {
    match status {
        AIENG_OK => Outcome::Done,
        AIENG_ERR_OUT_OF_MEMORY => Outcome::NoMemory,
        // SAFETY: a string that ends in NUL.
        _ => Outcome::Other(unsafe { CStr::from_ptr(aieng_last_error()) }.to_string_lossy().into_owned()),
    }
}

/// An engine.
pub struct Client(*mut aieng_engine);

/// Loads a model, or the simulation.
pub fn load(model: Option<&Path>, config: &aieng_engine_config) -> Result<Client, Outcome> {
    let path = model.map(|path| CString::new(path.as_os_str().as_encoded_bytes()).expect("no NUL"));
    let mut engine = std::ptr::null_mut();
    let path = path.as_ref().map_or(std::ptr::null(), |path| path.as_ptr());
    // SAFETY: a path or NULL, a struct and room for a handle.
    match outcome(unsafe { aieng_engine_create(path, config, &mut engine) }) {
        Outcome::Done => Ok(Client(engine)),
        other => Err(other),
    }
}

impl Client {
    /// Continues a text with so many tokens.
    pub fn generate(&self, text: &str, max_tokens: u32) -> Outcome {
        let sampling = aieng_sampling { max_tokens, flags: AIENG_SAMPLING_IGNORE_EOS, ..zero() };
        self.run(text, zero(), sampling)
    }

    /// Runs a request to its end; an end for want of memory is one of the outcomes.
    pub fn run(&self, text: &str, request: aieng_request, sampling: aieng_sampling) -> Outcome {
        let request =
            aieng_request { text: text.as_ptr().cast(), text_length: text.len(), sampling: &sampling, ..request };
        let mut id = 0;
        // SAFETY: the structs and the text live through the call.
        match outcome(unsafe { aieng_submit(self.0, &request, &mut id) }) {
            Outcome::Done => self.wait(id),
            other => other,
        }
    }

    fn wait(&self, id: u64) -> Outcome {
        let mut events: [aieng_event; 2048] = std::array::from_fn(|_| zero());
        let (mut count, mut result) = (0, Outcome::Done);
        let mut ended = false;
        while !ended {
            // SAFETY: an array in order, and room for the count.
            let status = unsafe { aieng_next(self.0, events.as_mut_ptr(), events.len(), 60_000, &mut count) };
            match outcome(status) {
                Outcome::Done => {}
                // Nothing is lost by that: the events are still there.
                Outcome::NoMemory => continue,
                other => return other,
            }
            for event in events[..count].iter().filter(|event| event.request_id == id) {
                ended |= event.flags & AIENG_EVENT_LAST != 0;
                // SAFETY: NULL, or there until the next call.
                let Some(finish) = (unsafe { event.finish.as_ref() }) else { continue };
                if finish.reason == AIENG_FINISH_ERROR {
                    // SAFETY: as above, and it ends in NUL.
                    let message = unsafe { CStr::from_ptr(finish.message) }.to_string_lossy().into_owned();
                    result = if message.contains("no memory") { Outcome::NoMemory } else { Outcome::Other(message) };
                }
            }
        }
        // SAFETY: the same array.
        assert_eq!(outcome(unsafe { aieng_events_clear(events.as_mut_ptr()) }), Outcome::Done);
        result
    }

    /// Tokens of a text, into a buffer that has room for them, and their text.
    pub fn tokenize_and_back(&self, text: &str, ids: &mut [u32]) -> Outcome {
        let (mut count, mut length) = (0, 0);
        // SAFETY: the text and the buffer live through the calls, and the lengths are theirs; no buffer is given for the text.
        unsafe {
            let (at, room) = (ids.as_mut_ptr(), ids.len());
            match outcome(aieng_tokenize(self.0, text.as_ptr().cast(), text.len(), 0, at, room, &mut count)) {
                Outcome::Done => outcome(aieng_detokenize(self.0, at, count, 0, std::ptr::null_mut(), 0, &mut length)),
                other => other,
            }
        }
    }

    /// Renders a conversation in JSON.
    pub fn render(&self, json: &str) -> Outcome {
        let request = aieng_request { chat_json: json.as_ptr().cast(), chat_json_length: json.len(), ..zero() };
        let mut length = 0;
        // SAFETY: the struct and the text live through the call; no buffer is given.
        outcome(unsafe { aieng_render(self.0, &request, std::ptr::null_mut(), 0, &mut length) })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // SAFETY: any handle will do.
        assert_eq!(outcome(unsafe { aieng_engine_destroy(self.0) }), Outcome::Done);
    }
}

/// The path of the small model, or `None` after saying that `test` is skipped.
pub fn model(test: &str) -> Option<PathBuf> {
    let home = std::env::var_os("AIENG_HOME").map(PathBuf::from);
    let path = home.map(|home| home.join("models/smollm2-135m.gguf")).filter(|path| path.is_file());
    if path.is_none() {
        eprintln!("SKIPPED: {test}: no smollm2-135m.gguf in $AIENG_HOME/models");
    }
    path
}
