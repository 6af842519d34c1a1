//! Byte-level BPE (`tokenizer.ggml.model` = "gpt2"): words are bytes, and merges join them by rank.
//!
//! The vocabulary spells each byte as one printable character, GPT-2's table ([`BYTE_CHARS`]). Text is split into
//! words, the bytes of a word become tokens, and the merge table says which neighbours join, first come first ranked.

use super::merge::{Merger, NONE, Pair};
use super::split::{PreTokenizer, Splitter};
use super::vocab::Vocab;
use crate::load::Metadata;
use crate::{Result, TokenId, memory};
use hashbrown::HashMap;

const MERGES: &str = "tokenizer.ggml.merges";

/// The character that spells each byte: itself where it is printable Latin-1, else the next free one from U+0100.
pub(crate) const BYTE_CHARS: [char; 256] = {
    let mut chars = ['\0'; 256];
    let (mut byte, mut free) = (0, 0x100);
    while byte < 256 {
        let code = if matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) { byte } else { free };
        free += (code == free) as u32;
        chars[byte as usize] = match char::from_u32(code) {
            Some(c) => c,
            None => panic!("not a character"),
        };
        byte += 1;
    }
    chars
};

/// The way back, for the characters below U+0144; -1 where a character spells no byte.
const CHAR_BYTES: [i16; 0x144] = {
    let mut bytes = [-1; 0x144];
    let mut byte = 0;
    while byte < 256 {
        bytes[BYTE_CHARS[byte] as usize] = byte as i16;
        byte += 1;
    }
    bytes
};

/// The byte that a character of a token's spelling stands for.
pub(super) fn byte_of_char(c: char) -> Option<u8> {
    CHAR_BYTES.get(c as usize).and_then(|&byte| u8::try_from(byte).ok())
}

/// Splitter, bytes and merges.
pub(super) struct Bpe {
    splitter: Splitter,
    /// Tokens of single bytes; [`NONE`] where the vocabulary has none (SmolLM2 lacks 21 that its training never saw).
    byte_tokens: [u32; 256],
    merges: HashMap<(u32, u32), Pair>,
    whole_words: bool,
}

impl Bpe {
    pub(super) fn from_metadata(metadata: &Metadata, vocab: &Vocab, pre: &'static PreTokenizer) -> Result<Bpe> {
        Ok(Bpe {
            splitter: Splitter::new(pre)?,
            byte_tokens: BYTE_CHARS.map(|c| vocab.find_text(c.encode_utf8(&mut [0; 4])).unwrap_or(NONE)),
            merges: merges(metadata, vocab)?,
            whole_words: pre.whole_words,
        })
    }

    /// Appends the tokens of a text without special tokens. Bytes that the vocabulary cannot spell are left out.
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, merger: &mut Merger, out: &mut Vec<TokenId>) -> Result<()> {
        let mut spelling = String::new();
        let mut result = Ok(());
        self.splitter.split(text, &mut |word| {
            if result.is_ok() {
                result = self.encode_word(vocab, word, &mut spelling, merger, out);
            }
        });
        result
    }

    fn encode_word(
        &self,
        vocab: &Vocab,
        word: &str,
        spelling: &mut String,
        merger: &mut Merger,
        out: &mut Vec<TokenId>,
    ) -> Result<()> {
        // What is longer than any token spells none.
        if self.whole_words && word.len() <= vocab.longest() {
            spelling.clear();
            spelling.extend(word.bytes().map(|byte| BYTE_CHARS[byte as usize]));
            if let Some(id) = vocab.find_text(spelling) {
                memory::reserve("token ids", out, 1)?;
                out.push(TokenId(id));
                return Ok(());
            }
        }
        merger.begin(word.len())?;
        for (start, byte) in (0u32..).zip(word.bytes()) {
            merger.push(self.byte_tokens[byte as usize], start, 1);
        }
        merger.merge(|left, right| self.merges.get(&(left.token, right.token)).copied())?;
        let ids = || merger.symbols().filter(|s| s.token != NONE).map(|s| TokenId(s.token));
        memory::reserve("token ids", out, ids().count())?;
        out.extend(ids());
        Ok(())
    }
}

/// The merge table: rank is the position in the file; of a repeated pair the first counts.
fn merges(metadata: &Metadata, vocab: &Vocab) -> Result<HashMap<(u32, u32), Pair>> {
    let list = metadata.require(MERGES, metadata.strings(MERGES)?)?;
    let mut merges = HashMap::new();
    merges.try_reserve(list.len()).map_err(|_| memory::missing::<((u32, u32), Pair)>(MERGES, list.len()))?;
    let (mut joined, mut last) = (String::new(), NONE);
    for (rank, merge) in (0u32..).zip(list.iter()) {
        let bad = |what: &str| metadata.error(MERGES, format!("merge {rank}, {merge:?}: {what}"));
        // A spelling may itself begin with a space, never be empty: so the first space after the first byte divides.
        let space =
            merge.bytes().skip(1).position(|byte| byte == b' ').ok_or_else(|| bad("no space between two tokens"))?;
        let (left, right) = (&merge[..space + 1], &merge[space + 2..]);
        let token = |text: &str| vocab.find(text).ok_or_else(|| bad(&format!("{text:?} is not in the vocabulary")));
        joined.clear();
        joined.extend([left, right]);
        // Vocabularies list merged tokens in the order of the merges, so the next one is most often the right one.
        let next = last.wrapping_add(1);
        last = if vocab.text(next) == joined { next } else { token(&joined)? };
        merges.entry((token(left)?, token(right)?)).or_insert(Pair { priority: rank, token: last });
    }
    Ok(merges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_characters_are_gpt2s() {
        let spelled: String =
            [b' ', b'\n', 0, b'A', 0x7f, 0xa0, 0xad, 0xff].iter().map(|&b| BYTE_CHARS[b as usize]).collect();
        assert_eq!(spelled, "ĠĊĀAġłŃÿ");
        for byte in 0..=255u8 {
            assert_eq!(byte_of_char(BYTE_CHARS[byte as usize]), Some(byte));
        }
        assert_eq!([' ', '\u{ad}', '\u{144}', '🙂'].map(byte_of_char), [None; 4]);
    }
}
