//! Causal attention of a variable-length batch over the paged KV cache, with grouped queries.
//!
//! For the token at position `p` of a sequence and query head `h`, with `g = h / (heads / kv_heads)`:
//! `out = Σ_j softmax_j(cap(scale * q · k_g[j])) v_g[j]` over the positions `j <= p`, and with a window `j > p - window`;
//! `cap(s)` is `softcap * tanh(s / softcap)` or nothing. Keys are visited in pieces of 256 positions, which are summed by
//! themselves and merged in their order (online softmax, arXiv:1805.02867), so that threads can share a long context, and the
//! order of every sum follows from the position alone. On the CPU queries and weights are rounded to bf16 where the cache is
//! bf16.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(any(test, feature = "testing"))]
pub mod cases;
mod cpu;
mod reference;
mod state;
#[cfg(test)]
mod tests;

use crate::linear::OutOfMemory;
use crate::{BLOCK_TOKENS, Device, Floats, KvCache, Tensor, TensorMut};

/// Greatest head dimension.
pub const MAX_HEAD_DIM: usize = 512;

/// Positions that are summed by themselves.
const PIECE: usize = 256;

/// Room for the results of pieces of long contexts that threads share. What finds no room is not shared, with the same result.
#[derive(Debug)]
pub struct Partials(Floats);

impl Partials {
    /// Room for a row of `heads` heads for each sequence of up to `sequences` that together have `tokens` tokens of context.
    pub fn new(heads: usize, head_dim: usize, tokens: usize, sequences: usize) -> Result<Partials, OutOfMemory> {
        let pieces = (tokens / PIECE).saturating_add(sequences);
        let len = pieces.saturating_mul(heads).saturating_mul(state::record_len(head_dim));
        Floats::new(len).map(Partials).ok_or(OutOfMemory { bytes: len.saturating_mul(size_of::<f32>()) })
    }
}

/// The sequences of a batch. Sequence `s` owns query rows `cu_seqlens_q[s]..cu_seqlens_q[s + 1]`, its last tokens, and the
/// blocks `block_tables[cu_blocks[s]..cu_blocks[s + 1]]`, in the order of positions.
#[derive(Debug, Clone, Copy)]
pub struct Sequences<'a> {
    /// `[S + 1]`, ascending from 0.
    pub cu_seqlens_q: &'a [u32],
    /// `[S]`: tokens of each sequence, those of this step included; their keys and values are in the cache.
    pub context_lens: &'a [u32],
    /// Block ids of all sequences, end to end.
    pub block_tables: &'a [u32],
    /// `[S + 1]`, ascending from 0.
    pub cu_blocks: &'a [u32],
}

/// What a layer's attention is like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionParams {
    /// Query heads: a multiple of the cache's KV heads.
    pub heads: usize,
    /// Multiplies the scores.
    pub scale: f32,
    /// A token sees itself and the `window - 1` tokens before it; `None` sees all.
    pub window: Option<u32>,
    /// Bends scores into (-softcap, softcap).
    pub softcap: Option<f32>,
}

/// Attention of one layer.
///
/// Shapes: q and out `[T, heads * head_dim]`, T the last of `cu_seqlens_q`. Panics for shapes that do not fit, a sequence
/// with more query rows than tokens or fewer blocks than its tokens need, and a block outside the cache.
#[allow(clippy::too_many_arguments, reason = "each is what its name says")]
pub fn attention(
    device: &Device,
    q: Tensor,
    cache: &KvCache,
    layer: usize,
    sequences: Sequences,
    params: AttentionParams,
    partials: &mut Partials,
    out: &mut TensorMut,
) {
    check(q, cache, layer, sequences, params, out);
    match device {
        Device::Reference => reference::attention(q, cache, layer, sequences, params, out),
        Device::Cpu(cpu) => cpu::attention(cpu, q, cache, layer, sequences, params, partials, out),
    }
}

fn check(q: Tensor, cache: &KvCache, layer: usize, sequences: Sequences, params: AttentionParams, out: &TensorMut) {
    let shape = cache.shape(layer);
    assert!(shape.head_dim <= MAX_HEAD_DIM, "head_dim {} above {MAX_HEAD_DIM}", shape.head_dim);
    assert!(
        shape.heads > 0 && params.heads.is_multiple_of(shape.heads),
        "{} heads, {} of KV",
        params.heads,
        shape.heads
    );
    assert_eq!(q.cols(), params.heads * shape.head_dim, "columns of q");
    assert_eq!((q.rows(), q.cols()), (out.rows(), out.cols()), "shapes of q and out");
    let n = sequences.context_lens.len();
    assert_eq!(sequences.cu_seqlens_q.len(), n + 1, "length of cu_seqlens_q");
    assert_eq!(sequences.cu_blocks.len(), n + 1, "length of cu_blocks");
    assert_eq!(sequences.cu_seqlens_q[n] as usize, q.rows(), "query rows");
    assert_eq!(sequences.cu_blocks[n] as usize, sequences.block_tables.len(), "blocks");
    for s in 0..n {
        let sequence = Sequence::new(&sequences, s);
        assert!(sequence.q_len <= sequence.context, "sequence {s}: more query rows than tokens");
        assert!(sequence.blocks.len() * BLOCK_TOKENS >= sequence.context, "sequence {s}: too few blocks");
    }
    assert!(sequences.block_tables.iter().all(|b| (*b as usize) < cache.blocks()), "a block outside the cache");
}

/// One sequence of the batch.
struct Sequence<'a> {
    /// Its first query row.
    q_start: usize,
    q_len: usize,
    context: usize,
    blocks: &'a [u32],
}

impl<'a> Sequence<'a> {
    fn new(sequences: &Sequences<'a>, s: usize) -> Sequence<'a> {
        let range = |cu: &[u32]| cu[s] as usize..cu[s + 1] as usize;
        let rows = range(sequences.cu_seqlens_q);
        Sequence {
            q_start: rows.start,
            q_len: rows.len(),
            context: sequences.context_lens[s] as usize,
            blocks: &sequences.block_tables[range(sequences.cu_blocks)],
        }
    }

    /// Positions that query token `token` of this step sees.
    fn visible(&self, token: usize, window: Option<u32>) -> std::ops::Range<usize> {
        let end = self.context - self.q_len + token + 1;
        let start = window.map_or(0, |w| end.saturating_sub(w as usize));
        start..end
    }
}
