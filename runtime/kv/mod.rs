//! Which blocks of the KV cache are in use, by how many sequences, and which prefix each holds. Integers only: the
//! memory itself is the kernels'.

mod key;
mod pool;
#[cfg(test)]
mod tests;

pub use key::{BlockKey, KeyChain};
pub use pool::BlockPool;

/// A block of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct BlockId(pub u32);
