//! The cases that attention is checked on, by each device's tests.

use super::{AttentionParams, Partials, Sequences, attention};
use crate::kv_write::{KvShape, kv_write};
use crate::testing::{Matrix, Rng};
use crate::{BLOCK_TOKENS, Device, KvCache, KvDType};

/// A shape.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Query heads.
    pub heads: usize,
    /// KV heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub dim: usize,
    /// (query rows, context) of each sequence.
    pub sequences: &'static [(usize, usize)],
    /// As in [`AttentionParams`].
    pub window: Option<u32>,
    /// As in [`AttentionParams`].
    pub softcap: Option<f32>,
}

/// All of them.
pub const CASES: [Case; 11] = [
    Case { heads: 1, kv_heads: 1, dim: 16, sequences: &[(1, 1)], window: None, softcap: None },
    Case { heads: 9, kv_heads: 3, dim: 64, sequences: &[(1, 17), (1, 100), (5, 5)], window: None, softcap: None },
    Case { heads: 4, kv_heads: 1, dim: 256, sequences: &[(33, 33), (1, 16)], window: Some(20), softcap: None },
    Case { heads: 2, kv_heads: 2, dim: 80, sequences: &[(7, 40), (16, 31)], window: None, softcap: Some(5.0) },
    Case { heads: 14, kv_heads: 2, dim: 64, sequences: &[(3, 70)], window: Some(1), softcap: None },
    Case { heads: 6, kv_heads: 2, dim: 32, sequences: &[(65, 130)], window: Some(64), softcap: Some(30.0) },
    Case { heads: 5, kv_heads: 1, dim: 512, sequences: &[(2, 19)], window: None, softcap: None },
    // Contexts longer than what any device sums in one piece.
    Case { heads: 4, kv_heads: 2, dim: 32, sequences: &[(1, 700), (1, 1), (3, 513)], window: None, softcap: None },
    Case { heads: 8, kv_heads: 1, dim: 64, sequences: &[(20, 600)], window: Some(300), softcap: None },
    Case { heads: 20, kv_heads: 1, dim: 128, sequences: &[(1, 300), (2, 290)], window: None, softcap: None },
    Case { heads: 4, kv_heads: 2, dim: 32, sequences: &[(4, 600), (1, 1024)], window: Some(300), softcap: None },
];

/// A batch: queries of its rows, keys and values of all its tokens, and blocks in random order.
#[derive(Debug, Clone)]
pub struct Batch {
    /// `[T, heads * dim]`
    pub q: Matrix,
    /// `[context, kv_heads * dim]` of each sequence.
    pub keys: Vec<Matrix>,
    /// As the keys.
    pub values: Vec<Matrix>,
    /// As in [`Sequences`].
    pub cu_seqlens_q: Vec<u32>,
    /// As in [`Sequences`].
    pub context_lens: Vec<u32>,
    /// As in [`Sequences`].
    pub block_tables: Vec<u32>,
    /// As in [`Sequences`].
    pub cu_blocks: Vec<u32>,
    /// Blocks of the cache: some are nobody's.
    pub blocks: usize,
    /// What a token has in the cache.
    pub shape: KvShape,
    /// The operation's.
    pub params: AttentionParams,
}

impl Batch {
    /// Random numbers for a case.
    pub fn new(case: &Case, seed: u64) -> Batch {
        let mut rng = Rng::new(seed);
        let blocks: usize = case.sequences.iter().map(|s| s.1.div_ceil(BLOCK_TOKENS)).sum::<usize>() + 3;
        let mut order = rng.permutation(blocks).into_iter().map(|block| block as u32);
        let (mut cu_seqlens_q, mut cu_blocks) = (vec![0], vec![0]);
        let (mut context_lens, mut block_tables) = (Vec::new(), Vec::new());
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (q_len, context) in case.sequences {
            block_tables.extend(order.by_ref().take(context.div_ceil(BLOCK_TOKENS)));
            keys.push(Matrix::random(&mut rng, *context, case.kv_heads * case.dim));
            values.push(Matrix::random(&mut rng, *context, case.kv_heads * case.dim));
            cu_seqlens_q.push(cu_seqlens_q.last().unwrap() + *q_len as u32);
            cu_blocks.push(block_tables.len() as u32);
            context_lens.push(*context as u32);
        }
        let rows = *cu_seqlens_q.last().unwrap() as usize;
        let q = Matrix::random(&mut rng, rows, case.heads * case.dim);
        let scale = 1.0 / (case.dim as f32).sqrt();
        let params = AttentionParams { heads: case.heads, scale, window: case.window, softcap: case.softcap };
        let shape = KvShape { heads: case.kv_heads, head_dim: case.dim };
        Batch { q, keys, values, cu_seqlens_q, context_lens, block_tables, cu_blocks, blocks, shape, params }
    }

    /// The slots of sequence `s`'s tokens.
    pub fn slots(&self, s: usize) -> Vec<u32> {
        let blocks = &self.block_tables[self.cu_blocks[s] as usize..];
        let slot = |p: usize| blocks[p / BLOCK_TOKENS] * BLOCK_TOKENS as u32 + (p % BLOCK_TOKENS) as u32;
        (0..self.context_lens[s] as usize).map(slot).collect()
    }

    /// A cache with the batch's keys and values; slots that hold no token are poisoned with NaN.
    pub fn cache(&self, dtype: KvDType) -> KvCache {
        let mut cache = KvCache::new(dtype, vec![self.shape], self.blocks).unwrap();
        let all: Vec<u32> = (0..(self.blocks * BLOCK_TOKENS) as u32).collect();
        let poison = Matrix::filled(all.len(), self.shape.heads * self.shape.head_dim, f32::NAN);
        kv_write(&Device::Reference, poison.view(), poison.view(), &all, &mut cache, 0);
        for (s, (keys, values)) in self.keys.iter().zip(&self.values).enumerate() {
            kv_write(&Device::Reference, keys.view(), values.view(), &self.slots(s), &mut cache, 0);
        }
        cache
    }

    /// What attention makes of it.
    pub fn run(&self, device: &Device, cache: &KvCache) -> Matrix {
        self.run_sharing(device, cache, 0)
    }

    /// The same, with room for threads to share so many tokens of context.
    pub fn run_sharing(&self, device: &Device, cache: &KvCache, room: usize) -> Matrix {
        let mut out = Matrix::poisoned(self.q.rows(), self.q.cols());
        let sequences = Sequences {
            cu_seqlens_q: &self.cu_seqlens_q,
            context_lens: &self.context_lens,
            block_tables: &self.block_tables,
            cu_blocks: &self.cu_blocks,
        };
        let mut partials = Partials::new(self.params.heads, self.shape.head_dim, room, 0).unwrap();
        attention(device, self.q.view(), cache, 0, sequences, self.params, &mut partials, &mut out.view_mut());
        out
    }

    /// The row of each sequence's last token.
    pub fn last_rows(&self) -> Vec<usize> {
        self.cu_seqlens_q[1..].iter().map(|end| *end as usize - 1).collect()
    }

    /// The same batch with the last row of each sequence alone.
    pub fn last_tokens(&self) -> Batch {
        let rows: Vec<f32> = self.last_rows().iter().flat_map(|r| self.q.view().row(*r).to_vec()).collect();
        let count = self.context_lens.len();
        let q = Matrix::from_rows(&rows, count, self.q.cols());
        Batch { q, cu_seqlens_q: (0..=count as u32).collect(), ..self.clone() }
    }
}
