//! Section "Text": tokens, text and prompts, in buffers of the caller's.

use crate::abi::*;
use crate::engine::Entry;
use crate::guard;
use crate::input::{check_buffer, fill, fill_text, invalid, known_flags, read, reserve, slice, text};
use crate::request::rendered;
use aieng_runtime::{Result, TokenId};
use std::ffi::c_char;

/// Body of an export that fills the caller's buffer with what `make` gives, which is not asked where there is none.
///
/// # Safety
/// `text` is NULL or has room for `capacity` bytes, `text_length` is NULL or has room for a length.
pub(crate) unsafe fn fill_with(
    engine: *mut aieng_engine,
    text: *mut c_char,
    capacity: usize,
    text_length: *mut usize,
    make: impl FnOnce(&Entry) -> Result<String>,
) -> aieng_status {
    guard::call_engine(engine, |entry| {
        check_buffer("text", text, capacity, text_length)?;
        // SAFETY: passed on.
        unsafe { fill_text(text, capacity, text_length, &make(entry)?) }?;
        Ok(AIENG_OK)
    })
}

/// See include/aieng.h.
///
/// # Safety
/// As C has it: each pointer is NULL or points to what the header says, and nobody changes it during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aieng_tokenize(
    engine: *mut aieng_engine,
    text_: *const c_char,
    text_length: usize,
    flags: u32,
    token_ids: *mut u32,
    capacity: usize,
    count: *mut usize,
) -> aieng_status {
    guard::call_engine(engine, |entry| {
        known_flags("flags", flags, AIENG_TOKENIZE_BOS | AIENG_TOKENIZE_PARSE_SPECIAL)?;
        check_buffer("token_ids", token_ids, capacity, count)?;
        // SAFETY: passed on.
        let text = unsafe { text("text", text_, text_length) }?;
        let has = |flag| flags & flag != 0;
        let ids = entry.engine.tokenizer().encode(text, has(AIENG_TOKENIZE_BOS), has(AIENG_TOKENIZE_PARSE_SPECIAL))?;
        // SAFETY: passed on; a `TokenId` is its number.
        unsafe { fill("token_ids", token_ids.cast::<TokenId>(), capacity, count, &ids) }?;
        Ok(AIENG_OK)
    })
}

/// See include/aieng.h.
///
/// # Safety
/// As C has it: each pointer is NULL or points to what the header says, and nobody changes it during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aieng_detokenize(
    engine: *mut aieng_engine,
    token_ids: *const u32,
    token_count: usize,
    flags: u32,
    text: *mut c_char,
    capacity: usize,
    text_length: *mut usize,
) -> aieng_status {
    let make = |entry: &Entry| {
        known_flags("flags", flags, AIENG_DETOKENIZE_SPECIAL)?;
        // SAFETY: passed on.
        let given = unsafe { slice("token_ids", token_ids, token_count) }?;
        let tokenizer = entry.engine.tokenizer();
        if let Some(id) = given.iter().find(|id| **id as usize >= tokenizer.vocab_size()) {
            let size = tokenizer.vocab_size();
            return Err(invalid(format!("token_ids: token {id} is outside the vocabulary of {size}")));
        }
        let mut ids = Vec::new();
        reserve("token_ids", &mut ids, given.len())?;
        ids.extend(given.iter().map(|id| TokenId(*id)));
        tokenizer.decode(&ids, flags & AIENG_DETOKENIZE_SPECIAL != 0)
    };
    // SAFETY: passed on.
    unsafe { fill_with(engine, text, capacity, text_length, make) }
}

/// See include/aieng.h.
///
/// # Safety
/// As C has it: each pointer is NULL or points to what the header says, and nobody changes it during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aieng_render(
    engine: *mut aieng_engine,
    request: *const aieng_request,
    text: *mut c_char,
    capacity: usize,
    text_length: *mut usize,
) -> aieng_status {
    // SAFETY: NULL or a struct of the size it begins with, whose pointers are as the header says; the buffer is passed on.
    unsafe {
        fill_with(engine, text, capacity, text_length, |entry| rendered(&entry.engine, &read("request", request)?))
    }
}
