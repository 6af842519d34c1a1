//! Special tokens: finding them in a prompt, and which of them end a generation.

use super::vocab::{Kind, Vocab};
use crate::load::Metadata;
use crate::{Result, TokenId, memory};
use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";

/// Total spelling of special tokens, in bytes. Gemma 3's 6,400 take 77 KB; the bound keeps a hostile file from turning
/// its whole vocabulary into an automaton of many times its size.
const MAX_SPECIAL_BYTES: usize = 2 << 20;

/// Keys that name a token which ends a generation.
const STOP_KEYS: [&str; 3] =
    ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

/// Tokens that end a turn or a document, by name: metadata often tells only one of them.
const STOP_NAMES: &[&str] = &[
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
];

/// The same where the file marks them as control tokens; Gemma, for one, has `</s>` as HTML.
const STOP_CONTROL_NAMES: &[&str] = &[
    "</s>",
    "<eos>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    // A model of code writes these after the file that it was asked to fill in.
    "<|fim_pad|>",
    "<fim_pad>",
    "<fim-pad>",
    "<|repo_name|>",
    "<|fim_repo|>",
    "<reponame>",
    "<|file_sep|>",
];

/// The token that `key` names, if the key is there.
pub(super) fn token_of_key(metadata: &Metadata, key: &str, vocab: &Vocab) -> Result<Option<TokenId>> {
    match metadata.u32(key)? {
        Some(id) if id as usize >= vocab.len() => {
            Err(metadata.error(key, format!("token {id} is outside the vocabulary of {} tokens", vocab.len())))
        }
        id => Ok(id.map(TokenId)),
    }
}

/// Tokens that end a generation, in ascending order. Those of an unmistakable name become control tokens, whatever kind
/// the file gives them: conversions of fine-tuned models often get it wrong.
pub(super) fn stop_tokens(metadata: &Metadata, vocab: &mut Vocab) -> Result<Vec<TokenId>> {
    let mut stops = Vec::new();
    for key in STOP_KEYS {
        stops.extend(token_of_key(metadata, key, vocab)?);
    }
    for id in STOP_NAMES.iter().filter_map(|name| vocab.find(name)).collect::<Vec<_>>() {
        vocab.set_kind(id, Kind::Control);
        stops.push(TokenId(id));
    }
    let control = |id: &u32| vocab.kind(*id) == Kind::Control;
    stops.extend(STOP_CONTROL_NAMES.iter().filter_map(|name| vocab.find(name)).filter(control).map(TokenId));
    stops.sort_unstable();
    stops.dedup();
    Ok(stops)
}

/// A prompt's parts, in order.
pub(super) enum Part<'t> {
    /// Text to be tokenized; never empty.
    Text(&'t str),
    /// A special token that stood in the prompt.
    Token(u32),
}

/// Finds the spellings of special tokens, leftmost first and of those that begin together the longest.
pub(super) struct Specials {
    /// User-defined tokens, which are part of any text.
    always: Option<Finder>,
    /// These and the control tokens.
    parsed: Option<Finder>,
}

struct Finder {
    automaton: AhoCorasick,
    ids: Vec<u32>,
}

impl Specials {
    pub(super) fn new(metadata: &Metadata, vocab: &Vocab) -> Result<Specials> {
        Ok(Specials {
            always: Finder::new(metadata, vocab, &[Kind::UserDefined])?,
            parsed: Finder::new(metadata, vocab, &[Kind::UserDefined, Kind::Control, Kind::Unknown])?,
        })
    }

    /// Calls `part` for each part of `text`, until one is an error; control tokens are found only with `parse_special`.
    pub(super) fn partition<'t>(
        &self,
        text: &'t str,
        parse_special: bool,
        mut part: impl FnMut(Part<'t>) -> Result<()>,
    ) -> Result<()> {
        let mut at = 0;
        if let Some(finder) = if parse_special { &self.parsed } else { &self.always } {
            for found in finder.automaton.find_iter(text) {
                if found.start() > at {
                    part(Part::Text(&text[at..found.start()]))?;
                }
                part(Part::Token(finder.ids[found.pattern().as_usize()]))?;
                at = found.end();
            }
        }
        if at < text.len() { part(Part::Text(&text[at..])) } else { Ok(()) }
    }
}

impl Finder {
    fn new(metadata: &Metadata, vocab: &Vocab, kinds: &[Kind]) -> Result<Option<Finder>> {
        let mut ids = vocab.of_kind(kinds)?;
        ids.retain(|&id| !vocab.text(id).is_empty());
        if ids.is_empty() {
            return Ok(None);
        }
        let bytes: usize = ids.iter().map(|&id| vocab.text(id).len()).sum();
        if bytes > MAX_SPECIAL_BYTES {
            let what = format!("special tokens of {bytes} bytes, at most {MAX_SPECIAL_BYTES} are allowed");
            return Err(metadata.error(TOKEN_TYPE, what));
        }
        // Some forty bytes a state, and a state for each byte.
        memory::probe("special tokens", 64 * bytes)?;
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(ids.iter().map(|&id| vocab.text(id)))
            .map_err(|e| metadata.error(TOKEN_TYPE, format!("special tokens: {e}")))?;
        Ok(Some(Finder { automaton, ids }))
    }
}
