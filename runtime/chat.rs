//! Chat templates: a conversation becomes the prompt text that the model was trained on.

use crate::load::Metadata;
use crate::{Error, Result};

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// "system", "user" or "assistant".
    pub role: String,
    /// Text.
    pub content: String,
}

/// A model's chat template (Jinja), run with bounded fuel, so that a hostile model file cannot hang the host.
#[derive(Debug)]
pub struct ChatTemplate;

impl ChatTemplate {
    /// The template in the metadata, if there is one.
    pub fn from_metadata(_metadata: &Metadata) -> Result<Option<ChatTemplate>> {
        Err(Error::Internal("not yet".into()))
    }

    /// The prompt for `messages`; `add_generation_prompt` opens the assistant's turn.
    pub fn render(&self, _messages: &[Message], _add_generation_prompt: bool) -> Result<String> {
        Err(Error::Internal("not yet".into()))
    }
}
