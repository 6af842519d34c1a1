//! Tiles of up to 8 query rows that share a KV head, over the blocks that any of them sees.
//!
//! A block's 16 scores are one vector; each key element is loaded once for all rows of the tile, each value too. A row is
//! a query token and head; what it computes is the same in any tile: blocks it does not see are skipped, and a value's
//! weight is exactly 0 where only other rows see it.

use super::{AttentionParams, MAX_HEAD_DIM, Sequence, Sequences};
use crate::cpu::{Cpu, Kernel, LANES, Simd, SyncMutPtr, exp, sigmoid};
use crate::kv_write::{KvBf16, KvElement, KvF16, KvF32, KvQ8};
use crate::{BLOCK_TOKENS, KvCache, KvDType, Tensor, TensorMut};
use std::mem::MaybeUninit;
use std::ops::Range;

const _: () = assert!(BLOCK_TOKENS == LANES, "a block's scores fill one vector");

/// Query rows of a tile.
const TILE: usize = 8;

pub fn attention(
    cpu: &Cpu,
    q: Tensor,
    cache: &KvCache,
    layer: usize,
    sequences: Sequences,
    params: AttentionParams,
    out: &mut TensorMut,
) {
    let (out, out_stride) = (SyncMutPtr(out.ptr()), out.stride());
    let tiles = Tiles { q, cache, layer, sequences, params, out, out_stride, items: 0..0 };
    let items = (0..sequences.context_lens.len()).map(|s| tiles.tiles_of(&Sequence::new(&sequences, s))).sum();
    cpu.parallel(items, 1, |items| Tiles { items, ..tiles.clone() });
}

/// Some tiles of the batch: item by item, sequence after sequence, KV head after KV head.
#[derive(Clone)]
struct Tiles<'a> {
    q: Tensor<'a>,
    cache: &'a KvCache,
    layer: usize,
    sequences: Sequences<'a>,
    params: AttentionParams,
    out: SyncMutPtr<f32>,
    out_stride: usize,
    items: Range<usize>,
}

impl Kernel for Tiles<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let mut first = 0;
        for s in 0..self.sequences.context_lens.len() {
            let sequence = Sequence::new(&self.sequences, s);
            let last = first + self.tiles_of(&sequence);
            for item in self.items.start.max(first)..self.items.end.min(last) {
                self.item::<S>(&sequence, item - first);
            }
            first = last;
        }
    }
}

impl Tiles<'_> {
    fn group(&self) -> usize {
        self.params.heads / self.cache.shape(self.layer).heads
    }

    fn tiles_of(&self, sequence: &Sequence) -> usize {
        self.cache.shape(self.layer).heads * (sequence.q_len * self.group()).div_ceil(TILE)
    }

    #[inline(always)]
    fn item<S: Simd>(&self, sequence: &Sequence, item: usize) {
        let rows = sequence.q_len * self.group();
        let (kv_head, tile) = (item / rows.div_ceil(TILE), item % rows.div_ceil(TILE));
        let rows = tile * TILE..rows.min((tile + 1) * TILE);
        // SAFETY: Isa::run vouches for the instruction set; the cache's elements have the type that is named.
        unsafe {
            match self.cache.dtype() {
                KvDType::F32 => self.rows::<S, KvF32>(sequence, kv_head, rows),
                KvDType::F16 => self.rows::<S, KvF16>(sequence, kv_head, rows),
                KvDType::BF16 => self.rows::<S, KvBf16>(sequence, kv_head, rows),
                KvDType::Q8 => self.rows::<S, KvQ8>(sequence, kv_head, rows),
            }
        }
    }

    /// # Safety
    /// Needs the instruction set; E is the cache's element type.
    #[inline(always)]
    unsafe fn rows<S: Simd, E: KvElement>(&self, sequence: &Sequence, kv_head: usize, rows: Range<usize>) {
        // SAFETY: the caller's.
        unsafe {
            let mut start = rows.start;
            while start < rows.end {
                let left = rows.end - start;
                // Five to seven rows use eight lanes of work rather than two passes over the cache.
                let done = match left {
                    1 => self.tile::<S, E, 1>(sequence, kv_head, start, left),
                    2 => self.tile::<S, E, 2>(sequence, kv_head, start, left),
                    3 | 4 => self.tile::<S, E, 4>(sequence, kv_head, start, left),
                    _ if S::ROWS >= 8 => self.tile::<S, E, 8>(sequence, kv_head, start, left),
                    _ => self.tile::<S, E, 4>(sequence, kv_head, start, left),
                };
                start += done;
            }
        }
    }

    /// Query rows `first..first + min(left, R)`; returns how many. Where fewer than R are left the last one is repeated.
    ///
    /// # Safety
    /// As [`Tiles::rows`].
    #[inline(always)]
    unsafe fn tile<S: Simd, E: KvElement, const R: usize>(
        &self,
        sequence: &Sequence,
        kv_head: usize,
        first: usize,
        left: usize,
    ) -> usize {
        let (shape, group) = (self.cache.shape(self.layer), self.group());
        let (dim, count) = (shape.head_dim, left.min(R));
        let row_of = |r: usize| {
            let row = first + r.min(count - 1);
            (row / group, kv_head * group + row % group)
        };
        let mut state = State::<S, R>::new(dim);
        // SAFETY: the instruction set is the caller's; blocks were checked against the cache, rows against q and out.
        unsafe {
            for r in 0..R {
                let (token, head) = row_of(r);
                let q = &self.q.row(sequence.q_start + token)[head * dim..][..dim];
                state.set_row(r, q, self.params.scale, sequence.visible(token, self.params.window));
            }
            let start = state.visible.iter().map(|v| v.start).min().unwrap_or(0);
            let end = state.visible.iter().map(|v| v.end).max().unwrap_or(0);
            let (layer, layout) = (self.cache.layer(self.layer).as_ptr(), self.cache.layout(self.layer));
            for b in start / BLOCK_TOKENS..end.div_ceil(BLOCK_TOKENS) {
                let block = sequence.blocks[b] as usize;
                let keys = layer.add(layout.keys_at(block, kv_head)).cast();
                let values = layer.add(layout.values_at(block, kv_head)).cast();
                state.block::<E>(b * BLOCK_TOKENS, keys, values, self.params.softcap);
            }
            for r in 0..count {
                let (token, head) = row_of(r);
                let out = self.out.get().add((sequence.q_start + token) * self.out_stride + head * dim);
                state.finish(r, out);
            }
        }
        count
    }
}

