//! What the next step computes: first come, first served. Integers only: it knows no models and no kernels.
//!
//! A waiting sequence is admitted when there is a place in the batch and when the pool can hold all the tokens it may
//! ever have, so a running sequence never lacks a block. Each step computes one token of every decoding sequence and
//! fills the rest of the token budget with chunks of prompts, oldest first.
//!
//! Invariants: blocks reserved by running sequences never exceed the pool; a sequence owns the blocks of its computed
//! tokens and no others; a removed sequence owns none.

#[cfg(test)]
mod tests;

use crate::batch::{Batch, Logits};
use crate::kv::{BlockId, BlockPool};
use std::collections::VecDeque;

/// A sequence's name within the engine: never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct SeqId(pub u64);

/// Bounds of a step and of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sequences in one batch; at least 1.
    pub sequences: usize,
    /// Tokens in one batch; at least `sequences`.
    pub batch_tokens: usize,
    /// Blocks of the cache.
    pub blocks: usize,
    /// Tokens of a block.
    pub block_tokens: usize,
}

#[derive(Debug)]
struct Sequence {
    id: SeqId,
    /// Prompt and output.
    tokens: Vec<u32>,
    /// Tokens whose keys and values are in the cache, those of the step in flight included.
    computed: usize,
    /// Most tokens that the sequence may have.
    max_tokens: usize,
    blocks: Vec<u32>,
}

/// First come, first served.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    pool: BlockPool,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    /// Blocks that running sequences own or may still take.
    reserved: usize,
    batch: Batch,
    /// Sequences of the batch whose next token is to be sampled, in the order of `logits_indices`.
    sampled: Vec<SeqId>,
}

/// A step to execute, and the sequences that get a token from it.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// What to compute.
    pub batch: &'a Batch,
    /// `[L]`: whose logits the batch's `logits_indices` are.
    pub sampled: &'a [SeqId],
}

impl Scheduler {
    /// A scheduler without sequences.
    pub fn new(limits: Limits) -> Scheduler {
        assert!(limits.sequences > 0 && limits.batch_tokens >= limits.sequences, "{limits:?}");
        Scheduler {
            pool: BlockPool::new(limits.blocks),
            waiting: VecDeque::new(),
            running: Vec::with_capacity(limits.sequences),
            reserved: 0,
            batch: Batch::default(),
            sampled: Vec::with_capacity(limits.sequences),
            limits,
        }
    }

    /// Whether a sequence of `max_tokens` could ever run.
    pub fn fits(&self, max_tokens: usize) -> bool {
        max_tokens.div_ceil(self.limits.block_tokens) <= self.limits.blocks
    }

    /// Queues a sequence that may grow to `max_tokens` (more than its prompt). It must fit.
    pub fn add(&mut self, id: SeqId, prompt: Vec<u32>, max_tokens: usize) {
        debug_assert!(!prompt.is_empty() && prompt.len() < max_tokens && self.fits(max_tokens));
        self.waiting.push_back(Sequence { id, tokens: prompt, computed: 0, max_tokens, blocks: Vec::new() });
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Blocks in use.
    pub fn used_blocks(&self) -> usize {
        self.pool.total() - self.pool.free()
    }

    /// Chooses the next step's tokens.
    pub fn schedule(&mut self) -> Step<'_> {
        self.admit();
        self.batch.clear();
        self.sampled.clear();
        // Decoding sequences first: each has one token to compute, and none may wait for another's prompt.
        let mut budget = self.limits.batch_tokens;
        for decoding in [true, false] {
            for sequence in &mut self.running {
                let left = sequence.tokens.len() - sequence.computed;
                if (left == 1) != decoding || budget == 0 || left == 0 {
                    continue;
                }
                let count = left.min(budget);
                budget -= count;
                sequence.grow(&mut self.pool, count, self.limits.block_tokens);
                let first = sequence.computed;
                let logits = if count == left { Logits::Last } else { Logits::None };
                self.batch.push(&sequence.tokens[first..first + count], first, &sequence.blocks, logits);
                sequence.computed += count;
                if logits == Logits::Last {
                    self.sampled.push(sequence.id);
                }
            }
        }
        Step { batch: &self.batch, sampled: &self.sampled }
    }

    fn admit(&mut self) {
        while self.running.len() < self.limits.sequences {
            let Some(next) = self.waiting.front() else { return };
            let wanted = next.max_tokens.div_ceil(self.limits.block_tokens);
            if self.reserved + wanted > self.limits.blocks {
                return;
            }
            self.reserved += wanted;
            self.running.extend(self.waiting.pop_front());
        }
    }

    /// Appends a sampled token to a sequence of the last step.
    pub fn append(&mut self, id: SeqId, token: u32) {
        if let Some(sequence) = self.running.iter_mut().find(|s| s.id == id) {
            sequence.tokens.push(token);
        }
    }

    /// Ends a sequence, wherever it stands, and frees its blocks. Returns whether there was one.
    pub fn remove(&mut self, id: SeqId) -> bool {
        if let Some(i) = self.running.iter().position(|s| s.id == id) {
            // `remove` rather than `swap_remove`: the order of arrival decides who prefills first.
            let sequence = self.running.remove(i);
            self.reserved -= sequence.max_tokens.div_ceil(self.limits.block_tokens);
            sequence.blocks.into_iter().for_each(|b| self.pool.give(BlockId(b)));
            return true;
        }
        let waiting = self.waiting.iter().position(|s| s.id == id);
        waiting.map(|i| self.waiting.remove(i)).is_some()
    }
}

impl Sequence {
    /// Takes the blocks that `count` more tokens need.
    fn grow(&mut self, pool: &mut BlockPool, count: usize, block_tokens: usize) {
        let wanted = (self.computed + count).div_ceil(block_tokens);
        while self.blocks.len() < wanted {
            let block = pool.take().expect("a running sequence has reserved its blocks");
            self.blocks.push(block.0);
        }
    }
}
