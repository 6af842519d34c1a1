//! Many choices at once: what a step wants to know of its rows of logits, and what it is told.
//!
//! [`Draws`] is plain data, so that a device can be sent it whole. Invariant: a draw's answer depends on its own row and
//! its own fields alone.

use super::{Candidate, Filter, Penalties, Seen, argmax, cpu, log_sum_exp, penalize, sample, top_n};
use crate::Device;
use std::collections::TryReserveError;
use std::ops::Range;

/// Most tokens that one [`Drawn`] can report.
pub const MAX_BEST: usize = 20;

/// What one row of logits is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw<'a> {
    /// Which row.
    pub row: usize,
    /// How the token is found.
    pub choice: Choice,
    /// What `seen` does.
    pub penalties: Penalties,
    /// Tokens to penalize, each named once.
    pub seen: &'a [Seen],
    /// Added to the logits of these tokens, after penalties.
    pub bias: &'a [(u32, f32)],
    /// Tokens that are not to be chosen.
    pub banned: &'a [u32],
    /// `Some(n)`: report log-probabilities, of the chosen token and of the n best, from the logits as they are in the row.
    pub logprobs: Option<usize>,
}

/// How a token is found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Choice {
    /// It is drawn with a random number in [0, 1).
    Sample(Filter, f64),
    /// It is known, and only scored.
    Given(u32),
}

impl Draw<'_> {
    /// Whether it chooses from other logits than those of the row.
    pub fn changes(&self) -> bool {
        let listed = !self.seen.is_empty() || !self.bias.is_empty() || !self.banned.is_empty();
        listed && matches!(self.choice, Choice::Sample(..))
    }
}

/// The answer to a [`Draw`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// The token.
    pub token: u32,
    /// Its logit in the row: not finite where the row holds nothing to choose from.
    pub logit: f32,
    /// Its log-probability, if that was asked for; else 0.
    pub logprob: f32,
    best: [Candidate; MAX_BEST],
    count: u8,
}

impl Drawn {
    /// Panics for more than [`MAX_BEST`] of the best.
    pub fn new(token: u32, logit: f32, logprob: f32, best: &[Candidate]) -> Drawn {
        let mut drawn = Drawn { token, logit, logprob, best: [(0.0, 0); MAX_BEST], count: best.len() as u8 };
        drawn.best[..best.len()].copy_from_slice(best);
        drawn
    }

    /// The best tokens and their log-probabilities, best first; of equals the lower id first.
    pub fn best(&self) -> &[Candidate] {
        &self.best[..self.count.into()]
    }
}

/// A [`Draw`] whose lists stand in [`Draws`].
#[derive(Debug, Clone)]
struct Entry {
    row: usize,
    choice: Choice,
    penalties: Penalties,
    seen: Range<usize>,
    bias: Range<usize>,
    banned: Range<usize>,
    logprobs: Option<usize>,
}

/// A list of [`Draw`]s that keeps its memory.
#[derive(Debug, Default)]
pub struct Draws {
    entries: Vec<Entry>,
    seen: Vec<Seen>,
    bias: Vec<(u32, f32)>,
    banned: Vec<u32>,
}

impl Draws {
    /// Makes room for `entries` draws with `seen` tokens more than there are.
    #[inline]
    pub fn reserve(&mut self, entries: usize, seen: usize) -> Result<(), TryReserveError> {
        self.entries.try_reserve(entries)?;
        self.seen.try_reserve(seen)
    }

    /// Adds one; changes nothing where there is no memory for it.
    #[inline]
    pub fn push(&mut self, draw: Draw) -> Result<(), TryReserveError> {
        self.reserve(1, draw.seen.len())?;
        self.bias.try_reserve(draw.bias.len())?;
        self.banned.try_reserve(draw.banned.len())?;
        let Draw { row, choice, penalties, logprobs, .. } = draw;
        let entry = Entry {
            row,
            choice,
            penalties,
            seen: append(&mut self.seen, draw.seen),
            bias: append(&mut self.bias, draw.bias),
            banned: append(&mut self.banned, draw.banned),
            logprobs,
        };
        self.entries.push(entry);
        Ok(())
    }

