//! One sequence: its tokens, and the blocks that hold their keys and values.

use crate::batch::{BLOCK_TOKENS, Batch};
use crate::kv::{BlockId, BlockKey, BlockPool, KeyChain};
use crate::{Result, memory};
use std::time::Duration;

/// A sequence's name within the engine: never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct SeqId(pub u64);

/// A sequence that wants to run.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Its name.
    pub id: SeqId,
    /// The prompt; at least one token. With room for `most`, the scheduler need not ask for it.
    pub tokens: Vec<u32>,
    /// Most tokens that it can come to.
    pub most: usize,
    /// For its blocks.
    pub room: Room,
    /// When it came.
    pub at: Duration,
    /// Greater goes first.
    pub priority: i32,
    /// Whose it is.
    pub tenant: u32,
    /// Only sequences of the same salt share blocks; `None` neither finds nor leaves any.
    pub salt: Option<u64>,
    /// Whether the logits of every token of the prompt are wanted.
    pub score: bool,
}

/// Memory that a sequence will need, which is asked for where there may be none without harm.
#[derive(Debug, Clone, Default)]
pub struct Room {
    blocks: Vec<u32>,
    keys: Vec<BlockKey>,
}

impl Room {
    /// For `most` tokens.
    pub fn new(most: usize) -> Result<Room> {
        let blocks = most.div_ceil(BLOCK_TOKENS);
        Ok(Room { blocks: memory::list("blocks", blocks)?, keys: memory::list("keys of blocks", blocks)? })
    }
}

/// The order in which sequences are served: by the time of arrival, moved forward by priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// Nanoseconds.
    pub(super) time: i128,
    pub(super) id: SeqId,
}

#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) id: SeqId,
    pub(super) rank: Rank,
    pub(super) arrived: Duration,
    pub(super) tenant: u32,
    /// Prompt and output.
    pub(super) tokens: Vec<u32>,
    prompt: usize,
    most: usize,
    /// Tokens whose keys and values are in the cache, those of the step in flight included.
    pub(super) computed: usize,
    /// Tokens that the tenant was charged for, or got from the cache.
    pub(super) charged: usize,
    /// Ids of the blocks, in the order of positions.
    pub(super) blocks: Vec<u32>,
    /// What the chain of keys begins with, if the sequence takes part in the prefix cache.
    root: Option<BlockKey>,
    /// Keys of the first blocks; at least of those that are full and computed.
    keys: Vec<BlockKey>,
    score: bool,
    /// Has run.
    pub(super) started: bool,
    /// Is done with, and leaves `running` at the next step.
    pub(super) ended: bool,
}

impl Sequence {
    pub(super) fn new(arrival: Arrival, rank: Rank, chain: &KeyChain) -> Sequence {
        let Arrival { id, tokens, most, room, at, tenant, salt, score, .. } = arrival;
        let mut sequence = Sequence {
            id,
            rank,
            arrived: at,
            tenant,
            prompt: tokens.len(),
            most,
            tokens,
            computed: 0,
            charged: 0,
            blocks: room.blocks,
            root: salt.map(|salt| chain.root(salt)),
            keys: room.keys,
            score,
            started: false,
            ended: false,
        };
        sequence.extend_keys(chain);
        sequence
    }

    /// A sequence with the same tokens, in the same blocks; the caller counts it among their owners.
    pub(super) fn fork(&self, id: SeqId) -> Result<Sequence> {
        // Cloned with the capacity, so that steps allocate nothing.
        fn copy<T: Copy>(list: &Vec<T>) -> Result<Vec<T>> {
            let mut copy = memory::list("sample", list.capacity())?;
            copy.extend_from_slice(list);
            Ok(copy)
        }
        Ok(Sequence {
            id,
            rank: Rank { id, ..self.rank },
            tokens: copy(&self.tokens)?,
            blocks: copy(&self.blocks)?,
            keys: copy(&self.keys)?,
            ..*self
        })
    }

