//! One request in the foreground, from its prompt to its last event: text goes out as it comes, Ctrl-C cancels.

use crate::failure::{Failure, Result};
use crate::interrupt;
use aieng_runtime::TokenId;
use aieng_runtime::chat::{ChatTemplate, Message};
use aieng_runtime::engine::{Engine, Event, Finish, FinishReason, Logprobs, Request};
use std::io;
use std::time::Duration;

/// How soon Ctrl-C is noticed while the engine is silent.
const INTERRUPT_POLL: Duration = Duration::from_millis(50);

/// Everything that a request produced.
#[derive(Debug)]
pub struct Generation {
    /// All text.
    pub text: String,
    /// The generated tokens, the one that ended it included.
    pub token_ids: Vec<TokenId>,
    /// One for each token, if they were asked for.
    pub logprobs: Vec<Logprobs>,
    /// How it ended.
    pub finish: Finish,
}

/// Token ids of a plain prompt. Spellings of special tokens count, so that it can be written in any chat format by hand.
pub fn raw_prompt(engine: &Engine, text: &str) -> Result<Vec<TokenId>> {
    Ok(engine.tokenizer().encode(text, true, true)?)
}

/// Token ids of a conversation that ends where the assistant's turn begins.
pub fn chat_prompt(engine: &Engine, template: &ChatTemplate, messages: &[Message]) -> Result<Vec<TokenId>> {
    raw_prompt(engine, &template.render(messages, true)?)
}

/// Runs `request` alone and hands each piece of text to `on_text`; when that fails the request is cancelled. After
/// Ctrl-C the result holds what was generated until then, with [`FinishReason::Cancelled`].
pub fn generate(
    engine: &Engine,
    request: Request,
    on_text: &mut dyn FnMut(&str) -> io::Result<()>,
) -> Result<Generation> {
    let interrupt = interrupt::watch();
    let id = engine.submit(request)?;
    let (mut text, mut token_ids, mut logprobs) = (String::new(), Vec::new(), Vec::new());
    let mut failure = None;
    let mut cancelled = false;
    loop {
        if !cancelled && (failure.is_some() || interrupt.requested()) {
            engine.cancel(id)?;
            cancelled = true;
        }
        let Some(event) = engine.next(Some(INTERRUPT_POLL))? else { continue };
        let Event { request, token, logprobs: token_logprobs, text: piece, finish, .. } = event;
        if request != id {
            continue;
        }
        token_ids.extend(token);
        logprobs.extend(token_logprobs);
        if !piece.is_empty() && failure.is_none() {
            failure = on_text(&piece).err();
        }
        text.push_str(&piece);
        let Some(finish) = finish else { continue };
        return match (failure, finish.reason) {
            (Some(e), _) => Err(e.into()),
            (None, FinishReason::Error) => {
                Err(Failure::Failed(finish.message.unwrap_or_else(|| "the engine failed and did not say why".into())))
            }
            (None, _) => Ok(Generation { text, token_ids, logprobs, finish: *finish }),
        };
    }
}

/// The name of a reason in JSON.
pub fn reason_name(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Cancelled => "cancelled",
        FinishReason::Deadline => "deadline",
        FinishReason::Error => "error",
    }
}
