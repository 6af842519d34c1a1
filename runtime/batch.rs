//! One step's work, passed explicitly from the scheduler to the model: integers only.

use crate::{Result, memory};

pub use aieng_kernels::BLOCK_TOKENS;

/// Tokens of several sequences, end to end: one token of each that decodes, a chunk of each that is being prefilled.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Batch {
    /// `[T]`: tokens to compute.
    pub token_ids: Vec<u32>,
    /// `[T]`: position of each in its sequence.
    pub positions: Vec<u32>,
    /// `[T]`: slot of the KV cache that each is written to.
    pub slot_mapping: Vec<u32>,
    /// `[S + 1]`: sequence `s` owns tokens `cu_seqlens_q[s]..cu_seqlens_q[s + 1]`.
    pub cu_seqlens_q: Vec<u32>,
    /// `[S]`: tokens of each sequence in the cache after this step.
    pub context_lens: Vec<u32>,
    /// Block ids of all sequences, end to end.
    pub block_tables: Vec<u32>,
    /// `[S + 1]`: sequence `s` owns `block_tables[cu_blocks[s]..cu_blocks[s + 1]]`.
    pub cu_blocks: Vec<u32>,
    /// `[L]`, ascending: tokens whose logits are wanted.
    pub logits_indices: Vec<u32>,
    /// Blocks (from, to) to copy, in this order, before anything is computed.
    pub copies: Vec<(u32, u32)>,
}

impl Batch {
    /// An empty batch that need not grow for `tokens` tokens of `sequences` sequences, with `blocks` entries in all tables.
    pub fn with_capacity(tokens: usize, sequences: usize, blocks: usize) -> Result<Batch> {
        let list = |count| memory::list("batch", count);
        let mut batch = Batch {
            token_ids: list(tokens)?,
            positions: list(tokens)?,
            slot_mapping: list(tokens)?,
            cu_seqlens_q: list(sequences + 1)?,
            context_lens: list(sequences)?,
            block_tables: list(blocks)?,
            cu_blocks: list(sequences + 1)?,
            logits_indices: list(tokens)?,
            copies: memory::list("batch", sequences)?,
        };
        batch.clear();
        Ok(batch)
    }

    /// Forgets all sequences, and keeps the memory.
    pub fn clear(&mut self) {
        self.copies.clear();
        let Batch { token_ids, positions, slot_mapping, context_lens, block_tables, logits_indices, .. } = self;
        for list in [token_ids, positions, slot_mapping, context_lens, block_tables, logits_indices] {
            list.clear();
        }
        for sums in [&mut self.cu_seqlens_q, &mut self.cu_blocks] {
            sums.clear();
            sums.push(0);
        }
    }

    /// Adds a sequence: `tokens` stand at `first..first + tokens.len()`, in the blocks of `table`.
    pub fn push(&mut self, tokens: &[u32], first: usize, table: &[u32], logits: Logits) {
        let block = BLOCK_TOKENS;
        for (i, token) in tokens.iter().enumerate() {
            let position = first + i;
            self.token_ids.push(*token);
            self.positions.push(position as u32);
            self.slot_mapping.push(table[position / block] * block as u32 + (position % block) as u32);
            if logits == Logits::All || (logits == Logits::Last && i + 1 == tokens.len()) {
                self.logits_indices.push(self.token_ids.len() as u32 - 1);
            }
        }
        self.cu_seqlens_q.push(self.token_ids.len() as u32);
        self.context_lens.push((first + tokens.len()) as u32);
        self.block_tables.extend_from_slice(table);
        self.cu_blocks.push(self.block_tables.len() as u32);
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.token_ids.len()
    }

    /// Whether there is nothing to compute.
    pub fn is_empty(&self) -> bool {
        self.token_ids.is_empty()
    }
}

/// Which tokens of a sequence need logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logits {
    /// A chunk of a prompt that goes on.
    None,
    /// The token that the next one is sampled after.
    Last,
    /// Every token: scoring.
    All,
}
