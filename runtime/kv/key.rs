//! Names of prefixes: a block's key covers its own tokens and all before them.

use std::hash::{BuildHasher, RandomState};

/// Names the content of a full block: the tokens from a sequence's beginning to the block's end, and the salt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockKey(u128);

/// Makes keys, each from the key of the block before it: a chain of hashes, as in vLLM's automatic prefix caching.
///
/// Two SipHash functions with random keys of their own make 128 bits, so prompts that collide can be neither met nor made:
/// what one tenant sends cannot find another one's blocks. Keys differ from run to run, and nothing but hits depends on them.
#[derive(Debug, Default)]
pub struct KeyChain([RandomState; 2]);

impl KeyChain {
    /// What the chain of a sequence begins with. Sequences of different salts share no block.
    pub fn root(&self, salt: u64) -> BlockKey {
        self.hash(&(salt, "root"))
    }

    /// The key of a block with these tokens, behind the block of key `parent`.
    pub fn next(&self, parent: BlockKey, tokens: &[u32]) -> BlockKey {
        self.hash(&(parent, tokens))
    }

    fn hash(&self, what: &impl std::hash::Hash) -> BlockKey {
        let [high, low] = &self.0;
        BlockKey(u128::from(high.hash_one(what)) << 64 | u128::from(low.hash_one(what)))
    }
}
