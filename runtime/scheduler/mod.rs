//! What the next step computes. Integers only: it knows no models, no kernels and no clock; the caller says what time it
//! is, as a duration since some beginning.
//!
//! `schedule` admits waiting sequences, gives every running one the blocks it needs, and makes one batch: one token of each
//! sequence that decodes, chunks of prompts with what the token budget leaves. After the step `advance`, `fork` and
//! `finish` say what became of each sampled row.
//!
//! Invariants:
//! - A sequence owns the blocks of its computed tokens and no others; a sequence that waits owns none.
//! - `running` is in the order of [`sequence::Rank`]. Who lacks a block takes those of the last one, which goes back to waiting
//!   and computes its tokens anew later (preemption by recompute). So the first one always gets on, and since a rank never
//!   changes, everyone is first in the end.
//! - A block is written by its only owner: a sequence that shares its last, partly filled block gets a copy first.
//! - A block is named as soon as the step that fills it is made: within a step a layer's keys and values are written before
//!   any are read, so another sequence of the same step may use it.

mod sequence;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod waiting;

pub use sequence::{Arrival, Room, SeqId};

use crate::batch::{BLOCK_TOKENS, Batch, Logits};
use crate::kv::{BlockId, BlockPool, KeyChain};
use crate::{Result, memory};
use sequence::Sequence;
use std::time::Duration;
use waiting::Waiting;

/// When waiting sequences may join the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// At any step: continuous batching, as in Orca (OSDI 2022).
    #[default]
    Continuous,
    /// When nothing runs, and `size` wait or the oldest has waited for `wait`. What has begun runs to its end.
    Dynamic {
        /// Sequences that begin at once, and the most of a batch.
        size: usize,
        /// How long the first may wait for others.
        wait: Duration,
    },
    /// When nothing runs: up to `size` of those that wait. What has begun runs to its end.
    Static {
        /// The most of a batch.
        size: usize,
    },
}

/// What a scheduler is made with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Sequences in one batch; at least 1.
    pub sequences: usize,
    /// Tokens in one batch; at least `sequences`.
    pub batch_tokens: usize,
    /// Most tokens of a sequence.
    pub context: usize,
    /// Blocks of the cache.
    pub blocks: usize,
    /// When sequences join.
    pub policy: Policy,
    /// One step of priority counts as much as having arrived this much earlier.
    pub ageing: Duration,
    /// Shares of tenants; who is not named has 1.
    pub weights: Vec<(u32, u32)>,
}

/// A row of the step's logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Whose.
    pub seq: SeqId,
    /// Position of the token that these logits follow.
    pub position: u32,
    /// Whether the sequence's next token is to be drawn from them; else they score a token of the prompt.
    pub sample: bool,
    /// Where in `running` the sequence stands during this step.
    slot: u32,
}

/// A sequence that runs for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// Which.
    pub seq: SeqId,
    /// Tokens of its prompt that were found in the cache.
    pub cached: usize,
}

/// A step to execute.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// What to compute; empty if nothing can run.
    pub batch: &'a Batch,
    /// `[L]`: whose logits the batch's `logits_indices` are.
    pub rows: &'a [Row],
    /// Who runs for the first time.
    pub started: &'a [Started],
}

/// Whether a step could be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// Now.
    Now,
    /// At this time, unless something arrives before.
    At(Duration),
    /// There are no sequences.
    Idle,
}

/// Counts since the beginning, and the present state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Sequences in the batch.
    pub running: usize,
    /// Sequences that wait, those that were preempted included.
    pub waiting: usize,
    /// Blocks that sequences own.
    pub used_blocks: usize,
    /// Times that a sequence lost its blocks.
    pub preemptions: u64,
    /// Tokens that were looked up in the prefix cache.
    pub prefix_queries: u64,
    /// Tokens of those that were found.
    pub prefix_hits: u64,
    /// Blocks whose content was forgotten for new content.
    pub evictions: u64,
}

/// Owns all sequences and the blocks of the cache.
#[derive(Debug)]
pub struct Scheduler {
    config: Config,
    pool: BlockPool,
    chain: KeyChain,
    waiting: Waiting,
    running: Vec<Sequence>,
    /// How many of `running` have ended, and leave it at the next step.
    ended: usize,
    /// Sequences that were forked since the last step.
    forked: Vec<Sequence>,
    batch: Batch,
    rows: Vec<Row>,
    started: Vec<Started>,
    stats: Stats,
}

impl Scheduler {
    /// A scheduler without sequences.
    ///
    /// Errors: [`Error::OutOfMemory`](crate::Error).
    pub fn new(config: Config) -> Result<Scheduler> {
        let Config { sequences, batch_tokens, context, blocks, .. } = config;
        assert!(sequences > 0 && batch_tokens >= sequences, "{config:?}");
        let tables = sequences * context.div_ceil(BLOCK_TOKENS).min(blocks);
        Ok(Scheduler {
            pool: BlockPool::new(blocks)?,
            chain: KeyChain::default(),
            waiting: Waiting::new(&config.weights, config.ageing),
            running: memory::list("sequences", sequences)?,
            ended: 0,
            forked: memory::list("sequences", sequences)?,
            batch: Batch::with_capacity(batch_tokens, sequences, tables)?,
            rows: memory::list("rows of logits", batch_tokens)?,
            started: memory::list("sequences", sequences)?,
            stats: Stats::default(),
            config,
        })
    }

