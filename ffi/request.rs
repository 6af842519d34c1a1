//! Section "Requests": prompts in three forms, sampling, submit and cancel.

use crate::abi::*;
use crate::guard;
use crate::input::{STRLEN, flag, invalid, known_flags, owned, read, read_all, reserve, slice, text};
use aieng_runtime::chat::Message;
use aieng_runtime::engine::{Engine, Request, RequestId};
use aieng_runtime::sampling::SamplingParams;
use aieng_runtime::{Error, Result, TokenId};
use std::ffi::c_char;

/// Copies an array, refusing more than `most` elements.
///
/// # Safety
/// As for [`slice()`].
unsafe fn list<T: Copy>(name: &str, at: *const T, count: usize, most: usize) -> Result<Vec<T>> {
    if count > most {
        return Err(invalid(format!("{name}: {count}, at most {most} allowed")));
    }
    // SAFETY: passed on.
    let values = unsafe { slice(name, at, count) }?;
    let mut copy = Vec::new();
    reserve(name, &mut copy, count)?;
    copy.extend_from_slice(values);
    Ok(copy)
}

/// The prompt's tokens, from the one of three forms that is there.
///
/// # Safety
/// The request's pointers are NULL or point to what the header says.
unsafe fn prompt(engine: &Engine, request: &aieng_request) -> Result<Vec<TokenId>> {
    known_flags("request.flags", request.flags, AIENG_REQUEST_PARSE_SPECIAL)?;
    let forms = [
        ("token_ids", request.token_ids.is_null(), request.token_count),
        ("text", request.text.is_null(), request.text_length),
        ("messages", request.messages.is_null(), request.message_count),
    ];
    for (name, null, count) in forms {
        if null && count != 0 {
            return Err(invalid(format!("request.{name}: NULL, but its count is not 0")));
        }
    }
    if forms.iter().filter(|(_, null, _)| !null).count() != 1 {
        return Err(invalid("request: exactly one of token_ids, text and messages is not NULL".into()));
    }
    if !request.token_ids.is_null() {
        // SAFETY: passed on.
        let ids = unsafe { list("request.token_ids", request.token_ids, request.token_count, engine.context()) }?;
        return Ok(ids.into_iter().map(TokenId).collect());
    }
    if !request.text.is_null() {
        // SAFETY: passed on.
        let text = unsafe { text("request.text", request.text, request.text_length) }?;
        return engine.tokenizer().encode(text, true, request.flags & AIENG_REQUEST_PARSE_SPECIAL != 0);
    }
    // SAFETY: passed on.
    conversation(engine, &unsafe { messages(request) }?)
}

/// Copies of the request's messages.
///
/// # Safety
/// As for [`prompt`].
unsafe fn messages(request: &aieng_request) -> Result<Vec<Message>> {
    // SAFETY: passed on.
    let given = unsafe { read_all("request.messages", request.messages, request.message_count) }?;
    let mut messages = Vec::new();
    reserve("request.messages", &mut messages, given.len())?;
    for (i, message) in given.iter().enumerate() {
        if message.reserved != 0 {
            return Err(invalid(format!("request.messages[{i}].reserved: {}, not 0", message.reserved)));
        }
        let role = format!("request.messages[{i}].role");
        let content = format!("request.messages[{i}].content");
        // SAFETY: passed on.
        let (role_text, content_text) = unsafe {
            (text(&role, message.role, message.role_length)?, text(&content, message.content, message.content_length)?)
        };
        messages.push(Message { role: owned(&role, role_text)?, content: owned(&content, content_text)? });
    }
    Ok(messages)
}

/// Token ids of a conversation. Some templates write BOS themselves and some leave it to the tokenizer: it is there once.
fn conversation(engine: &Engine, messages: &[Message]) -> Result<Vec<TokenId>> {
    let template = engine.chat_template().ok_or_else(|| {
        Error::Unsupported("request.messages: the model's file has no chat template; use text or token_ids".into())
    })?;
    engine.tokenizer().encode(&template.render(messages, true)?, true, true)
}

