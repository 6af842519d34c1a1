//! Token ids of a prompt: plain text, or a conversation in the model's chat format.

use crate::failure::Result;
use aieng_runtime::TokenId;
use aieng_runtime::chat::{ChatTemplate, Message};
use aieng_runtime::tokenizer::Tokenizer;

/// Text as it is, after BOS where the model wants one. Spellings of special tokens count, so that a prompt can be
/// written in any chat format by hand.
pub fn raw(tokenizer: &Tokenizer, text: &str) -> Result<Vec<TokenId>> {
    Ok(tokenizer.encode(text, true, true)?)
}

/// A conversation that ends where the assistant's turn begins. Some templates write BOS and some leave it to the
/// tokenizer's metadata: it is there once either way.
pub fn conversation(tokenizer: &Tokenizer, template: &ChatTemplate, messages: &[Message]) -> Result<Vec<TokenId>> {
    let mut ids = tokenizer.encode(&template.render(messages, true)?, false, true)?;
    if let (true, Some(bos)) = (tokenizer.adds_bos(), tokenizer.bos())
        && ids.first() != Some(&bos)
    {
        ids.insert(0, bos);
    }
    Ok(ids)
}

/// One turn.
pub fn message(role: &str, content: impl Into<String>) -> Message {
    Message { role: role.to_owned(), content: content.into() }
}
