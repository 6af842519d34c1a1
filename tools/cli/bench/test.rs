//! What llama-bench calls a test: a prompt, a generation, or both, timed on an engine.

use super::SplitMix64;
use crate::failure::{Failure, Result};
use crate::interrupt;
use aieng_runtime::engine::{Engine, FinishReason, Request};
use aieng_runtime::sampling::SamplingParams;
use aieng_runtime::{BLOCK_TOKENS, TokenId};
use serde::Deserialize;
use std::time::{Duration, Instant};

/// How soon Ctrl-C is noticed while the engine is silent.
const INTERRUPT_POLL: Duration = Duration::from_millis(50);

/// `sequences` at once, each of `prompt` tokens and then `generated` generated ones (either may be 0, but not both), behind
/// `depth` tokens of context.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Test {
    pub prompt: usize,
    #[serde(rename = "generate")]
    pub generated: usize,
    pub sequences: usize,
    pub depth: usize,
}

impl Test {
    /// As in "pp512", "tg128 x16", "pp8+tg4 @ d512".
    pub fn name(self) -> String {
        let mut name = match (self.prompt, self.generated) {
            (prompt, 0) => format!("pp{prompt}"),
            (0, generated) => format!("tg{generated}"),
            (prompt, generated) => format!("pp{prompt}+tg{generated}"),
        };
        if self.sequences > 1 {
            name += &format!(" x{}", self.sequences);
        }
        if self.depth > 0 {
            name += &format!(" @ d{}", self.depth);
        }
        name
    }

    /// A request needs a token to begin with.
    fn prompt_tokens(self) -> usize {
        self.prompt.max(1)
    }

    /// The step that ends a prompt yields a token, which is not one of the generated ones that are measured.
    fn max_tokens(self) -> usize {
        self.generated + self.prompt.min(1)
    }

    /// Tokens of a sequence at its end.
    pub fn length(self) -> usize {
        self.depth.saturating_add(self.prompt_tokens()).saturating_add(self.max_tokens())
    }

    /// Tokens of KV cache that all sequences need, in whole blocks each.
    pub fn kv_tokens(self) -> usize {
        self.length().saturating_add(BLOCK_TOKENS).saturating_mul(self.sequences)
    }

    /// What the speed counts.
    pub fn tokens(self) -> f64 {
        (self.sequences * (self.prompt + self.generated)) as f64
    }

    /// Nanoseconds of each repetition.
    pub fn measure(self, engine: &Engine, repetitions: u32) -> Result<Vec<f64>> {
        self.run(engine, 0)?;
        (1..=repetitions).map(|repetition| self.run(engine, repetition)).collect()
    }

    /// Nanoseconds from the first submit to the last token. No two repetitions share a prompt.
    pub fn run(self, engine: &Engine, repetition: u32) -> Result<f64> {
        let max_tokens =
            u32::try_from(self.max_tokens()).map_err(|e| Failure::Usage(format!("{}: {e}", self.name())))?;
        let vocab = engine.vocab_size().max(1) as u64;
        let mut random = SplitMix64(u64::from(repetition) << 48 | (self.depth as u64) << 24 | self.prompt as u64);
        let length = self.depth + self.prompt_tokens();
        let mut prompt = || (0..length).map(|_| TokenId((random.next() % vocab) as u32)).collect::<Vec<_>>();
        let prompts: Vec<_> = (0..self.sequences).map(|_| prompt()).collect();
        // Whole blocks: the measured requests find all of them in the prefix cache.
        let context = self.depth / BLOCK_TOKENS * BLOCK_TOKENS;
        for prompt in prompts.iter().filter(|_| context > 0) {
            complete(engine, vec![request(&prompt[..context], 1)])?;
        }
        let requests = prompts.iter().map(|prompt| request(prompt, max_tokens)).collect();
        let started = Instant::now();
        let got = complete(engine, requests)?;
        let elapsed = started.elapsed();
        let wanted = self.sequences * self.max_tokens();
        if got != wanted {
            return Err(Failure::Failed(format!("{}: {got} tokens came, {wanted} were asked for", self.name())));
        }
        Ok(elapsed.as_secs_f64() * 1e9)
    }
}

fn request(prompt: &[TokenId], max_tokens: u32) -> Request {
    let sampling = SamplingParams { temperature: 0.0, max_tokens, ignore_eos: true, ..SamplingParams::default() };
    Request::new(prompt.to_vec(), sampling)
}

/// Submits all requests and waits for their ends. Returns the number of tokens that came.
fn complete(engine: &Engine, requests: Vec<Request>) -> Result<usize> {
    let interrupt = interrupt::watch();
    let (mut flying, mut tokens) = (requests.len(), 0);
    for request in requests {
        engine.submit(request)?;
    }
    while flying > 0 {
        if interrupt.requested() {
            return Err(Failure::Interrupted);
        }
        let Some(event) = engine.next(Some(INTERRUPT_POLL))? else { continue };
        tokens += usize::from(event.token.is_some());
        let Some(finish) = event.finish else { continue };
        if finish.reason == FinishReason::Error {
            return Err(Failure::Failed(finish.message.unwrap_or_else(|| "a request failed".into())));
        }
        flying -= 1;
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_lengths_are_those_of_llama_bench() {
        let cases = [
            ((512, 0, 1, 0), "pp512", 513, 512.0),
            ((0, 128, 1, 64), "tg128 @ d64", 193, 128.0),
            ((0, 64, 16, 0), "tg64 x16", 65, 1024.0),
            ((8, 4, 1, 0), "pp8+tg4", 13, 12.0),
        ];
        for ((prompt, generated, sequences, depth), name, length, tokens) in cases {
            let test = Test { prompt, generated, sequences, depth };
            assert_eq!((test.name().as_str(), test.length(), test.tokens()), (name, length, tokens));
        }
    }
}
