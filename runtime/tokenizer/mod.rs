//! Text to token ids and back, built from a model file's metadata.
//!
//! Ids equal llama.cpp's for any text, with three intended differences: ordinary text never becomes a control token, a
//! prompt that spells its BOS token does not get a second one, and `</s>` in a vocabulary of HTML is text.

mod bpe;
mod decoder;
mod merge;
mod special;
mod split;
mod spm;
mod vocab;

#[cfg(test)]
mod tests;

use crate::load::Metadata;
use crate::{Error, Result, TokenId, memory};
use bpe::Bpe;
use merge::Merger;
use special::{Part, Specials};
use spm::Spm;
use std::fmt;
use vocab::{Kind, Vocab};

pub(crate) use bpe::BYTE_CHARS;
pub use decoder::Decoder;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";

/// Longest text that is encoded at once. Offsets are 32 bits wide, and a space may be spelled with three bytes.
const MAX_TEXT_BYTES: usize = 1 << 30;

/// A model's tokenizer.
pub struct Tokenizer {
    vocab: Vocab,
    model: Model,
    specials: Specials,
    bos: Option<TokenId>,
    adds_bos: bool,
    stops: Vec<TokenId>,
}

/// The two families, which differ in how text is cut and how tokens are spelled.
enum Model {
    ByteLevel(Bpe),
    SentencePiece(Spm),
}

impl Tokenizer {
    /// Builds the tokenizer that the metadata describes.
    ///
    /// Errors: [`Error::ModelFormat`] where the metadata contradicts itself, [`Error::Unsupported`] for a model or a
    /// pre-tokenizer that aieng does not have.
    pub fn from_metadata(metadata: &Metadata) -> Result<Tokenizer> {
        let mut vocab = Vocab::from_metadata(metadata)?;
        let stops = special::stop_tokens(metadata, &mut vocab)?;
        let mut bos = special::token_of_key(metadata, BOS, &vocab)?;
        let unknown = special::token_of_key(metadata, UNKNOWN, &vocab)?;
        let (model, adds_bos) = match metadata.require(MODEL, metadata.str(MODEL)?)? {
            "gpt2" => {
                let name = metadata.require(PRE, metadata.str(PRE)?)?;
                // Another's words would make a worse model, in silence.
                let pre = split::named(name).ok_or_else(|| unsupported(metadata, PRE, name, &split::known()))?;
                (Model::ByteLevel(Bpe::from_metadata(metadata, &vocab, pre)?), pre.adds_bos)
            }
            "llama" => {
                // SentencePiece's own numbers, for files that leave them out.
                let in_vocab = |id: u32| ((id as usize) < vocab.len()).then_some(TokenId(id));
                bos = bos.or(in_vocab(1));
                let spm = Spm::from_metadata(metadata, &vocab, unknown.or(in_vocab(0)))?;
                (Model::SentencePiece(spm), true)
            }
            other => return Err(unsupported(metadata, MODEL, other, "gpt2, llama")),
        };
        let adds_bos = metadata.bool(ADD_BOS)?.unwrap_or(adds_bos);
        if adds_bos && bos.is_none() {
            return Err(metadata.error(BOS, format!("missing, although {ADD_BOS} asks for it")));
        }
        let specials = Specials::new(metadata, &vocab)?;
        Ok(Tokenizer { vocab, model, specials, bos, adds_bos, stops })
    }

    /// Token ids of `text`. `add_bos` puts the model's BOS token in front if its metadata asks for one, unless the
    /// text begins with it already (as what a chat template renders often does); `parse_special` turns the spelling of
    /// control tokens (`<|im_start|>`) into their ids.
    ///
    /// Errors: [`Error::InvalidArgument`] for a text of more than 1 GiB; [`Error::OutOfMemory`].
    pub fn encode(&self, text: &str, add_bos: bool, parse_special: bool) -> Result<Vec<TokenId>> {
        if text.len() > MAX_TEXT_BYTES {
            let what = format!("text of {} bytes, at most {MAX_TEXT_BYTES} can be tokenized", text.len());
            return Err(Error::InvalidArgument(what));
        }
        let mut ids = memory::list("token ids", text.len() / 4 + 8)?;
        ids.extend(self.bos.filter(|_| add_bos && self.adds_bos));
        let fronted = ids.len();
        let mut merger = Merger::default();
        let mut begins = true;
        self.specials.partition(text, parse_special, |part| {
            match part {
                Part::Token(id) => {
                    memory::reserve("token ids", &mut ids, 1)?;
                    ids.push(TokenId(id));
                }
                Part::Text(text) => match &self.model {
                    Model::ByteLevel(bpe) => bpe.encode(&self.vocab, text, &mut merger, &mut ids)?,
                    Model::SentencePiece(spm) => spm.encode(&self.vocab, text, begins, &mut merger, &mut ids)?,
                },
            }
            begins = matches!(part, Part::Token(_));
            Ok(())
        })?;
        if fronted == 1 && ids.get(1) == ids.first() {
            ids.remove(0);
        }
        Ok(ids)
    }

