//! What was measured of a run, and its statistics.

use serde::Serialize;
use std::time::{Duration, Instant};

/// When a request was sent and when its tokens came.
#[derive(Debug)]
pub struct Timeline {
    pub prompt_tokens: usize,
    sent: Instant,
    first: Option<Instant>,
    last: Option<Instant>,
    pub tokens: usize,
    /// Times between tokens.
    gaps: Vec<Duration>,
}

impl Timeline {
    /// A request of so many tokens, sent now.
    pub fn new(prompt_tokens: usize, sent: Instant) -> Timeline {
        Timeline { prompt_tokens, sent, first: None, last: None, tokens: 0, gaps: Vec::new() }
    }

    /// A token came.
    pub fn token(&mut self, now: Instant) {
        self.first.get_or_insert(now);
        if let Some(last) = self.last.replace(now) {
            self.gaps.push(now - last);
        }
        self.tokens += 1;
    }
}

/// A finished run.
#[derive(Debug)]
pub struct Measured {
    pub timelines: Vec<Timeline>,
    pub duration: Duration,
}

impl Measured {
    /// From sending to the first token.
    pub fn ttft(&self) -> Spread {
        Spread::of(self.timelines.iter().filter_map(|t| Some(t.first? - t.sent)))
    }

    /// Mean time of each token after the first, by request.
    pub fn tpot(&self) -> Spread {
        let tpot = |t: &Timeline| Some(t.last?.duration_since(t.first?) / u32::try_from(t.tokens - 1).ok()?);
        Spread::of(self.timelines.iter().filter(|t| t.tokens > 1).filter_map(tpot))
    }

    /// Times between tokens.
    pub fn itl(&self) -> Spread {
        Spread::of(self.timelines.iter().flat_map(|t| t.gaps.iter().copied()))
    }

    /// From sending to the last token.
    pub fn e2e(&self) -> Spread {
        Spread::of(self.timelines.iter().filter_map(|t| Some(t.last? - t.sent)))
    }
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Spread {
    pub mean: f64,
    pub std: f64,
    pub median: f64,
    pub p90: f64,
    pub p99: f64,
}

impl Spread {
    /// All zero for no times at all.
    fn of(times: impl Iterator<Item = Duration>) -> Spread {
        let mut ms: Vec<f64> = times.map(|t| t.as_secs_f64() * 1e3).collect();
        if ms.is_empty() {
            return Spread::default();
        }
        ms.sort_unstable_by(f64::total_cmp);
        let mean = ms.iter().sum::<f64>() / ms.len() as f64;
        let variance = ms.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / ms.len() as f64;
        // Between the two nearest, as NumPy's percentile, which vLLM uses.
        let percentile = |p: f64| {
            let at = p / 100.0 * (ms.len() - 1) as f64;
            let (low, high) = (ms[at.floor() as usize], ms[at.ceil() as usize]);
            low + (high - low) * at.fract()
        };
        Spread { mean, std: variance.sqrt(), median: percentile(50.0), p90: percentile(90.0), p99: percentile(99.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_numpys() {
        let spread = Spread::of((1..=5).map(Duration::from_millis));
        assert_eq!((spread.mean, spread.median), (3.0, 3.0));
        assert!((spread.p90 - 4.6).abs() < 1e-9 && (spread.p99 - 4.96).abs() < 1e-9);
        assert!((spread.std - 2f64.sqrt()).abs() < 1e-9);
    }

    #[test]
    fn a_timeline_has_gaps_between_its_tokens() {
        let begin = Instant::now();
        let mut timeline = Timeline::new(3, begin);
        [5, 7, 11].iter().for_each(|ms| timeline.token(begin + Duration::from_millis(*ms)));
        let measured = Measured { timelines: vec![timeline], duration: Duration::from_millis(20) };
        let close = |spread: Spread, ms: f64| (spread.mean - ms).abs() < 1e-9;
        assert!(close(measured.ttft(), 5.0) && close(measured.tpot(), 3.0));
        assert!(close(measured.itl(), 3.0) && close(measured.e2e(), 11.0));
    }
}
