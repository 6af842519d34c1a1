//! The oracle: scores of all visible positions, a plain softmax in f64, a weighted sum.

use super::{AttentionParams, Sequence, Sequences};
use crate::kv_write::read;
use crate::{BLOCK_TOKENS, KvCache, Tensor, TensorMut};

pub fn attention(
    q: Tensor,
    cache: &KvCache,
    layer: usize,
    sequences: Sequences,
    params: AttentionParams,
    out: &mut TensorMut,
) {
    let shape = cache.shape(layer);
    let dtype = cache.dtype();
    let (dim, group, layout) = (shape.head_dim, params.heads / shape.heads, cache.layout(layer));
    for s in 0..sequences.context_lens.len() {
        let sequence = Sequence::new(&sequences, s);
        for token in 0..sequence.q_len {
            let visible = sequence.visible(token, params.window);
            for head in 0..params.heads {
                let row = sequence.q_start + token;
                let q = &q.row(row)[head * dim..][..dim];
                let key = |j: usize, d: usize| {
                    let (block, token) = (sequence.blocks[j / BLOCK_TOKENS] as usize, j % BLOCK_TOKENS);
                    read(cache, layer, layout.keys_at(block, head / group), dtype.key_index(d, token), token)
                };
                let value = |j: usize, d: usize| {
                    let (block, token) = (sequence.blocks[j / BLOCK_TOKENS] as usize, j % BLOCK_TOKENS);
                    read(cache, layer, layout.values_at(block, head / group), dtype.value_index(d, token, dim), token)
                };
                let score = |j: usize| {
                    let s = (0..dim).map(|d| f64::from(q[d]) * key(j, d)).sum::<f64>() * f64::from(params.scale);
                    params.softcap.map_or(s, |cap| f64::from(cap) * (s / f64::from(cap)).tanh())
                };
                let scores: Vec<f64> = visible.clone().map(score).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                let total: f64 = weights.iter().sum();
                for d in 0..dim {
                    let sum: f64 = visible.clone().zip(&weights).map(|(j, w)| w * value(j, d)).sum();
                    out.row_mut(row)[head * dim + d] = (sum / total) as f32;
                }
            }
        }
    }
}