/// R rows of an online softmax.
struct State<S: Simd, const R: usize> {
    dim: usize,
    /// Scaled queries, and the weighted sums of values; the first `dim` of each are set.
    q: [[MaybeUninit<f32>; MAX_HEAD_DIM]; R],
    acc: [[MaybeUninit<f32>; MAX_HEAD_DIM]; R],
    /// Greatest score and sum of weights so far.
    max: [f32; R],
    total: [f32; R],
    visible: [Range<usize>; R],
    _simd: std::marker::PhantomData<S>,
}

impl<S: Simd, const R: usize> State<S, R> {
    #[inline(always)]
    fn new(dim: usize) -> Self {
        State {
            dim,
            q: [[MaybeUninit::uninit(); MAX_HEAD_DIM]; R],
            acc: [[MaybeUninit::uninit(); MAX_HEAD_DIM]; R],
            max: [f32::NEG_INFINITY; R],
            total: [0.0; R],
            visible: [const { 0..0 }; R],
            _simd: std::marker::PhantomData,
        }
    }

    /// # Safety
    /// Needs the instruction set (as all below); `q` has `dim` elements.
    #[inline(always)]
    unsafe fn set_row(&mut self, r: usize, q: &[f32], scale: f32, visible: Range<usize>) {
        self.visible[r] = visible;
        // SAFETY: dim is at most MAX_HEAD_DIM and a multiple of 16.
        unsafe {
            for d in (0..self.dim).step_by(LANES) {
                S::store(
                    self.q[r].as_mut_ptr().cast::<f32>().add(d),
                    S::mul(S::load(q.as_ptr().add(d)), S::splat(scale)),
                );
                S::store(self.acc[r].as_mut_ptr().cast::<f32>().add(d), S::splat(0.0));
            }
        }
    }