    /// Queues a sequence. Its prompt and output together must fit the pool: then it ends, whatever else runs.
    pub fn add(&mut self, arrival: Arrival) {
        assert!(!arrival.tokens.is_empty() && self.blocks_for(arrival.tokens.len()) <= self.config.blocks);
        let rank = self.waiting.rank(arrival.at, arrival.priority, arrival.id);
        self.waiting.push(Sequence::new(arrival, rank, &self.chain));
    }

    /// Ends a sequence between two steps, wherever it stands, and frees its blocks. Returns whether there was one.
    pub fn remove(&mut self, id: SeqId) -> bool {
        for list in [&mut self.running, &mut self.forked] {
            if let Some(i) = list.iter().position(|s| s.id == id && !s.ended) {
                let mut sequence = list.remove(i);
                sequence.release(&mut self.pool);
                self.waiting.left(sequence.tenant);
                return true;
            }
        }
        self.waiting.remove(id)
    }

    /// Whether a step can be made at the time `now`.
    pub fn ready(&self, now: Duration) -> Ready {
        if self.running.len() > self.ended || !self.forked.is_empty() {
            return Ready::Now;
        }
        if self.waiting.len() == 0 {
            return Ready::Idle;
        }
        if let Policy::Dynamic { size, wait } = self.config.policy
            && self.waiting.len() < size
            && let Some(until) = self.waiting.oldest().map(|oldest| oldest + wait).filter(|until| now < *until)
        {
            return Ready::At(until);
        }
        Ready::Now
    }

    /// The present state and the counts.
    pub fn stats(&self) -> Stats {
        Stats {
            running: self.running.len() - self.ended + self.forked.len(),
            waiting: self.waiting.len(),
            used_blocks: self.pool.used(),
            evictions: self.pool.evictions(),
            ..self.stats
        }
    }

