//! The requests of a load: a pure function of the options and the seed.

use crate::bench::SplitMix64;
use clap::ValueEnum;
use std::str::FromStr;
use std::time::Duration;

/// A range of lengths, both ends included: "32:512", or "64" for one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lengths {
    least: u32,
    most: u32,
}

impl FromStr for Lengths {
    type Err = String;

    fn from_str(text: &str) -> Result<Lengths, String> {
        let number = |text: &str| text.parse::<u32>().map_err(|e| format!("{text:?}: {e}"));
        let (least, most) = match text.split_once(':') {
            Some((least, most)) => (number(least)?, number(most)?),
            None => (number(text)?, number(text)?),
        };
        if least == 0 || least > most || most > 1 << 20 {
            return Err(format!("{least}:{most} is no range from 1 to {}", 1 << 20));
        }
        Ok(Lengths { least, most })
    }
}

/// How answers' lengths spread over their range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputLengths {
    /// Each as likely as the other
    Uniform,
    /// Mostly short, with a long tail: n with a likelihood of 1/n
    LongTail,
}

/// A request and when it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Since the run's beginning.
    pub at: Duration,
    /// Token ids.
    pub prompt: Vec<u32>,
    /// Tokens to generate.
    pub output: u32,
    /// Of its random numbers.
    pub seed: u64,
}

/// What all runs send.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub requests: usize,
    pub prompt: Lengths,
    pub output: Lengths,
    pub spread: OutputLengths,
    pub shared_prefix: usize,
    pub seed: u64,
}

impl Load {
    /// Tokens of the longest request that can be drawn.
    pub fn longest(&self) -> usize {
        self.shared_prefix + self.prompt.most as usize + self.output.most as usize
    }

    /// The requests, in the order of their times; `rate` a second, all at once if it is infinite.
    pub fn requests(&self, vocab: usize, rate: f64) -> Vec<Planned> {
        let mut random = SplitMix64(self.seed);
        let prefix = tokens(&mut random, self.shared_prefix, vocab);
        let mut at = 0.0;
        let mut plan = |i: usize| {
            // Times between Poisson arrivals are exponential.
            at += if rate.is_finite() { -(1.0 - random.unit()).ln() / rate } else { 0.0 };
            let own = self.prompt.draw(OutputLengths::Uniform, &mut random) as usize;
            let output = self.output.draw(self.spread, &mut random);
            let prompt = [&prefix[..], &tokens(&mut random, own, vocab)].concat();
            Planned { at: Duration::from_secs_f64(at), prompt, output, seed: i as u64 }
        };
        (0..self.requests).map(&mut plan).collect()
    }

    /// Requests to warm up with, which begin differently from all others.
    pub fn warm_up(&self, vocab: usize) -> Vec<Planned> {
        let mut random = SplitMix64(!self.seed);
        let mut plan = |_| {
            let prompt = tokens(&mut random, self.prompt.least.max(16) as usize, vocab);
            Planned { at: Duration::ZERO, prompt, output: self.output.least.min(16), seed: 0 }
        };
        (0..4).map(&mut plan).collect()
    }
}

impl Lengths {
    fn draw(self, spread: OutputLengths, random: &mut SplitMix64) -> u32 {
        let (least, most) = (f64::from(self.least), f64::from(self.most));
        let drawn = match spread {
            OutputLengths::Uniform => least + random.unit() * (most - least + 1.0),
            OutputLengths::LongTail => least * ((most + 1.0) / least).powf(random.unit()),
        };
        (drawn as u32).clamp(self.least, self.most)
    }
}

fn tokens(random: &mut SplitMix64, n: usize, vocab: usize) -> Vec<u32> {
    (0..n).map(|_| (random.next() % vocab.max(1) as u64) as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(seed: u64) -> Load {
        let (prompt, output) = ("32:512".parse().unwrap(), "16:128".parse().unwrap());
        Load { requests: 500, prompt, output, spread: OutputLengths::Uniform, shared_prefix: 8, seed }
    }

    #[test]
    fn a_seed_names_its_requests() {
        let requests = load(3).requests(1000, 50.0);
        assert_eq!(requests, load(3).requests(1000, 50.0));
        assert_ne!(requests, load(4).requests(1000, 50.0));
        assert!(requests.is_sorted_by_key(|r| r.at));
        let seconds = requests[499].at.as_secs_f64();
        assert!((8.0..12.5).contains(&seconds), "500 requests at 50 a second took {seconds} s");
        assert!(requests.iter().all(|r| r.prompt[..8] == requests[0].prompt[..8] && r.prompt.len() <= 520));
        assert!(requests.iter().any(|r| r.output < 20) && requests.iter().any(|r| r.output > 124));
        assert!(load(3).requests(1000, f64::INFINITY).iter().all(|r| r.at.is_zero()));
    }

    #[test]
    fn a_long_tail_is_mostly_short() {
        let load = Load { spread: OutputLengths::LongTail, output: "16:512".parse().unwrap(), ..load(1) };
        let mut lengths: Vec<u32> = load.requests(10, 1.0).iter().map(|r| r.output).collect();
        lengths.sort_unstable();
        assert!(lengths[0] >= 16 && lengths[499] > 450 && lengths[250] < 120, "median {}", lengths[250]);
    }

    #[test]
    fn refuses_what_is_no_range() {
        for text in ["", "0", "5:4", "a", "1:", "1:99999999"] {
            assert!(text.parse::<Lengths>().is_err(), "{text:?}");
        }
    }
}
