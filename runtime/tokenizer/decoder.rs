//! Incremental detokenisation: tokens become text without ever showing half a character.

use super::Tokenizer;
use crate::TokenId;

/// Turns a stream of tokens into a stream of text: bytes are held back until they complete a UTF-8 character, and
/// become U+FFFD once they no longer can. The pieces together are the lossy text of all bytes together.
#[derive(Debug, Default, Clone)]
pub struct Decoder {
    /// The beginning of a character, always a valid one: at most three bytes between calls.
    held: [u8; 4],
    len: usize,
}

impl Decoder {
    /// Appends to `out` the text that `id` completes; control tokens have text only if `special`.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: TokenId, special: bool, out: &mut String) {
        tokenizer.each_bytes(id, special, |bytes| self.push_bytes(bytes, out));
    }

    /// Appends U+FFFD to `out` if the text ends within a character, and starts anew.
    pub fn finish(&mut self, out: &mut String) {
        if self.len > 0 {
            out.push(char::REPLACEMENT_CHARACTER);
            self.len = 0;
        }
    }

    fn push_bytes(&mut self, bytes: &[u8], out: &mut String) {
        for &byte in bytes {
            if self.len == 0 && byte.is_ascii() {
                out.push(byte as char);
                continue;
            }
            self.held[self.len] = byte;
            self.len += 1;
            self.release(out);
        }
    }

    /// Moves what is decided from `held` to `out`.
    fn release(&mut self, out: &mut String) {
        while self.len > 0 {
            let error = match std::str::from_utf8(&self.held[..self.len]) {
                Ok(text) => {
                    out.push_str(text);
                    self.len = 0;
                    return;
                }
                Err(error) => error,
            };
            // Held bytes begin a character, so that an error always lies at the front.
            let Some(wrong) = error.error_len() else { return };
            out.push(char::REPLACEMENT_CHARACTER);
            self.held.copy_within(wrong..self.len, 0);
            self.len -= wrong;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    fn decoded(pieces: &[Vec<u8>]) -> String {
        let (mut decoder, mut out) = (Decoder::default(), String::new());
        for piece in pieces {
            decoder.push_bytes(piece, &mut out);
            assert!(decoder.len <= 3);
        }
        decoder.finish(&mut out);
        out
    }

    #[test]
    fn pieces_make_the_lossy_whole() {
        // Bytes that begin, continue and break characters, in any order and cut anywhere.
        let bytes = b"a\xc3\xa9\xe2\x82\xac\xf0\x9f\x99\x82\xff\xc0\x80\xed\xa0\xbf\xf4\x90\xe0\x9f\xf1";
        let mut random = Random::new("decoder");
        for _ in 0..20_000 {
            let mut piece = || (0..random.below(5)).map(|_| bytes[random.below(bytes.len() as u32) as usize]).collect();
            let pieces: Vec<Vec<u8>> = (0..5).map(|_| piece()).collect();
            assert_eq!(decoded(&pieces), String::from_utf8_lossy(&pieces.concat()), "{pieces:x?}");
        }
    }

    #[test]
    fn text_appears_as_soon_as_it_is_decided() {
        let (mut decoder, mut out) = (Decoder::default(), String::new());
        for (byte, shown) in [(0xf0, ""), (0x9f, ""), (0x99, ""), (0x82, "🙂"), (0xe2, "🙂"), (b'a', "🙂\u{fffd}a")]
        {
            decoder.push_bytes(&[byte], &mut out);
            assert_eq!(out, shown);
        }
    }
}