    /// Forgets all but the first `len`, and keeps the memory.
    pub fn truncate(&mut self, len: usize) {
        self.entries.truncate(len);
        let (seen, bias, banned) = self.entries.last().map_or((0, 0, 0), |e| (e.seen.end, e.bias.end, e.banned.end));
        self.seen.truncate(seen);
        self.bias.truncate(bias);
        self.banned.truncate(banned);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Draw number `i`.
    pub fn get(&self, i: usize) -> Draw<'_> {
        let Entry { row, choice, penalties, ref seen, ref bias, ref banned, logprobs } = self.entries[i];
        let (seen, bias, banned) = (&self.seen[seen.clone()], &self.bias[bias.clone()], &self.banned[banned.clone()]);
        Draw { row, choice, penalties, seen, bias, banned, logprobs }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Draw<'_>> {
        (0..self.len()).map(|i| self.get(i))
    }
}

fn append<T: Copy>(list: &mut Vec<T>, more: &[T]) -> Range<usize> {
    let begin = list.len();
    list.extend_from_slice(more);
    begin..list.len()
}

/// Memory to draw with on the host, for one thread.
#[derive(Debug, Default)]
pub struct DrawScratch {
    logits: Vec<f32>,
    candidates: Vec<Candidate>,
}

impl DrawScratch {
    /// For rows of `vocab` logits.
    pub fn new(vocab: usize) -> Result<DrawScratch, TryReserveError> {
        let mut scratch = DrawScratch::default();
        scratch.logits.try_reserve_exact(vocab)?;
        scratch.candidates.try_reserve_exact(vocab)?;
        Ok(scratch)
    }
}

/// Answers all draws, in their order, from rows in the host's memory. The device's threads share them, as many as there is scratch;
/// panics if there is none.
pub fn draw_all<'a>(
    device: &Device,
    draws: &Draws,
    row: impl Fn(usize) -> &'a [f32] + Sync,
    scratch: &mut [DrawScratch],
    drawn: &mut Vec<Drawn>,
) {
    drawn.clear();
    match device {
        Device::Reference => drawn.extend(draws.iter().map(|one| draw(device, row(one.row), one, &mut scratch[0]))),
        Device::Cpu(cpu) => {
            drawn.resize(draws.len(), Drawn::new(0, 0.0, 0.0, &[]));
            cpu::draw_all(device, cpu, draws, row, scratch, drawn);
        }
    }
}

/// Answers one draw from its row of logits `[vocab]`.
pub fn draw(device: &Device, logits: &[f32], draw: Draw, scratch: &mut DrawScratch) -> Drawn {
    let token = match draw.choice {
        Choice::Given(token) => token,
        Choice::Sample(filter, uniform) => {
            let shaped = shape(logits, draw, &mut scratch.logits);
            if filter.temperature == 0.0 {
                argmax(device, shaped)
            } else {
                sample(device, shaped, filter, uniform, &mut scratch.candidates)
            }
        }
    };
    let logit = logits[token as usize];
    let Some(n) = draw.logprobs else { return Drawn::new(token, logit, 0.0, &[]) };
    let total = log_sum_exp(device, logits);
    let best = if n == 0 { &mut [] } else { top_n(logits, n, &mut scratch.candidates) };
    best.iter_mut().for_each(|(x, _)| *x -= total);
    Drawn::new(token, logit, logit - total, best)
}

/// The logits that a draw chooses from.
fn shape<'a>(logits: &'a [f32], draw: Draw, changed: &'a mut Vec<f32>) -> &'a [f32] {
    if !draw.changes() {
        return logits;
    }
    changed.clear();
    changed.extend_from_slice(logits);
    penalize(changed, draw.seen, draw.penalties);
    for (id, bias) in draw.bias {
        if let Some(x) = changed.get_mut(*id as usize) {
            *x += bias;
        }
    }
    for id in draw.banned {
        if let Some(x) = changed.get_mut(*id as usize) {
            *x = f32::NEG_INFINITY;
        }
    }
    changed
}
