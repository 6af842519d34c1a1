//! Section "Requests": prompts in four forms, sampling, submit and cancel.

use crate::abi::*;
use crate::guard;
use crate::input::{STRLEN, invalid, known_flags, or, owned, read, read_all, reserve, slice, text, zero};
use aieng_runtime::chat::Message;
use aieng_runtime::engine::{Engine, Request, RequestId};
use aieng_runtime::sampling::SamplingParams;
use aieng_runtime::{Error, Result, TokenId};
use std::ffi::c_char;
use std::time::Duration;

/// All flags of a request.
const FLAGS: u32 = AIENG_REQUEST_PARSE_SPECIAL
    | AIENG_REQUEST_ECHO
    | AIENG_REQUEST_PROMPT_LOGPROBS
    | AIENG_REQUEST_SCORE
    | AIENG_REQUEST_NO_PREFIX_CACHE;

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

/// Refuses what is longer than any prompt of `engine` can be. So what a request makes us allocate, text that a template
/// works on included, is bounded by the engine's context.
fn check_length(engine: &Engine, name: &str, bytes: usize) -> Result<()> {
    let most = engine.context().saturating_mul(engine.tokenizer().max_token_bytes());
    if bytes > most {
        let context = engine.context();
        return Err(invalid(format!(
            "{name}: {bytes} bytes cannot fit a context of {context} tokens (at most {most})"
        )));
    }
    Ok(())
}

/// Refuses flags, and prompts in other than one of the four forms.
fn check_forms(request: &aieng_request) -> Result<()> {
    known_flags("request.flags", request.flags, FLAGS)?;
    let forms = [
        ("token_ids", request.token_ids.is_null(), request.token_count),
        ("text", request.text.is_null(), request.text_length),
        ("messages", request.messages.is_null(), request.message_count),
        ("chat_json", request.chat_json.is_null(), request.chat_json_length),
    ];
    for (name, null, count) in forms {
        if null && count != 0 {
            return Err(invalid(format!("request.{name}: NULL, but its count is not 0")));
        }
    }
    match forms.iter().filter(|(_, null, _)| !null).count() {
        1 => Ok(()),
        n => {
            Err(invalid(format!("request: exactly one of token_ids, text, messages and chat_json is wanted, not {n}")))
        }
    }
}

/// The prompt's tokens.
///
/// # Safety
/// The request's pointers are NULL or point to what the header says.
unsafe fn prompt(engine: &Engine, request: &aieng_request) -> Result<Vec<TokenId>> {
    check_forms(request)?;
    if !request.token_ids.is_null() {
        // SAFETY: passed on; a `TokenId` is its number.
        return unsafe { list("request.token_ids", request.token_ids.cast(), request.token_count, engine.context()) };
    }
    if !request.text.is_null() {
        // SAFETY: passed on.
        let text = unsafe { text("request.text", request.text, request.text_length) }?;
        check_length(engine, "request.text", text.len())?;
        return engine.tokenizer().encode(text, true, request.flags & AIENG_REQUEST_PARSE_SPECIAL != 0);
    }
    // Some templates write BOS themselves and some leave it to the tokenizer: it is there once.
    // SAFETY: passed on.
    engine.tokenizer().encode(&unsafe { rendered(engine, request) }?, true, true)
}

/// The prompt that the chat template makes of the request's conversation.
///
/// # Safety
/// As for [`prompt`].
pub(crate) unsafe fn rendered(engine: &Engine, request: &aieng_request) -> Result<String> {
    check_forms(request)?;
    if request.messages.is_null() && request.chat_json.is_null() {
        return Err(invalid("request: has neither messages nor chat_json".into()));
    }
    let template = engine.chat_template().ok_or_else(|| {
        Error::Unsupported("request: the model's file has no chat template; use text or token_ids".into())
    })?;
    if !request.chat_json.is_null() {
        // SAFETY: passed on.
        let json = unsafe { text("request.chat_json", request.chat_json, request.chat_json_length) }?;
        check_length(engine, "request.chat_json", json.len())?;
        return template.render_json(json);
    }
    // SAFETY: passed on.
    let messages = unsafe { messages(request, &|bytes| check_length(engine, "request.messages", bytes)) }?;
    template.render(&messages, true)
}

