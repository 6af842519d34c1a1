//! Pre-tokenizers: how byte-level BPE cuts a text into words before it merges (`tokenizer.ggml.pre`).
//!
//! A pre-tokenizer is a row of steps. Each step cuts every piece that the step before it left, into the matches of its
//! pattern and the text between them; nothing is dropped. The patterns are the published ones of GPT-2, Llama 3 and
//! Qwen 2, less the look-ahead of `\s+(?!\S)|\s+`, which the regex crate leaves out in return for linear time: the
//! pattern ends in plain `\s+`, and [`Tail`] hands back what the look-ahead would not have taken.

use crate::{Error, Result, memory};
use regex::Regex;
use std::sync::OnceLock;

/// What a match hands back, where more text follows it.
#[derive(Debug, Clone, Copy)]
enum Tail {
    /// Nothing.
    Nothing,
    /// Of a run of whitespace, the last character: it belongs to the word that follows.
    Whitespace,
    /// The same, except that a run that ends in a line break stays whole.
    WhitespaceNotNewline,
}

#[derive(Debug)]
struct Step {
    pattern: &'static str,
    tail: Tail,
}

/// One way to cut, under the names that model files use for it.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    names: &'static [&'static str],
    steps: &'static [Step],
    /// Whether a word that is a token is taken whole, whatever the merges say.
    pub(super) whole_words: bool,
    /// Whether BOS goes in front of a prompt where the metadata does not say.
    pub(super) adds_bos: bool,
    /// The steps' patterns, once an engine has needed them.
    compiled: OnceLock<Vec<(Regex, Tail)>>,
}

const GPT2: Step =
    Step { pattern: r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+", tail: Tail::Whitespace };
const LLAMA3: Step = Step {
    pattern: r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    tail: Tail::WhitespaceNotNewline,
};
const QWEN2: Step = Step {
    pattern: r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    tail: Tail::WhitespaceNotNewline,
};

const fn plain(pattern: &'static str) -> Step {
    Step { pattern, tail: Tail::Nothing }
}

const fn pre(
    names: &'static [&'static str],
    steps: &'static [Step],
    whole_words: bool,
    adds_bos: bool,
) -> PreTokenizer {
    PreTokenizer { names, steps, whole_words, adds_bos, compiled: OnceLock::new() }
}

static PRE_TOKENIZERS: [PreTokenizer; 5] = [
    pre(&["default"], &[plain(r"[\p{P}$+<=>^~|]+"), GPT2, plain(r"\p{N}+"), plain("[0-9][0-9][0-9]")], false, false),
    pre(&["gpt-2"], &[GPT2], false, false),
    pre(&["smollm"], &[plain(r"\p{N}"), GPT2], false, false),
    pre(&["qwen2"], &[QWEN2], false, false),
    pre(&["llama-bpe", "llama-v3", "llama3"], &[LLAMA3], true, true),
];

/// The pre-tokenizer of this name.
pub(super) fn named(name: &str) -> Option<&'static PreTokenizer> {
    PRE_TOKENIZERS.iter().find(|p| p.names.contains(&name))
}

/// The names that [`named`] knows, for a message.
pub(super) fn known() -> String {
    PRE_TOKENIZERS.iter().map(|p| p.names[0]).collect::<Vec<_>>().join(", ")
}

/// A pre-tokenizer with its patterns compiled.
#[derive(Debug)]
pub(super) struct Splitter {
    steps: &'static [(Regex, Tail)],
}

/// What compiling a pattern takes, and then some.
const COMPILE_BYTES: usize = 4 << 20;

impl Splitter {
    pub(super) fn new(pre: &'static PreTokenizer) -> Result<Splitter> {
        if pre.compiled.get().is_none() {
            // The regex crate's own tables: a fixed amount, once a process, and not ours to ask for.
            memory::probe("patterns of the pre-tokenizer", COMPILE_BYTES)?;
            let compile = |step: &Step| match Regex::new(step.pattern) {
                Ok(regex) => Ok((regex, step.tail)),
                Err(e) => Err(Error::Internal(format!("pattern of pre-tokenizer {:?}: {e}", pre.names[0]))),
            };
            let steps = pre.steps.iter().map(compile).collect::<Result<_>>()?;
            // Another thread may have been faster.
            let _ = pre.compiled.set(steps);
        }
        Ok(Splitter { steps: pre.compiled.get().map_or(&[], Vec::as_slice) })
    }

