//! The pool of blocks: reference counts, and the cache of blocks whose content may be wanted again.
//!
//! Invariants: a block is free when nobody owns it, and only then in the list of free blocks; a key names at most one
//! block, and a block has at most one key; the content of a block with a key never changes until the key is taken away,
//! when the block is handed out anew. Nothing here allocates after `new`.

use super::{BlockId, BlockKey};
use crate::{Result, memory};
use std::collections::HashMap;

/// The end of the list.
const NONE: u32 = u32::MAX;

/// Blocks that stand side by side in an empty pool for a sequence to grow into before it meets another one.
const RUN: usize = 8;

/// All blocks of a cache.
#[derive(Debug)]
pub struct BlockPool {
    blocks: Vec<Block>,
    /// Free blocks, from the next one to be taken to the last: a list through `blocks`. Blocks without a key stand before
    /// those with one, the one used last in front, for its memory is most likely cached; those with a key in the
    /// order in which they were freed, so the one that was not used for longest is taken first.
    first: u32,
    last: u32,
    free: usize,
    cached: HashMap<BlockKey, BlockId>,
    evictions: u64,
}

#[derive(Debug, Clone, Copy)]
struct Block {
    owners: u32,
    key: Option<BlockKey>,
    before: u32,
    after: u32,
}

impl BlockPool {
    /// A pool of `total` blocks (fewer than 2^32), all free and empty.
    pub fn new(total: usize) -> Result<BlockPool> {
        assert!(total < NONE as usize, "{total} blocks");
        let empty = Block { owners: 0, key: None, before: NONE, after: NONE };
        let cached = memory::map("keys of blocks", total)?;
        let blocks = memory::collect("blocks", total, std::iter::repeat_n(empty, total))?;
        let mut pool = BlockPool { blocks, first: NONE, last: NONE, free: 0, cached, evictions: 0 };
        let beginnings_first = (0..RUN).flat_map(|place| (place..total).step_by(RUN));
        beginnings_first.for_each(|id| pool.push_last(id as u32));
        Ok(pool)
    }

    /// Blocks that nobody owns, those with a key included.
    pub fn free(&self) -> usize {
        self.free
    }

    /// Blocks that somebody owns.
    pub fn used(&self) -> usize {
        self.blocks.len() - self.free
    }

    /// Blocks that were taken while their content still had a key.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// How many own a block.
    pub fn owners(&self, id: BlockId) -> u32 {
        self.blocks[id.0 as usize].owners
    }

    /// Takes a free block for one owner; its key, if it had one, is forgotten.
    pub fn take(&mut self) -> Option<BlockId> {
        let id = self.first;
        (id != NONE).then(|| self.own(id))
    }

    /// Takes the block that follows `id`, if it is free and has no key, else as [`BlockPool::take`]: what lies in order is
    /// read faster.
    pub fn take_after(&mut self, id: BlockId) -> Option<BlockId> {
        let next = id.0 + 1;
        match self.blocks.get(next as usize) {
            Some(block) if block.owners == 0 && block.key.is_none() => Some(self.own(next)),
            _ => self.take(),
        }
    }

    /// Gives a free block its first owner.
    fn own(&mut self, id: u32) -> BlockId {
        self.unlink(id);
        let block = &mut self.blocks[id as usize];
        block.owners = 1;
        if let Some(key) = block.key.take() {
            self.cached.remove(&key);
            self.evictions += 1;
        }
        BlockId(id)
    }

    /// Adds an owner to a block that has one.
    pub fn share(&mut self, id: BlockId) {
        let block = &mut self.blocks[id.0 as usize];
        assert!(block.owners > 0, "{id:?} is free");
        block.owners += 1;
    }

    /// Takes an owner away; without owners the block is free. Give a sequence's last block first: so the ends of
    /// prefixes are forgotten before their beginnings.
    pub fn give(&mut self, id: BlockId) {
        let block = &mut self.blocks[id.0 as usize];
        assert!(block.owners > 0, "{id:?} was free already");
        block.owners -= 1;
        if block.owners == 0 {
            if block.key.is_some() { self.push_last(id.0) } else { self.push_first(id.0) }
        }
    }

    /// The block of this key, if the pool has it.
    pub fn find(&self, key: BlockKey) -> Option<BlockId> {
        self.cached.get(&key).copied()
    }

    /// As [`BlockPool::find`], and adds an owner.
    pub fn claim(&mut self, key: BlockKey) -> Option<BlockId> {
        let id = self.find(key)?;
        if self.owners(id) == 0 {
            self.unlink(id.0);
        }
        self.blocks[id.0 as usize].owners += 1;
        Some(id)
    }

    /// Says what an owned block holds. If another block holds the same, that one keeps the key.
    pub fn name(&mut self, id: BlockId, key: BlockKey) {
        let block = &mut self.blocks[id.0 as usize];
        assert!(block.owners > 0 && block.key.is_none(), "{id:?}: {block:?}");
        if let std::collections::hash_map::Entry::Vacant(entry) = self.cached.entry(key) {
            entry.insert(id);
            block.key = Some(key);
        }
    }

    fn push_last(&mut self, id: u32) {
        self.link(id, self.last, NONE);
    }

    fn push_first(&mut self, id: u32) {
        self.link(id, NONE, self.first);
    }

    /// Puts a block between two neighbours of the list.
    fn link(&mut self, id: u32, before: u32, after: u32) {
        let block = &mut self.blocks[id as usize];
        (block.before, block.after) = (before, after);
        *self.after(before) = id;
        *self.before(after) = id;
        self.free += 1;
    }

    fn unlink(&mut self, id: u32) {
        let Block { before, after, .. } = self.blocks[id as usize];
        *self.after(before) = after;
        *self.before(after) = before;
        self.free -= 1;
    }

    /// What follows `id`; the list's beginning for `NONE`.
    fn after(&mut self, id: u32) -> &mut u32 {
        if id == NONE { &mut self.first } else { &mut self.blocks[id as usize].after }
    }

    /// What stands before `id`; the list's end for `NONE`.
    fn before(&mut self, id: u32) -> &mut u32 {
        if id == NONE { &mut self.last } else { &mut self.blocks[id as usize].before }
    }

    /// Panics unless the invariants hold and each block has as many owners as it stands in `owned`.
    #[cfg(test)]
    pub fn check(&self, owned: impl Iterator<Item = BlockId>) {
        let mut owners = vec![0; self.blocks.len()];
        owned.for_each(|id| owners[id.0 as usize] += 1);
        let mut listed = vec![false; self.blocks.len()];
        let (mut id, mut before) = (self.first, NONE);
        while id != NONE {
            assert_eq!(self.blocks[id as usize].before, before, "the list is broken at {id}");
            assert!(!std::mem::replace(&mut listed[id as usize], true), "{id} is listed twice");
            (before, id) = (id, self.blocks[id as usize].after);
        }
        assert_eq!(self.last, before);
        assert_eq!(listed.iter().filter(|l| **l).count(), self.free);
        for (id, block) in self.blocks.iter().enumerate() {
            assert_eq!(block.owners, owners[id], "owners of block {id}");
            assert_eq!(listed[id], block.owners == 0, "block {id}");
            assert!(block.key.is_none_or(|key| self.find(key) == Some(BlockId(id as u32))), "key of block {id}");
        }
        assert_eq!(self.cached.len(), self.blocks.iter().filter(|b| b.key.is_some()).count());
    }
}