    /// The text of `ids`, without control tokens unless `special`; bytes that are not UTF-8 become U+FFFD.
    ///
    /// Errors: [`Error::OutOfMemory`].
    pub fn decode(&self, ids: &[TokenId], special: bool) -> Result<String> {
        let (mut decoder, mut out) = (self.decoder(), String::new());
        let most = self.max_token_bytes() * char::REPLACEMENT_CHARACTER.len_utf8();
        for &id in ids {
            if out.capacity() - out.len() < most {
                out.try_reserve(most).map_err(|_| Error::OutOfMemory(format!("no memory for {} bytes", out.len())))?;
            }
            decoder.push(self, id, special, &mut out);
        }
        decoder.finish(&mut out);
        Ok(out)
    }

    /// Bytes of text that one token can stand for, at most.
    pub fn max_token_bytes(&self) -> usize {
        // What the vocabulary does not spell is one token for a byte, or for a character.
        self.vocab.longest().max(4)
    }

    /// Number of tokens.
    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    /// The bytes that a token stands for (empty for control tokens unless `special`, and for ids outside the vocabulary).
    pub fn token_bytes(&self, id: TokenId, special: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.each_bytes(id, special, |part| bytes.extend_from_slice(part));
        bytes
    }

    /// Calls `part` for the bytes that a token stands for, in order and in pieces, so that none need be copied together.
    fn each_bytes(&self, id: TokenId, special: bool, mut part: impl FnMut(&[u8])) {
        let text = self.vocab.text(id.0);
        let mut utf8 = [0; 4];
        match (self.vocab.kind(id.0), &self.model) {
            (Kind::Unused, _) => {}
            (Kind::Control | Kind::Unknown, _) if !special => {}
            (Kind::Control | Kind::Unknown | Kind::UserDefined, _) => part(text.as_bytes()),
            (Kind::Byte, _) => part(vocab::byte_of(text).as_slice()),
            (Kind::Normal, Model::ByteLevel(_)) => text.chars().for_each(|c| match bpe::byte_of_char(c) {
                Some(byte) => part(&[byte]),
                // Some files leave added tokens as they are read, and call them normal.
                None => part(c.encode_utf8(&mut utf8).as_bytes()),
            }),
            (Kind::Normal, Model::SentencePiece(_)) => text.chars().for_each(|c| match c {
                spm::SPACE => part(b" "),
                c => part(c.encode_utf8(&mut utf8).as_bytes()),
            }),
        }
    }

    /// The token's text as a listing shows it: lossy where it is half a character.
    pub fn token_text(&self, id: TokenId) -> String {
        String::from_utf8_lossy(&self.token_bytes(id, true)).into_owned()
    }

    /// The token that begins a text, if the model has one.
    pub fn bos(&self) -> Option<TokenId> {
        self.bos
    }

    /// Whether the model's metadata asks for BOS in front of a prompt.
    pub fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    /// Tokens that end a generation (EOS, EOT and what the chat format adds), in ascending order.
    pub fn stop_tokens(&self) -> &[TokenId] {
        &self.stops
    }

    /// An incremental decoder.
    pub fn decoder(&self) -> Decoder {
        Decoder::default()
    }
}

fn unsupported(metadata: &Metadata, key: &str, value: &str, known: &str) -> Error {
    Error::Unsupported(format!("{}: {key}: {value:?} is not among the known {known}", metadata.path().display()))
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.model {
            Model::ByteLevel(_) => "byte-level BPE",
            Model::SentencePiece(_) => "SentencePiece BPE",
        };
        write!(f, "Tokenizer({family}, {} tokens)", self.vocab.len())
    }
}
