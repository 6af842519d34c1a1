//! The vocabulary: the text and kind of every token, and the way back from a text to its id.
//!
//! Texts are kept as the file spells them (byte-level BPE writes "Ġ" for a space, SentencePiece "▁"), because merges and
//! special tokens refer to that spelling. No two tokens share a spelling.

use crate::load::{Metadata, Strings};
use crate::{Error, Result, memory};
use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";

/// Longest spelling accepted, in bytes. Real vocabularies stay below 512; the bound keeps the cost of looking up a
/// piece of text, and with it that of encoding a long prompt, from growing with the square of what a file claims.
const MAX_TOKEN_BYTES: usize = 4096;

/// What a token is for (`tokenizer.ggml.token_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A piece of text.
    Normal,
    /// Stands for text that the vocabulary cannot spell.
    Unknown,
    /// Steers the model (`<|im_start|>`): matched in a prompt only on request, never shown as text.
    Control,
    /// A piece of text that is matched before any splitting.
    UserDefined,
    /// A hole in the table.
    Unused,
    /// One byte, spelled `<0x0A>`.
    Byte,
}

impl Kind {
    fn from_code(code: i32) -> Option<Kind> {
        Some(match code {
            0 | 5 => Kind::Unused,
            1 => Kind::Normal,
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            6 => Kind::Byte,
            _ => return None,
        })
    }
}

/// All tokens of a model.
pub(super) struct Vocab {
    texts: Strings,
    kinds: Vec<Kind>,
    /// Ids by spelling. The hash is seeded per process, so that a file cannot be made of collisions.
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    longest: usize,
}

impl Vocab {
    /// Reads tokens and their kinds (all normal where the file has no kinds).
    pub(super) fn from_metadata(metadata: &Metadata) -> Result<Vocab> {
        let texts = metadata.require(TOKENS, metadata.strings(TOKENS)?)?;
        if texts.is_empty() || i32::try_from(texts.len()).is_err() {
            return Err(metadata.error(TOKENS, format!("{} tokens", texts.len())));
        }
        let mut vocab = Vocab {
            texts: texts.try_clone()?,
            kinds: kinds(metadata, texts.len())?,
            index: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            longest: 0,
        };
        vocab
            .index
            .try_reserve(texts.len(), |_| 0)
            .map_err(|_| Error::OutOfMemory(format!("no memory for an index of {} tokens", texts.len())))?;
        for (id, text) in (0u32..).zip(texts.iter()) {
            if text.len() > MAX_TOKEN_BYTES {
                let what = format!("token {id} has {} bytes, at most {MAX_TOKEN_BYTES} are allowed", text.len());
                return Err(metadata.error(TOKENS, what));
            }
            if vocab.kinds[id as usize] == Kind::Byte && byte_of(text).is_none() {
                return Err(metadata.error(TOKENS, format!("byte token {id} is spelled {text:?}, not like \"<0x0A>\"")));
            }
            vocab.longest = vocab.longest.max(text.len());
            if let Some(first) = vocab.insert(id, text) {
                return Err(metadata.error(TOKENS, format!("{text:?} is both token {first} and token {id}")));
            }
        }
        Ok(vocab)
    }

    /// Enters a token into the index; returns the id that has the same spelling already. Nothing spells the empty text.
    fn insert(&mut self, id: u32, text: &str) -> Option<u32> {
        if text.is_empty() {
            return None;
        }
        let same = |other: &u32| self.texts.get(*other as usize) == Some(text);
        let rehash = |other: &u32| self.hasher.hash_one(self.texts.get(*other as usize).unwrap_or_default());
        match self.index.entry(self.hasher.hash_one(text), same, rehash) {
            hashbrown::hash_table::Entry::Occupied(first) => Some(*first.get()),
            hashbrown::hash_table::Entry::Vacant(free) => {
                free.insert(id);
                None
            }
        }
    }

    /// Number of tokens.
    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    /// Bytes of the longest spelling.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// The spelling of a token; empty for ids outside the vocabulary.
    pub(super) fn text(&self, id: u32) -> &str {
        self.texts.get(id as usize).unwrap_or_default()
    }

    /// The kind of a token; ids outside the vocabulary are unused.
    pub(super) fn kind(&self, id: u32) -> Kind {
        self.kinds.get(id as usize).copied().unwrap_or(Kind::Unused)
    }

    /// Changes the kind of a token that exists.
    pub(super) fn set_kind(&mut self, id: u32, kind: Kind) {
        self.kinds[id as usize] = kind;
    }

    /// The token with this spelling, whatever its kind.
    pub(super) fn find(&self, text: &str) -> Option<u32> {
        self.index.find(self.hasher.hash_one(text), |&id| self.texts.get(id as usize) == Some(text)).copied()
    }

    /// The token with this spelling that ordinary text may become: never a control token, so that no text steers the
    /// model by chance.
    pub(super) fn find_text(&self, text: &str) -> Option<u32> {
        self.find(text).filter(|&id| self.kind(id) != Kind::Control)
    }

    /// Ids of all tokens of the given kinds.
    pub(super) fn of_kind(&self, wanted: &[Kind]) -> Result<Vec<u32>> {
        let ids = || (0u32..).zip(&self.kinds).filter(|(_, kind)| wanted.contains(kind)).map(|(id, _)| id);
        memory::collect("special tokens", ids().count(), ids())
    }
}

/// The byte that a byte token's spelling, like `<0x0A>`, stands for.
pub(super) fn byte_of(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() == 2 { u8::from_str_radix(hex, 16).ok() } else { None }
}

fn kinds(metadata: &Metadata, tokens: usize) -> Result<Vec<Kind>> {
    let Some(codes) = metadata.i32s(TOKEN_TYPE)? else {
        return memory::collect("kinds of tokens", tokens, std::iter::repeat_n(Kind::Normal, tokens));
    };
    if codes.len() != tokens {
        return Err(metadata.error(TOKEN_TYPE, format!("{} values for {tokens} tokens", codes.len())));
    }
    let kind = |(id, &code)| {
        let unknown = || metadata.error(TOKEN_TYPE, format!("{code} for token {id} is not a token type (0 to 6)"));
        Kind::from_code(code).ok_or_else(unknown)
    };
    let mut kinds = memory::list("kinds of tokens", tokens)?;
    for code in codes.iter().enumerate() {
        kinds.push(kind(code)?);
    }
    Ok(kinds)
}
