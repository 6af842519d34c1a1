//! One request's sampling: its parameters, what it has seen, and its random numbers.

use super::SamplingParams;
use crate::engine::{Logprobs, TokenLogprob};
use crate::{Result, TokenId, memory};
use aieng_kernels::sample::{Choice, Draw, Drawn, Draws, Filter, Penalties, Seen};
use std::collections::{HashMap, TryReserveError};

/// What penalizes nothing.
const NO_PENALTIES: Penalties = Penalties { repetition: 1.0, presence: 0.0, frequency: 0.0 };

/// Asks for the tokens of one request, and takes them in. What is drawn depends on the logits, the parameters and the
/// request's own tokens: never on time, on other requests, or on how often it was interrupted.
#[derive(Debug)]
pub struct Sampler {
    filter: Filter,
    penalties: Option<Penalties>,
    bias: Vec<(u32, f32)>,
    seed: u64,
    logprobs: Option<usize>,
    /// Tokens drawn so far: each draw's number.
    drawn: u64,
    seen: Vec<Seen>,
    /// Where in `seen` a token stands.
    index: HashMap<u32, usize>,
}

impl Sampler {
    /// The sampler of sample `sample` of a request with this prompt, for `most` draws. Each has random numbers of its own.
    ///
    /// Errors: [`Error::OutOfMemory`](crate::Error).
    pub fn new(params: &SamplingParams, prompt: &[TokenId], sample: u32, most: usize) -> Result<Sampler> {
        let penalties = Penalties {
            repetition: params.repetition_penalty,
            presence: params.presence_penalty,
            frequency: params.frequency_penalty,
        };
        let mut sampler = Sampler {
            filter: Filter {
                temperature: params.temperature,
                top_k: params.top_k as usize,
                top_p: params.top_p,
                min_p: params.min_p,
            },
            penalties: (penalties != NO_PENALTIES).then_some(penalties),
            bias: params.logit_bias.iter().map(|(id, bias)| (id.0, *bias)).collect(),
            seed: params.seed.wrapping_add(mix(sample.into())),
            logprobs: params.logprobs.map(|n| n as usize),
            drawn: 0,
            seen: Vec::new(),
            index: HashMap::new(),
        };
        if sampler.penalties.is_some() {
            let tokens = prompt.len() + most;
            memory::reserve("tokens seen", &mut sampler.seen, tokens)?;
            sampler.index = memory::map("tokens seen", tokens)?;
            prompt.iter().for_each(|token| sampler.see(token.0, 0));
        }
        Ok(sampler)
    }

    fn see(&mut self, id: u32, times: u32) {
        let at = *self.index.entry(id).or_insert(self.seen.len());
        if at == self.seen.len() {
            self.seen.push(Seen { id, in_output: 0 });
        }
        self.seen[at].in_output += times;
    }

    /// Asks for the next token, from row `row` of the logits and none of `banned`.
    ///
    /// Errors: no memory to ask with.
    pub fn ask(&self, row: usize, banned: &[u32], draws: &mut Draws) -> std::result::Result<(), TryReserveError> {
        // As much as it will ever take: steps to come then need no more.
        draws.reserve(1, self.seen.capacity())?;
        draws.push(Draw {
            row,
            choice: Choice::Sample(self.filter, uniform(self.seed, self.drawn)),
            penalties: self.penalties.unwrap_or(NO_PENALTIES),
            seen: &self.seen,
            bias: &self.bias,
            banned,
            logprobs: self.logprobs,
        })
    }

    /// Takes in the token that was drawn.
    pub fn take(&mut self, drawn: &Drawn) -> (TokenId, Option<Logprobs>) {
        self.drawn += 1;
        if self.penalties.is_some() {
            self.see(drawn.token, 1);
        }
        (TokenId(drawn.token), self.logprobs.map(|_| logprobs(drawn)))
    }
}

/// Asks for the log-probabilities, by row `row`, of `token` and of the `top` best.
///
/// Errors: no memory to ask with.
pub fn ask_score(
    row: usize,
    token: TokenId,
    top: usize,
    draws: &mut Draws,
) -> std::result::Result<(), TryReserveError> {
    let (choice, penalties, logprobs) = (Choice::Given(token.0), NO_PENALTIES, Some(top));
    draws.push(Draw { row, choice, penalties, seen: &[], bias: &[], banned: &[], logprobs })
}

/// The log-probabilities in an answer that was asked for them.
pub fn logprobs(drawn: &Drawn) -> Logprobs {
    let entry = |id: u32, logprob: f32| TokenLogprob { id: TokenId(id), logprob };
    let top = drawn.best().iter().map(|(logprob, id)| entry(*id, *logprob)).collect();
    Logprobs { chosen: entry(drawn.token, drawn.logprob), top }
}

/// SplitMix64's finaliser (Steele et al. 2014); 0 stays 0.
fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Random number `index` of stream `seed`, in [0, 1): a counter mixed twice, so any draw can be made again on its own.
fn uniform(seed: u64, index: u64) -> f64 {
    let stream = mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15));
    let bits = mix(stream.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use aieng_kernels::Device;
    use aieng_kernels::sample::{DrawScratch, draw};

    fn next(sampler: &mut Sampler, logits: &[f32]) -> (TokenId, Option<Logprobs>) {
        let mut draws = Draws::default();
        sampler.ask(0, &[], &mut draws).unwrap();
        sampler.take(&draw(&Device::Reference, logits, draws.get(0), &mut DrawScratch::default()))
    }

    fn draw_all(params: &SamplingParams, logits: &[f32], n: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(params, &[TokenId(0)], 0, n).unwrap();
        (0..n).map(|_| next(&mut sampler, logits).0.0).collect()
    }

    #[test]
    fn a_seed_names_its_tokens() {
        let logits = [0.0; 100];
        let seeded = |seed| draw_all(&SamplingParams { seed, ..Default::default() }, &logits, 50);
        assert_eq!(seeded(1), seeded(1));
        assert_ne!(seeded(1), seeded(2));
        let mut counts = [0; 4];
        draw_all(&SamplingParams::default(), &[0.0; 4], 4000).iter().for_each(|t| counts[*t as usize] += 1);
        assert!(counts.iter().all(|n| (850..1150).contains(n)), "{counts:?}");
    }

    #[test]
    fn bias_and_penalties_change_the_choice_but_not_the_logprobs() {
        let logits = [3.0, 2.5, 1.0];
        let params =
            SamplingParams { temperature: 0.0, frequency_penalty: 0.3, logprobs: Some(2), ..Default::default() };
        assert_eq!(draw_all(&params, &logits, 4), [0, 0, 1, 0]);
        let biased = SamplingParams { temperature: 0.0, logit_bias: vec![(TokenId(2), 9.0)], ..params };
        assert_eq!(draw_all(&biased, &logits, 1), [2]);
        let mut sampler = Sampler::new(&biased, &[], 0, 1).unwrap();
        let logprobs = next(&mut sampler, &logits).1.unwrap();
        let total = logits.iter().map(|x: &f32| x.exp()).sum::<f32>().ln();
        assert!((logprobs.chosen.logprob - (1.0 - total)).abs() < 1e-6);
        assert_eq!(logprobs.top.iter().map(|t| t.id.0).collect::<Vec<_>>(), [0, 1]);
    }
}