    /// Calls `word` for each word of `text`, in order; together they are the text.
    pub(super) fn split<'t>(&self, text: &'t str, word: &mut impl FnMut(&'t str)) {
        apply(self.steps, text, word);
    }
}

fn apply<'t>(steps: &[(Regex, Tail)], text: &'t str, word: &mut impl FnMut(&'t str)) {
    if text.is_empty() {
        return;
    }
    let Some(((regex, tail), later)) = steps.split_first() else { return word(text) };
    let mut rest = text;
    while let Some(found) = regex.find(rest) {
        let (start, end) = (found.start(), found.start() + tail.keep(found.as_str(), found.end() < rest.len()));
        apply(later, &rest[..start], word);
        apply(later, &rest[start..end], word);
        rest = &rest[end..];
    }
    apply(later, rest, word);
}

impl Tail {
    /// How many bytes of the match stay with it.
    fn keep(self, found: &str, more: bool) -> usize {
        let last = found.chars().next_back().unwrap_or_default();
        // Only `\s+` ends in a character of these kinds, so the last character tells which alternative has matched.
        let hands_back = match self {
            Tail::Nothing => false,
            Tail::Whitespace => last.is_whitespace(),
            Tail::WhitespaceNotNewline => last.is_whitespace() && !matches!(last, '\r' | '\n'),
        };
        let before = found.len().saturating_sub(last.len_utf8());
        if more && hands_back && before > 0 { before } else { found.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    /// The steps as an engine with look-ahead has them.
    fn with_look_ahead(pre: &PreTokenizer) -> Vec<fancy_regex::Regex> {
        let pattern = |step: &Step| match step.tail {
            Tail::Nothing => step.pattern.to_owned(),
            _ => format!(r"{}(?!\S)|\s+", step.pattern),
        };
        pre.steps.iter().map(|step| fancy_regex::Regex::new(&pattern(step)).expect("pattern")).collect()
    }

    fn cut(steps: &[fancy_regex::Regex], text: &str) -> Vec<String> {
        let mut pieces = vec![text.to_owned()];
        for step in steps {
            let mut next = Vec::new();
            for piece in &pieces {
                let mut at = 0;
                for found in step.find_iter(piece) {
                    let found = found.expect("match");
                    next.extend([&piece[at..found.start()], found.as_str()].map(String::from));
                    at = found.end();
                }
                next.push(piece[at..].to_owned());
            }
            pieces = next.into_iter().filter(|p| !p.is_empty()).collect();
        }
        pieces
    }

    fn split(splitter: &Splitter, text: &str) -> Vec<String> {
        let mut words = Vec::new();
        splitter.split(text, &mut |w| words.push(w.to_owned()));
        words
    }

    #[test]
    fn giving_back_equals_looking_ahead() {
        let mut random = Random::new("split");
        let letters = "aZé文ß1٣½²'’sStTrReElLvVdDmM .,!$+_-\"\t\n\r\u{85}\u{a0}\u{3000}\u{200b}\u{301}ſ🙂\0\u{1f}";
        let letters: Vec<char> = letters.chars().collect();
        for pre in &PRE_TOKENIZERS {
            let (splitter, steps) = (Splitter::new(pre).expect("splitter"), with_look_ahead(pre));
            for _ in 0..3000 {
                let letter = |_| letters[random.below(letters.len() as u32) as usize];
                let text: String = (0..24).map(letter).collect();
                assert_eq!(split(&splitter, &text), cut(&steps, &text), "{} on {text:?}", pre.names[0]);
            }
        }
    }

    #[test]
    fn words_as_published() {
        let words = |name, text| split(&Splitter::new(named(name).expect("known")).expect("splitter"), text);
        assert_eq!(words("gpt-2", "I'll  pay 1234€\n\n ok"), ["I", "'ll", " ", " pay", " 1234", "€", "\n\n", " ok"]);
        assert_eq!(words("smollm", "I'LL pay 12 ok"), ["I", "'", "LL", " pay", " ", "1", "2", " ok"]);
        assert_eq!(words("qwen2", "I'LL pay 12\n\n\tok"), ["I", "'LL", " pay", " ", "1", "2", "\n\n", "\tok"]);
        assert_eq!(words("llama-bpe", "x 12345  y\r\n z"), ["x", " ", "123", "45", " ", " y", "\r\n", " z"]);
        assert_eq!(words("default", "a--b 12345"), ["a", "--", "b", " ", "123", "45"]);
    }
}
