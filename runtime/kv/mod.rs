//! Which blocks of the KV cache are in use: integers only, the memory itself is the kernels'.
//!
//! Invariant: a block is either free or owned by exactly one sequence.

/// A block of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct BlockId(pub u32);

/// The free blocks. The last one freed is the first one taken: its memory is most likely cached, and blocks that were
/// never used stay without memory.
#[derive(Debug)]
pub struct BlockPool {
    free: Vec<BlockId>,
    total: usize,
}

impl BlockPool {
    /// A pool of `total` blocks, all free.
    pub fn new(total: usize) -> BlockPool {
        BlockPool { free: (0..total as u32).rev().map(BlockId).collect(), total }
    }

    /// Blocks in all.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Blocks that are free.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Takes a block, if one is free.
    pub fn take(&mut self) -> Option<BlockId> {
        self.free.pop()
    }

    /// Gives a block back.
    pub fn give(&mut self, block: BlockId) {
        debug_assert!(!self.free.contains(&block), "{block:?} was free already");
        self.free.push(block);
    }
}
