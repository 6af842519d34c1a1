//! Chat templates: a conversation becomes the prompt text that the model was trained on.
//!
//! The template comes with the model file, in Jinja as Hugging Face's `apply_chat_template` runs it (trimmed blocks,
//! Python's string methods, `raise_exception`, `strftime_now`, `tojson`). It is a program by a stranger: it runs on fuel,
//! which bounds its instructions and allocations, with guards that bound the values it makes, and on a thread of its
//! own, whose stack does not depend on the host. So it cannot hang or end the host.

mod functions;
mod guard;
mod json;
#[cfg(test)]
mod tests;

use crate::load::Metadata;
use crate::{Error, Result, memory};
use functions::Refusal;
use minijinja::machinery::{eval, make_string_output};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Value, context};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const TEMPLATE: &str = "tokenizer.chat_template";
const TOKENS: &str = "tokenizer.ggml.tokens";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";

/// Longest template accepted, in bytes: the longest known have some 30 KB, and the engine counts columns in 16 bits.
const MAX_TEMPLATE_BYTES: usize = u16::MAX as usize;

/// Fuel of one rendering: an instruction costs one unit, and so do 64 bytes of data. Known templates take some thousand
/// units, a few hundred more per message, and pass over each message's text a few times.
const FUEL: usize = 50_000;
const FUEL_PER_MESSAGE: usize = 1000;
const BYTES_PER_FUEL: usize = 8;
/// Bytes of data that a unit of fuel buys.
const DATA_PER_FUEL: usize = 64;
/// Bytes of memory that a byte of JSON can become: the shortest item of an array is two bytes.
const JSON_PER_BYTE: usize = 32;

/// Weight of the heaviest value, in items or 64 bytes of text. The messages themselves weigh some 6 each and their text.
const WEIGHT: usize = 20_000;
const WEIGHT_PER_MESSAGE: usize = 20;
const BYTES_PER_WEIGHT: usize = 16;

/// Stack of one rendering, of which the system commits what is touched. The hungriest template of the tests, thousands
/// of `elif`, takes less than a fourth.
const STACK_BYTES: usize = 16 << 20;

/// Levels of nested contexts; a call of a macro takes about five.
const MAX_RECURSION: usize = 200;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// "system", "user", "assistant", "tool" or what else the model's template knows.
    pub role: String,
    /// Text.
    pub content: String,
}

impl Message {
    /// A turn of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Message { role: role.into(), content: content.into() }
    }
}

/// A model's chat template (Jinja), run with bounded fuel, so that a hostile model file cannot hang the host.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    path: PathBuf,
    source: String,
    bos: Option<String>,
    eos: Option<String>,
}

impl ChatTemplate {
    /// The template in the metadata, if there is one. It is compiled when it is rendered, so that a model with a broken
    /// template can still complete raw text.
    pub fn from_metadata(metadata: &Metadata) -> Result<Option<ChatTemplate>> {
        let Some(source) = metadata.str(TEMPLATE)? else { return Ok(None) };
        if source.len() > MAX_TEMPLATE_BYTES {
            let what = format!("{} bytes, at most {MAX_TEMPLATE_BYTES} are allowed", source.len());
            return Err(metadata.error(TEMPLATE, what));
        }
        let token = |key| -> Result<Option<String>> {
            let (Some(id), Some(tokens)) = (metadata.u32(key)?, metadata.strings(TOKENS)?) else { return Ok(None) };
            let outside = || metadata.error(key, format!("token {id} is outside the vocabulary of {}", tokens.len()));
            Ok(Some(tokens.get(id as usize).ok_or_else(outside)?.to_owned()))
        };
        let (bos, eos) = (token(BOS)?, token(EOS)?);
        Ok(Some(ChatTemplate { path: metadata.path().to_owned(), source: memory::text(TEMPLATE, source)?, bos, eos }))
    }