    /// Chooses what the step at the time `now` computes.
    pub fn schedule(&mut self, now: Duration) -> Step<'_> {
        self.batch.clear();
        self.rows.clear();
        self.started.clear();
        if std::mem::take(&mut self.ended) > 0 {
            self.running.retain(|s| !s.ended);
        }
        self.place_forked();
        self.admit(now);
        self.plan();
        Step { batch: &self.batch, rows: &self.rows, started: &self.started }
    }

    /// Appends the token drawn from `row` of the last step.
    pub fn advance(&mut self, row: Row, token: u32) {
        self.running[row.slot as usize].tokens.push(token);
    }

    /// Adds a sequence `id` that goes on with `token` where that of `row` stands: it shares all blocks. Call it before
    /// `row`'s own sequence is advanced or finished.
    ///
    /// Errors: [`Error::OutOfMemory`](crate::Error); nothing has changed then.
    pub fn fork(&mut self, row: Row, id: SeqId, token: u32) -> Result<()> {
        let parent = &self.running[row.slot as usize];
        memory::reserve("sequences", &mut self.forked, 1)?;
        let mut child = parent.fork(id)?;
        parent.blocks.iter().for_each(|block| self.pool.share(BlockId(*block)));
        child.tokens.push(token);
        self.waiting.joined(child.tenant);
        self.forked.push(child);
        Ok(())
    }

    /// Ends the sequence of `row` of the last step and frees its blocks.
    pub fn finish(&mut self, row: Row) {
        let sequence = &mut self.running[row.slot as usize];
        if !sequence.ended {
            sequence.ended = true;
            self.ended += 1;
            sequence.release(&mut self.pool);
            self.waiting.left(sequence.tenant);
        }
    }

    fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(BLOCK_TOKENS)
    }

    /// Lets forked sequences run while there is room; the others wait, and compute their tokens anew.
    fn place_forked(&mut self) {
        let mut forked = std::mem::take(&mut self.forked);
        for mut sequence in forked.drain(..) {
            if self.running.len() < self.config.sequences {
                self.insert(sequence);
            } else {
                sequence.release(&mut self.pool);
                self.waiting.left(sequence.tenant);
                self.waiting.push(sequence);
            }
        }
        self.forked = forked;
    }

    fn insert(&mut self, sequence: Sequence) {
        let at = self.running.partition_point(|s| s.rank < sequence.rank);
        self.running.insert(at, sequence);
    }

    /// Moves sequences from waiting to running while the policy, the batch, the budget and the pool have room.
    fn admit(&mut self, now: Duration) {
        // How many may run, and how many tokens of their prompts may be waiting to be computed: more would only hold
        // places, unless the batch has to be complete at once.
        let (most, most_tokens) = match self.config.policy {
            Policy::Continuous => (self.config.sequences, self.config.batch_tokens),
            Policy::Dynamic { size, .. } | Policy::Static { size } => (size.min(self.config.sequences), usize::MAX),
        };
        // Nothing new joins what runs to its end; only what was preempted comes back.
        let closed = match self.config.policy {
            Policy::Continuous => false,
            _ => !self.running.is_empty() || self.ready(now) != Ready::Now,
        };
        if self.waiting.len() == 0 {
            return;
        }
        let mut prompt_tokens: usize = self.running.iter().map(|s| s.left() - 1).sum();
        let mut promised: usize = self.running.iter().map(|s| self.blocks_for(s.tokens.len()) - s.blocks.len()).sum();
        while self.running.len() < most && prompt_tokens < most_tokens {
            let Some(next) = self.waiting.peek() else { return };
            if closed && !next.started {
                return;
            }
            let shared = self.shared_blocks(next);
            let wanted = self.blocks_for(next.tokens.len()) - shared;
            // Room for each running sequence to grow, lest the newcomer is preempted at once.
            if !self.running.is_empty() && wanted + promised + self.running.len() > self.pool.free() {
                return;
            }
            let Some(mut next) = self.waiting.pop() else { return };
            prompt_tokens += next.left() - 1;
            promised += wanted;
            next.reserve();
            self.insert(next);
        }
    }

    /// Blocks of a waiting sequence's prefix that others own at this moment.
    fn shared_blocks(&self, sequence: &Sequence) -> usize {
        let found = sequence.prefix().iter().map_while(|key| self.pool.find(*key));
        found.filter(|block| self.pool.owners(*block) > 0).count()
    }

    /// Gives each running sequence its tokens of this step, and the blocks for them.
    fn plan(&mut self) {
        let decoding = self.running.iter().filter(|s| s.left() == 1).count();
        let mut budget = self.config.batch_tokens - decoding;
        let mut i = 0;
        while i < self.running.len() {
            let decodes = self.running[i].left() == 1;
            if !decodes && budget == 0 {
                i += 1;
                continue;
            }
            self.start(i);
            let left = self.running[i].left();
            let count = if decodes { 1 } else { left.min(budget) };
            if !self.provide(i, count) {
                return;
            }
            if !decodes {
                budget -= count;
            }
            self.push(i, count);
            i += 1;
        }
    }

    /// If a sequence has no blocks yet, gives it those of its prefix that the cache has.
    fn start(&mut self, i: usize) {
        let sequence = &mut self.running[i];
        if !sequence.blocks.is_empty() {
            return;
        }
        if sequence.looks_up() {
            sequence.claim_prefix(&mut self.pool);
            self.stats.prefix_queries += sequence.tokens.len() as u64;
            self.stats.prefix_hits += sequence.computed as u64;
        }
        if !sequence.started {
            sequence.started = true;
            sequence.charged = sequence.computed;
            self.started.push(Started { seq: sequence.id, cached: sequence.computed });
        }
    }

    /// Provides the blocks that `count` more tokens of sequence `i` need, and takes them from the last sequences if need
    /// be. Returns false if the sequence itself was the last one: then it is preempted.
    fn provide(&mut self, i: usize, count: usize) -> bool {
        loop {
            let Scheduler { running, pool, batch, .. } = self;
            if running[i].grow(pool, batch, count) {
                return true;
            }
            let Some(mut victim) = running.pop() else { return false };
            victim.release(pool);
            self.stats.preemptions += 1;
            self.waiting.left(victim.tenant);
            self.waiting.push(victim);
            if self.running.len() == i {
                return false;
            }
        }
    }

    /// Adds `count` tokens of sequence `i` to the batch.
    fn push(&mut self, i: usize, count: usize) {
        let Scheduler { running, pool, chain, waiting, batch, rows, .. } = self;
        let sequence = &mut running[i];
        let (first, end) = (sequence.computed, sequence.computed + count);
        let logits = match (sequence.scores(first), end == sequence.tokens.len()) {
            (true, _) => Logits::All,
            (false, true) => Logits::Last,
            (false, false) => Logits::None,
        };
        let before = batch.logits_indices.len();
        batch.push(&sequence.tokens[first..end], first, &sequence.blocks, logits);
        for index in before..batch.logits_indices.len() {
            let position = batch.positions[batch.logits_indices[index] as usize];
            let sample = position as usize + 1 == sequence.tokens.len();
            rows.push(Row { seq: sequence.id, position, sample, slot: i as u32 });
        }
        waiting.charge(sequence.tenant, sequence.charge(end));
        sequence.compute(end, pool, chain);
    }

    /// Panics unless the invariants hold.
    #[cfg(test)]
    fn check(&self) {
        let alive = || self.running.iter().filter(|s| !s.ended).chain(&self.forked);
        self.pool.check(alive().flat_map(|s| s.blocks.iter().map(|b| BlockId(*b))));
        for s in alive() {
            assert!(s.blocks.len() >= self.blocks_for(s.computed), "{s:?}");
            assert!(s.computed <= s.tokens.len(), "{s:?}");
        }
        assert_eq!(self.running.iter().filter(|s| s.ended).count(), self.ended);
        assert!(self.running.is_sorted_by_key(|s| s.rank) && self.running.len() <= self.config.sequences);
        self.waiting.check(alive());
    }
}
