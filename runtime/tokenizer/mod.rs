//! Text to token ids and back, built from a model file's metadata.

use crate::load::Metadata;
use crate::{Error, Result, TokenId};

/// A model's tokenizer.
#[derive(Debug)]
pub struct Tokenizer;

impl Tokenizer {
    /// Builds the tokenizer that the metadata describes.
    pub fn from_metadata(_metadata: &Metadata) -> Result<Tokenizer> {
        Err(Error::Internal("not yet".into()))
    }

    /// Token ids of `text`. `add_bos` puts the model's BOS token in front if its metadata asks for one;
    /// `parse_special` turns the spelling of special tokens ("<|im_start|>") into their ids.
    pub fn encode(&self, _text: &str, _add_bos: bool, _parse_special: bool) -> Result<Vec<TokenId>> {
        Err(Error::Internal("not yet".into()))
    }

    /// Number of tokens.
    pub fn vocab_size(&self) -> usize {
        0
    }

    /// The bytes that a token stands for (empty for control tokens unless `special`, and for ids outside the vocabulary).
    pub fn token_bytes(&self, _id: TokenId, _special: bool) -> Vec<u8> {
        Vec::new()
    }

    /// The token's text as a listing shows it: lossy where it is half a character.
    pub fn token_text(&self, id: TokenId) -> String {
        String::from_utf8_lossy(&self.token_bytes(id, true)).into_owned()
    }

    /// The token that begins a text, and whether the model wants it added.
    pub fn bos(&self) -> Option<TokenId> {
        None
    }

    /// Whether the model's metadata asks for BOS in front of a prompt.
    pub fn adds_bos(&self) -> bool {
        false
    }

    /// Tokens that end a generation (EOS, EOT and what the chat format adds).
    pub fn stop_tokens(&self) -> &[TokenId] {
        &[]
    }

    /// An incremental decoder.
    pub fn decoder(&self) -> Decoder {
        Decoder
    }
}

/// Incremental detokenisation: holds back bytes until they complete a UTF-8 character.
#[derive(Debug, Default)]
pub struct Decoder;

impl Decoder {
    /// Appends to `out` the text that `id` completes.
    pub fn push(&mut self, _tokenizer: &Tokenizer, _id: TokenId, _out: &mut String) {}

    /// Appends what was held back, lossy, at the end of a text.
    pub fn finish(&mut self, _out: &mut String) {}
}
