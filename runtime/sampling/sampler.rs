//! One request's sampling: its parameters, what it has seen, and its random numbers.

use super::SamplingParams;
use crate::engine::{Logprobs, TokenLogprob};
use crate::{Result, TokenId, memory};
use aieng_kernels::Device;
use aieng_kernels::sample::{Candidate, Filter, Penalties, Seen, argmax, log_sum_exp, penalize, sample, top_n};
use std::collections::HashMap;

/// Draws the tokens of one request. What it draws depends on the logits, the parameters and the request's own tokens:
/// never on time, on other requests, or on how often it was interrupted.
#[derive(Debug)]
pub struct Sampler {
    filter: Filter,
    penalties: Option<Penalties>,
    bias: Vec<(TokenId, f32)>,
    seed: u64,
    logprobs: Option<usize>,
    /// Tokens drawn so far: each draw's number.
    drawn: u64,
    seen: Vec<Seen>,
    /// Where in `seen` a token stands.
    index: HashMap<u32, usize>,
}

/// Memory that all samplers of an engine share.
#[derive(Debug, Default)]
pub struct SamplerScratch {
    /// Tokens that [`Sampler::draw`] may not draw.
    pub banned: Vec<TokenId>,
    logits: Vec<f32>,
    candidates: Vec<Candidate>,
}

impl SamplerScratch {
    /// For rows of `vocab` logits.
    pub fn new(vocab: usize) -> Result<SamplerScratch> {
        let what = "candidates for a token";
        let (logits, candidates) = (memory::list(what, vocab)?, memory::list(what, vocab)?);
        Ok(SamplerScratch { banned: Vec::new(), logits, candidates })
    }
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
        let off = Penalties { repetition: 1.0, presence: 0.0, frequency: 0.0 };
        let mut sampler = Sampler {
            filter: Filter {
                temperature: params.temperature,
                top_k: params.top_k as usize,
                top_p: params.top_p,
                min_p: params.min_p,
            },
            penalties: (penalties != off).then_some(penalties),
            bias: params.logit_bias.clone(),
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

    /// Draws the next token from `logits` `[vocab]`, none of those that `scratch` bans.
    pub fn draw(
        &mut self,
        device: &Device,
        logits: &[f32],
        scratch: &mut SamplerScratch,
    ) -> (TokenId, Option<Logprobs>) {
        let SamplerScratch { logits: changed, candidates, banned } = scratch;
        let shaped = if self.penalties.is_some() || !self.bias.is_empty() || !banned.is_empty() {
            changed.clear();
            changed.extend_from_slice(logits);
            if let Some(penalties) = self.penalties {
                penalize(changed, &self.seen, penalties);
            }
            for (id, bias) in &self.bias {
                if let Some(x) = changed.get_mut(id.0 as usize) {
                    *x += bias;
                }
            }
            for id in banned.iter() {
                if let Some(x) = changed.get_mut(id.0 as usize) {
                    *x = f32::NEG_INFINITY;
                }
            }
            changed
        } else {
            logits
        };
        let id = if self.filter.temperature == 0.0 {
            argmax(device, shaped)
        } else {
            sample(device, shaped, self.filter, uniform(self.seed, self.drawn), candidates)
        };
        self.drawn += 1;
        if self.penalties.is_some() {
            self.see(id, 1);
        }
        (TokenId(id), self.logprobs.map(|n| logprobs(device, logits, TokenId(id), n, scratch)))
    }
}

/// Log-probabilities of token `id` and of the `n` best, given `logits` `[vocab]`.
pub fn logprobs(device: &Device, logits: &[f32], id: TokenId, n: usize, scratch: &mut SamplerScratch) -> Logprobs {
    let total = log_sum_exp(device, logits);
    let entry = |logit: f32, id: TokenId| TokenLogprob { id, logprob: logit - total };
    let top = if n == 0 { &[] } else { top_n(logits, n, &mut scratch.candidates) };
    let top = top.iter().map(|(x, id)| entry(*x, TokenId(*id))).collect();
    Logprobs { chosen: entry(logits[id.0 as usize], id), top }
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

    fn draw_all(params: &SamplingParams, logits: &[f32], n: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(params, &[TokenId(0)], 0, n).unwrap();
        let mut scratch = SamplerScratch::default();
        (0..n).map(|_| sampler.draw(&Device::Reference, logits, &mut scratch).0.0).collect()
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
        let (_, logprobs) = sampler.draw(&Device::Reference, &logits, &mut SamplerScratch::default());
        let logprobs = logprobs.unwrap();
        let total = logits.iter().map(|x: &f32| x.exp()).sum::<f32>().ln();
        assert!((logprobs.chosen.logprob - (1.0 - total)).abs() < 1e-6);
        assert_eq!(logprobs.top.iter().map(|t| t.id.0).collect::<Vec<_>>(), [0, 1]);
    }
}
