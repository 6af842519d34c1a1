//! SentencePiece BPE (`tokenizer.ggml.model` = "llama"): characters join into the token of the best score.
//!
//! There are no merge rules and no words: any two neighbours may join if their text is a token, and the higher its
//! score, the earlier. Spaces are spelled "▁". What no token spells falls back to its bytes.

use super::merge::{Merger, NONE, Pair};
use super::vocab::Vocab;
use crate::load::Metadata;
use crate::{Result, TokenId, memory};

const SCORES: &str = "tokenizer.ggml.scores";
const ADD_SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";

/// What a space is spelled as, U+2581.
pub(super) const SPACE: char = '▁';

/// Scores and byte tokens.
pub(super) struct Spm {
    /// Per token; lower is better.
    priorities: Vec<u32>,
    /// Tokens of single bytes, or the unknown token, or [`NONE`].
    byte_tokens: [u32; 256],
    space_prefix: bool,
}

impl Spm {
    pub(super) fn from_metadata(metadata: &Metadata, vocab: &Vocab, unknown: Option<TokenId>) -> Result<Spm> {
        let scores = metadata.require(SCORES, metadata.f32s(SCORES)?)?;
        if scores.len() != vocab.len() {
            return Err(metadata.error(SCORES, format!("{} values for {} tokens", scores.len(), vocab.len())));
        }
        if let Some(id) = scores.iter().position(|score| score.is_nan()) {
            return Err(metadata.error(SCORES, format!("NaN for token {id}")));
        }
        let unknown = unknown.map_or(NONE, |id| id.0);
        Ok(Spm {
            priorities: memory::collect(SCORES, scores.len(), scores.iter().map(|&score| priority(score)))?,
            byte_tokens: std::array::from_fn(|byte| byte_token(vocab, byte as u8).unwrap_or(unknown)),
            space_prefix: metadata.bool(ADD_SPACE_PREFIX)?.unwrap_or(true),
        })
    }

    /// Appends the tokens of a text without special tokens. `begins` says that it stands at the start of the prompt or
    /// after a special token, where some models want a space in front.
    pub(super) fn encode(
        &self,
        vocab: &Vocab,
        text: &str,
        begins: bool,
        merger: &mut Merger,
        out: &mut Vec<TokenId>,
    ) -> Result<()> {
        let prefix = if begins && self.space_prefix { " " } else { "" };
        let text = spelled(prefix, text)?;
        merger.begin(text.len())?;
        for (start, c) in text.char_indices() {
            merger.push(NONE, start as u32, c.len_utf8() as u32);
        }
        let piece = |start: u32, len: u32| &text[start as usize..(start + len) as usize];
        merger.merge(|left, right| {
            let len = left.len + right.len;
            let token =
                if len as usize <= vocab.longest() { vocab.find_text(piece(left.start, len))? } else { return None };
            Some(Pair { priority: self.priorities[token as usize], token })
        })?;
        for symbol in merger.symbols() {
            let piece = piece(symbol.start, symbol.len);
            memory::reserve("token ids", out, piece.len())?;
            let token = if symbol.token == NONE { vocab.find_text(piece) } else { Some(symbol.token) };
            match token {
                Some(token) => out.push(TokenId(token)),
                None => {
                    let bytes = piece.bytes().map(|byte| self.byte_tokens[byte as usize]);
                    out.extend(bytes.filter(|&token| token != NONE).map(TokenId));
                }
            }
        }
        Ok(())
    }
}

/// The two texts as the vocabulary spells them.
fn spelled(prefix: &str, text: &str) -> Result<String> {
    let spaces = prefix.len() + text.bytes().filter(|byte| *byte == b' ').count();
    let mut spelled = String::new();
    let bytes = text.len() + spaces * SPACE.len_utf8();
    spelled.try_reserve(bytes).map_err(|_| memory::missing::<u8>("text", bytes))?;
    spelled.extend(prefix.chars().chain(text.chars()).map(|c| if c == ' ' { SPACE } else { c }));
    Ok(spelled)
}

/// A score as an integer that is the lower, the higher the score; the two zeros are one.
fn priority(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    // Floats order like their bits, negative ones in reverse.
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    !ascending
}

fn byte_token(vocab: &Vocab, byte: u8) -> Option<u32> {
    let itself = || if byte.is_ascii() { vocab.find_text((byte as char).encode_utf8(&mut [0; 4])) } else { None };
    vocab.find_text(&format!("<0x{byte:02X}>")).or_else(itself)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_reverse_the_order_of_scores() {
        let scores = [f32::NEG_INFINITY, -236_280.0, -1000.0, -1e-40, 0.0, 1e-40, 3.5, f32::INFINITY];
        assert!(scores.windows(2).all(|w| priority(w[0]) > priority(w[1])));
        assert_eq!(priority(-0.0), priority(0.0));
    }
}