/// Sampling parameters; ranges are the runtime's to check.
///
/// # Safety
/// The pointers are NULL or point to what the header says.
unsafe fn sampling(given: &aieng_sampling) -> Result<SamplingParams> {
    let or = |value: f32, default: f32| if value == 0.0 { default } else { value };
    let default = SamplingParams::default();
    let logprobs = flag("sampling.logprobs", given.logprobs)?;
    if !logprobs && given.top_logprobs != 0 {
        return Err(invalid(format!("sampling.top_logprobs: {}, but logprobs is 0", given.top_logprobs)));
    }
    // SAFETY: passed on.
    let (bias_ids, bias_values, stop_ids) = unsafe {
        (
            list("sampling.logit_bias_ids", given.logit_bias_ids, given.logit_bias_count, 1024)?,
            list("sampling.logit_bias_values", given.logit_bias_values, given.logit_bias_count, 1024)?,
            list("sampling.stop_token_ids", given.stop_token_ids, given.stop_token_count, 64)?,
        )
    };
    Ok(SamplingParams {
        temperature: given.temperature,
        top_k: given.top_k,
        top_p: or(given.top_p, default.top_p),
        min_p: given.min_p,
        repetition_penalty: or(given.repetition_penalty, default.repetition_penalty),
        presence_penalty: given.presence_penalty,
        frequency_penalty: given.frequency_penalty,
        logit_bias: bias_ids.into_iter().map(TokenId).zip(bias_values).collect(),
        seed: given.seed,
        // SAFETY: passed on.
        stop: unsafe { stops(given) }?,
        stop_token_ids: stop_ids.into_iter().map(TokenId).collect(),
        min_tokens: 0,
        max_tokens: if given.max_tokens == 0 { default.max_tokens } else { given.max_tokens },
        ignore_eos: flag("sampling.ignore_eos", given.ignore_eos)?,
        logprobs: logprobs.then_some(given.top_logprobs),
    })
}

/// Stop strings.
///
/// # Safety
/// As for [`sampling`].
unsafe fn stops(given: &aieng_sampling) -> Result<Vec<String>> {
    // SAFETY: passed on.
    let strings: Vec<*const c_char> = unsafe { list("sampling.stop", given.stop, given.stop_count, 64) }?;
    let lengths = match given.stop_lengths.is_null() {
        true => vec![STRLEN; strings.len()],
        // SAFETY: passed on.
        false => unsafe { list("sampling.stop_lengths", given.stop_lengths, given.stop_count, 64) }?,
    };
    let mut stops = Vec::with_capacity(strings.len());
    for (i, (string, length)) in strings.into_iter().zip(lengths).enumerate() {
        let name = format!("sampling.stop[{i}]");
        // SAFETY: passed on.
        stops.push(owned(&name, unsafe { text(&name, string, length) }?)?);
    }
    Ok(stops)
}

/// See include/aieng.h.
///
/// # Safety
/// As C has it: each pointer is NULL or points to what the header says, and nobody changes it during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aieng_submit(
    engine: *mut aieng_engine,
    request: *const aieng_request,
    request_id: *mut u64,
) -> aieng_status {
    guard::call_engine(engine, |engine| {
        // SAFETY: NULL or a struct of the size it begins with.
        let request = unsafe { read("request", request) }?;
        if request_id.is_null() {
            return Err(invalid("request_id: NULL".into()));
        }
        let sampling = if request.sampling.is_null() {
            // SAFETY: integers, floats and NULL.
            unsafe { sampling(&std::mem::zeroed()) }?
        } else {
            // SAFETY: as for the request, and so are the pointers in it.
            unsafe { sampling(&read("sampling", request.sampling)?) }?
        };
        // SAFETY: the request's pointers are as the header says.
        let prompt = unsafe { prompt(engine, &request) }?;
        let RequestId(id) = engine.submit(Request::new(prompt, sampling))?;
        // SAFETY: not NULL, so there is room for an id.
        unsafe { request_id.write_unaligned(id) };
        Ok(AIENG_OK)
    })
}

/// See include/aieng.h.
///
/// # Safety
/// Any arguments will do.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aieng_cancel(engine: *mut aieng_engine, request_id: u64) -> aieng_status {
    guard::call_engine(engine, |engine| engine.cancel(RequestId(request_id)).map(|()| AIENG_OK))
}