/// Copies of the request's messages, whose bytes so far are checked before each is copied.
///
/// # Safety
/// As for [`prompt`].
unsafe fn messages(request: &aieng_request, check: &dyn Fn(usize) -> Result<()>) -> Result<Vec<Message>> {
    // SAFETY: passed on.
    let given = unsafe { read_all("request.messages", request.messages, request.message_count) }?;
    let (mut messages, mut bytes) = (Vec::new(), 0usize);
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
        // A message costs its template something even if it is empty.
        bytes = bytes.saturating_add(role_text.len()).saturating_add(content_text.len()).saturating_add(1);
        check(bytes)?;
        messages.push(Message { role: owned(&role, role_text)?, content: owned(&content, content_text)? });
    }
    Ok(messages)
}

/// Sampling parameters; ranges are the runtime's to check.
///
/// # Safety
/// The pointers are NULL or point to what the header says.
unsafe fn sampling(given: &aieng_sampling) -> Result<SamplingParams> {
    let default = SamplingParams::default();
    known_flags("sampling.flags", given.flags, AIENG_SAMPLING_IGNORE_EOS | AIENG_SAMPLING_LOGPROBS)?;
    let logprobs = given.flags & AIENG_SAMPLING_LOGPROBS != 0;
    if !logprobs && given.top_logprobs != 0 {
        return Err(invalid(format!("sampling.top_logprobs: {}, but the flag is not set", given.top_logprobs)));
    }
    // SAFETY: passed on; a `TokenId` is its number.
    let (bias_ids, bias_values, stop_token_ids) = unsafe {
        (
            list::<TokenId>("sampling.logit_bias_ids", given.logit_bias_ids.cast(), given.logit_bias_count, 1024)?,
            list("sampling.logit_bias_values", given.logit_bias_values, given.logit_bias_count, 1024)?,
            list::<TokenId>("sampling.stop_token_ids", given.stop_token_ids.cast(), given.stop_token_count, 64)?,
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
        logit_bias: bias_ids.into_iter().zip(bias_values).collect(),
        seed: given.seed,
        // SAFETY: passed on.
        stop: unsafe { stops(given) }?,
        stop_token_ids,
        min_tokens: given.min_tokens,
        max_tokens: or(given.max_tokens, default.max_tokens),
        ignore_eos: given.flags & AIENG_SAMPLING_IGNORE_EOS != 0,
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

/// All but the prompt of a request.
///
/// # Safety
/// As for [`prompt`].
unsafe fn parameters(request: &aieng_request) -> Result<Request> {
    let has = |flag: u32| request.flags & flag != 0;
    // SAFETY: NULL or a struct of the size it begins with, and so are the pointers in it.
    let mut sampling = unsafe {
        if request.sampling.is_null() { sampling(&zero()) } else { sampling(&read("sampling", request.sampling)?) }
    }?;
    let scored = has(AIENG_REQUEST_PROMPT_LOGPROBS) || has(AIENG_REQUEST_SCORE);
    if has(AIENG_REQUEST_SCORE) {
        (sampling.max_tokens, sampling.min_tokens) = (0, 0);
    }
    if !scored && request.prompt_top_logprobs != 0 {
        let top = request.prompt_top_logprobs;
        return Err(invalid(format!("request.prompt_top_logprobs: {top}, but the flag is not set")));
    }
    Ok(Request {
        n: or(request.n, 1),
        best_of: request.best_of,
        priority: request.priority,
        tenant: request.tenant,
        deadline: (request.deadline_ms != 0).then(|| Duration::from_millis(request.deadline_ms.into())),
        echo: has(AIENG_REQUEST_ECHO),
        prompt_logprobs: scored.then_some(request.prompt_top_logprobs),
        prefix_cache: !has(AIENG_REQUEST_NO_PREFIX_CACHE),
        user_data: request.user_data,
        ..Request::new(Vec::new(), sampling)
    })
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
    guard::call_engine(engine, |entry| {
        // SAFETY: NULL or a struct of the size it begins with.
        let request = unsafe { read("request", request) }?;
        if request_id.is_null() {
            return Err(invalid("request_id: NULL".into()));
        }
        // SAFETY: the request's pointers are as the header says.
        let request = unsafe { Request { prompt: prompt(&entry.engine, &request)?, ..parameters(&request)? } };
        let RequestId(id) = entry.engine.submit(request)?;
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
    guard::call_engine(engine, |entry| entry.engine.cancel(RequestId(request_id)).map(|()| AIENG_OK))
}