    /// The prompt for `messages`; `add_generation_prompt` opens the assistant's turn. Tokenize it with special tokens
    /// parsed.
    ///
    /// Errors: [`Error::InvalidArgument`] where the template refuses the conversation (many want user and assistant to
    /// alternate), [`Error::ModelFormat`] where it is broken or takes too long.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.render_at(SystemTime::now(), messages, add_generation_prompt)
    }

    fn render_at(&self, now: SystemTime, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let bytes = messages.iter().map(|m| m.role.len() + m.content.len()).sum();
        let message = |m: &Message| context! { role => m.role.as_str(), content => m.content.as_str() };
        let conversation = context! {
            messages => messages.iter().map(message).collect::<Vec<_>>(),
            add_generation_prompt => add_generation_prompt,
        };
        self.render_context(now, Limits::of(messages.len(), bytes)?, conversation)
    }

    /// As [`ChatTemplate::render`], for a conversation in JSON: an array of messages, or an object that has it under
    /// "messages" with whatever else the template knows beside it ("tools", for example). The assistant's turn is opened
    /// unless "add_generation_prompt" is false.
    ///
    /// Errors: as [`ChatTemplate::render`]; [`Error::InvalidArgument`] for what is no such JSON.
    pub fn render_json(&self, json: &str) -> Result<String> {
        memory::probe("chat JSON", json.len().saturating_mul(JSON_PER_BYTE))?;
        let (messages, conversation) = json::conversation(json)?;
        self.render_context(SystemTime::now(), Limits::of(messages, json.len())?, conversation)
    }

    /// Renders with the context that all templates find, and `conversation` before it.
    fn render_context(&self, now: SystemTime, limits: Limits, conversation: Value) -> Result<String> {
        let token = |text: &Option<String>| text.as_deref().map_or(Value::UNDEFINED, Value::from);
        let common = context! {
            add_generation_prompt => true,
            tools => Value::from(()),
            documents => Value::from(()),
            bos_token => token(&self.bos),
            eos_token => token(&self.eos),
        };
        let context = context! { ..conversation, ..common };
        // Most often all that it takes; it grows by itself where a template writes more than it was given.
        let mut prompt = String::new();
        let room = BYTES_PER_WEIGHT * (limits.weight - WEIGHT) + self.source.len();
        prompt.try_reserve(room).map_err(|_| memory::missing::<u8>("prompt", room))?;
        let rendered = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("aieng-template".into()).stack_size(STACK_BYTES);
            thread.spawn_scoped(scope, || run(&self.source, limits, now, context, prompt)).map(|running| running.join())
        });
        match rendered {
            Ok(Ok(Ok(prompt))) => Ok(prompt),
            Ok(Ok(Err(error))) => Err(template_error(&self.path, &error)),
            Ok(Err(_)) => Err(Error::Internal(format!("{}: {TEMPLATE}: panic while rendering", self.path.display()))),
            Err(e) => Err(Error::OutOfMemory(format!("thread with {STACK_BYTES} bytes of stack for a template: {e}"))),
        }
    }
}

#[derive(Clone, Copy)]
struct Limits {
    fuel: u64,
    weight: usize,
}

impl Limits {
    /// For a conversation of so many messages and bytes. The engine of templates cannot be refused memory; so all that
    /// the fuel can buy is asked for beforehand, and given back.
    fn of(messages: usize, bytes: usize) -> Result<Limits> {
        let fuel = FUEL + messages * FUEL_PER_MESSAGE + bytes / BYTES_PER_FUEL;
        memory::probe("chat template", fuel * DATA_PER_FUEL)?;
        let weight = WEIGHT + messages * WEIGHT_PER_MESSAGE + bytes / BYTES_PER_WEIGHT;
        Ok(Limits { fuel: fuel as u64, weight })
    }
}

/// Renders with Jinja as Hugging Face sets it up.
fn run(
    source: &str,
    limits: Limits,
    now: SystemTime,
    context: Value,
    prompt: String,
) -> std::result::Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(limits.fuel));
    environment.set_recursion_limit(MAX_RECURSION);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.remove_global("debug");
    functions::add_to(&mut environment, now);
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    let instructions = guard::compile(&mut environment, TEMPLATE, source, syntax, limits.weight)?;
    let mut prompt = prompt;
    let (blocks, mut output) = (BTreeMap::new(), make_string_output(&mut prompt));
    eval(&environment, &instructions, context, &blocks, &mut output, AutoEscape::None)?;
    Ok(prompt)
}

/// The template's own refusals are about the conversation, all else about the file.
fn template_error(path: &Path, error: &minijinja::Error) -> Error {
    let mut causes = std::iter::successors(Some(error as &dyn std::error::Error), |e| e.source());
    match causes.find_map(|e| e.downcast_ref::<Refusal>()) {
        Some(refusal) => Error::InvalidArgument(format!("{}: {TEMPLATE}: {refusal}", path.display())),
        None => Error::format(path, format!("{TEMPLATE}: {error}")),
    }
}