    /// Makes room for the longest that the sequence can become, so that steps allocate nothing.
    pub(super) fn reserve(&mut self) {
        let blocks = self.most.div_ceil(BLOCK_TOKENS);
        self.tokens.reserve_exact(self.most.saturating_sub(self.tokens.len()));
        self.blocks.reserve_exact(blocks);
        self.keys.reserve_exact(blocks.saturating_sub(self.keys.len()));
    }

    /// Tokens to compute until the next one can be sampled; at least 1.
    pub(super) fn left(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Whether the sequence looks for its prefix in the cache. Who wants the logits of a prompt has to compute it.
    pub(super) fn looks_up(&self) -> bool {
        self.root.is_some() && !self.score
    }

    /// Whether logits of the chunk that begins at `first` score the prompt.
    pub(super) fn scores(&self, first: usize) -> bool {
        self.score && first + 1 < self.prompt
    }

    /// Keys of the blocks that could be found in the cache: not that of the last token, which has to be computed in any
    /// case.
    pub(super) fn prefix(&self) -> &[BlockKey] {
        let most = if self.looks_up() { (self.tokens.len() - 1) / BLOCK_TOKENS } else { 0 };
        &self.keys[..most.min(self.keys.len())]
    }

    /// Takes the blocks of the prefix from the cache.
    pub(super) fn claim_prefix(&mut self, pool: &mut BlockPool) {
        for i in 0..self.prefix().len() {
            let Some(block) = pool.claim(self.keys[i]) else { break };
            self.blocks.push(block.0);
        }
        self.computed = self.blocks.len() * BLOCK_TOKENS;
    }

    /// Provides blocks for `count` more tokens; false if the pool has too few. A last block that others share is copied.
    pub(super) fn grow(&mut self, pool: &mut BlockPool, batch: &mut Batch, count: usize) -> bool {
        let at = self.computed / BLOCK_TOKENS;
        if let Some(shared) = self.blocks.get(at).copied().filter(|b| pool.owners(BlockId(*b)) > 1) {
            let Some(own) = pool.take() else { return false };
            batch.copies.push((shared, own.0));
            pool.give(BlockId(shared));
            self.blocks[at] = own.0;
        }
        while self.blocks.len() < (self.computed + count).div_ceil(BLOCK_TOKENS) {
            let block = match self.blocks.last() {
                Some(last) => pool.take_after(BlockId(*last)),
                None => pool.take(),
            };
            let Some(block) = block else { return false };
            self.blocks.push(block.0);
        }
        true
    }

    /// Marks tokens up to `end` as computed, and names the blocks that this fills.
    pub(super) fn compute(&mut self, end: usize, pool: &mut BlockPool, chain: &KeyChain) {
        let full = self.computed / BLOCK_TOKENS..end / BLOCK_TOKENS;
        self.computed = end;
        if self.root.is_some() && !full.is_empty() {
            self.extend_keys(chain);
            for i in full {
                pool.name(BlockId(self.blocks[i]), self.keys[i]);
            }
        }
    }

    /// Makes the keys of all full blocks.
    fn extend_keys(&mut self, chain: &KeyChain) {
        let Some(root) = self.root else { return };
        for tokens in self.tokens.chunks_exact(BLOCK_TOKENS).skip(self.keys.len()) {
            let parent = self.keys.last().copied().unwrap_or(root);
            self.keys.push(chain.next(parent, tokens));
        }
    }

    /// Frees the blocks; what they held has to be computed anew.
    pub(super) fn release(&mut self, pool: &mut BlockPool) {
        while let Some(block) = self.blocks.pop() {
            pool.give(BlockId(block));
        }
        self.computed = 0;
    }

    /// What computing up to `end` costs the tenant: 1 for a token of the prompt, 2 for one of the output (as in the
    /// Virtual Token Counter), nothing for what has to be computed again.
    pub(super) fn charge(&mut self, end: usize) -> u64 {
        let output = end.saturating_sub(self.prompt.max(self.charged));
        let all = end.saturating_sub(self.charged);
        self.charged = self.charged.max(end);
        (all + output) as u64
    }
}