    /// Takes in the block whose first token is at `position`.
    ///
    /// # Safety
    /// `keys` and `values` are the block's.
    #[inline(always)]
    unsafe fn block<E: KvElement>(
        &mut self,
        position: usize,
        keys: *const E::Bits,
        values: *const E::Bits,
        softcap: Option<f32>,
    ) {
        // SAFETY: the block has `dim` keys of 16 tokens and 16 values of `dim` elements.
        unsafe {
            let mut scores = [S::splat(0.0); R];
            let q: [*const f32; R] = std::array::from_fn(|r| self.q[r].as_ptr().cast());
            for d in 0..self.dim {
                let k = E::load::<S>(keys.add(d * BLOCK_TOKENS));
                for r in 0..R {
                    scores[r] = S::fma(k, S::splat(*q[r].add(d)), scores[r]);
                }
            }
            if E::SCALED {
                let scale = S::load(keys.add(self.dim * BLOCK_TOKENS).cast());
                for r in 0..R {
                    scores[r] = S::mul(scores[r], scale);
                }
            }
            let mut weights = [[0.0f32; LANES]; R];
            // Tokens that some row sees: from the first to before the last.
            let (mut first, mut last) = (LANES, 0);
            for r in 0..R {
                let from = self.visible[r].start.clamp(position, position + LANES) - position;
                let to = self.visible[r].end.clamp(position, position + LANES) - position;
                if from < to {
                    (first, last) = (first.min(from), last.max(to));
                    let mut w = self.weigh(r, scores[r], from, to, softcap);
                    if E::SCALED {
                        // Slots that hold nothing may have any scale.
                        let scale = S::load(values.add(self.dim * BLOCK_TOKENS).cast());
                        w = S::select_range(from, to, S::mul(w, scale), S::splat(0.0));
                    }
                    S::store(weights[r].as_mut_ptr(), w);
                }
            }
            self.accumulate::<E>(&weights, values, first..last);
        }
    }

    /// Turns the scores of a block into weights of row `r`, and rescales what the row has gathered to the new maximum.
    #[inline(always)]
    unsafe fn weigh(&mut self, r: usize, scores: S::F, from: usize, to: usize, softcap: Option<f32>) -> S::F {
        // SAFETY: the caller's.
        unsafe {
            let mut scores = scores;
            if let Some(cap) = softcap {
                // cap * tanh(s / cap) = cap * (2 sigmoid(2 s / cap) - 1)
                let bent = sigmoid::<S>(S::mul(scores, S::splat(2.0 / cap)));
                scores = S::fma(bent, S::splat(2.0 * cap), S::splat(-cap));
            }
            scores = S::select_range(from, to, scores, S::splat(f32::NEG_INFINITY));
            let max = S::max_lane(scores);
            if max > self.max[r] {
                let rescale = exp::<S>(S::splat(self.max[r] - max));
                let acc = self.acc[r].as_mut_ptr().cast::<f32>();
                for d in (0..self.dim).step_by(LANES) {
                    S::store(acc.add(d), S::mul(S::load(acc.add(d)), rescale));
                }
                let mut lanes = [0.0; LANES];
                S::store(lanes.as_mut_ptr(), rescale);
                self.total[r] *= lanes[0];
                self.max[r] = max;
            }
            let weights = exp::<S>(S::sub(scores, S::splat(self.max[r])));
            let weights = S::select_range(from, to, weights, S::splat(0.0));
            self.total[r] += S::sum(weights);
            weights
        }
    }

    /// Adds the weighted values of the tokens in `seen`: those that some row sees, for others may hold anything.
    #[inline(always)]
    unsafe fn accumulate<E: KvElement>(
        &mut self,
        weights: &[[f32; LANES]; R],
        values: *const E::Bits,
        seen: Range<usize>,
    ) {
        // SAFETY: the caller's.
        unsafe {
            let mut acc: [*mut f32; R] = [std::ptr::null_mut(); R];
            for r in 0..R {
                acc[r] = self.acc[r].as_mut_ptr().cast();
            }
            for d in (0..self.dim).step_by(LANES) {
                let mut sums = [S::splat(0.0); R];
                for r in 0..R {
                    sums[r] = S::load(acc[r].add(d));
                }
                for token in seen.clone() {
                    let v = E::load::<S>(values.add(token * self.dim + d));
                    for r in 0..R {
                        sums[r] = S::fma(v, S::splat(weights[r][token]), sums[r]);
                    }
                }
                for r in 0..R {
                    S::store(acc[r].add(d), sums[r]);
                }
            }
        }
    }

    /// Writes row `r`'s result.
    ///
    /// # Safety
    /// `out` has room for `dim` elements.
    #[inline(always)]
    unsafe fn finish(&self, r: usize, out: *mut f32) {
        // SAFETY: the caller's.
        unsafe {
            let acc = self.acc[r].as_ptr().cast::<f32>();
            let scale = S::splat(1.0 / self.total[r]);
            for d in (0..self.dim).step_by(LANES) {
                S::store(out.add(d), S::mul(S::load(acc.add(d)), scale));
            }
        }
    }
}
