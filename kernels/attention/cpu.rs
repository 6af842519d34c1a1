//! Tiles of up to 8 query rows that share a KV head, over the blocks that any of them sees.
//!
//! Positions are visited in chunks of 64, four blocks: first all scores of a chunk, then the weights, then the values. A
//! block's 16 scores are one vector; each key element is loaded once for all rows of the tile, each value too. A row is
//! a query token and head; what it computes is the same in any tile: chunks begin at multiples of 64, and where only other
//! rows see a token, its weight is exactly 0.

use super::{AttentionParams, MAX_HEAD_DIM, Sequence, Sequences};
use crate::cpu::{Cpu, Kernel, LANES, Simd, SyncMutPtr, exp, sigmoid};
use crate::kv_write::{KvBf16, KvElement, KvF16, KvF32, KvQ8};
use crate::{BLOCK_TOKENS, KvCache, KvDType, Tensor, TensorMut};
use std::mem::MaybeUninit;
use std::ops::Range;

const _: () = assert!(BLOCK_TOKENS == LANES, "a block's scores fill one vector");

/// Query rows of a tile.
const TILE: usize = 8;
/// Blocks of a chunk.
const CHUNK: usize = 4;
/// Rows for which computing takes less time than reading from memory.
const FEW: usize = 4;
/// Tokens of a chunk.
const TOKENS: usize = CHUNK * BLOCK_TOKENS;

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
                // Rows that are not there cost less than further passes over the cache, or further kernels.
                let done = match left {
                    1 => self.tile::<S, E, 1>(sequence, kv_head, start, left),
                    2..=4 => self.tile::<S, E, 4>(sequence, kv_head, start, left),
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
        let mut state = State::<S, E, R>::new(dim, self.params.softcap);
        // SAFETY: the instruction set is the caller's; blocks were checked against the cache, rows against q and out.
        unsafe {
            for r in 0..R {
                let (token, head) = row_of(r);
                let q = &self.q.row(sequence.q_start + token)[head * dim..][..dim];
                state.set_row(r, q, self.params.scale, sequence.visible(token, self.params.window));
            }
            let start = state.visible.iter().map(|v| v.start).min().unwrap_or(0) / BLOCK_TOKENS;
            let end = state.visible.iter().map(|v| v.end).max().unwrap_or(0).div_ceil(BLOCK_TOKENS);
            let (layer, layout) = (self.cache.layer(self.layer).as_ptr(), self.cache.layout(self.layer));
            let block_at = |b: usize| {
                let block = sequence.blocks[b] as usize;
                Block {
                    keys: layer.add(layout.keys_at(block, kv_head)).cast(),
                    values: layer.add(layout.values_at(block, kv_head)).cast(),
                }
            };
            let mut b = start;
            while b < end {
                let chunk_end = end.min((b / CHUNK + 1) * CHUNK);
                let chunk_start = b / CHUNK * CHUNK;
                let block = |i: usize| block_at((chunk_start + i).clamp(b, chunk_end - 1));
                let blocks = std::array::from_fn(block);
                // Of the chunk after this one, or of this one again.
                let ahead = |i: usize| block_at((chunk_start + CHUNK + i).min(end - 1));
                let next = std::array::from_fn(ahead);
                let (first, last) = (b - chunk_start, chunk_end - chunk_start);
                state.chunk(chunk_start * BLOCK_TOKENS, &Chunk { first, last, blocks, next });
                b = chunk_end;
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

/// A KV head of a block: elements of type B, then their scales where they have some.
#[derive(Clone, Copy)]
struct Block<B> {
    keys: *const B,
    values: *const B,
}

/// Blocks `first..last` of a chunk; in the others' places stand some of these, so that all can be read.
struct Chunk<B> {
    first: usize,
    last: usize,
    blocks: [Block<B>; CHUNK],
    /// What will be read after: few rows are done before memory has answered, unless it was asked a chunk ahead.
    next: [Block<B>; CHUNK],
}

/// R rows of an online softmax.
struct State<S: Simd, E: KvElement, const R: usize> {
    dim: usize,
    softcap: Option<f32>,
    /// Scaled queries, as words for E's products: the rows' first words, their second ones, and so on.
    q: [[MaybeUninit<u32>; R]; MAX_HEAD_DIM],
    /// Weighted sums of values; the first `dim` of each are set.
    acc: [[MaybeUninit<f32>; MAX_HEAD_DIM]; R],
    /// Scores of a chunk, and then weights as words for E's products.
    scores: [[MaybeUninit<f32>; TOKENS]; R],
    weights: [[MaybeUninit<u32>; TOKENS]; R],
    /// Greatest score and sum of weights so far.
    max: [f32; R],
    total: [f32; R],
    visible: [Range<usize>; R],
    _formats: std::marker::PhantomData<(S, E)>,
}

impl<S: Simd, E: KvElement, const R: usize> State<S, E, R> {
    #[inline(always)]
    fn new(dim: usize, softcap: Option<f32>) -> Self {
        State {
            dim,
            softcap,
            q: [[MaybeUninit::uninit(); R]; MAX_HEAD_DIM],
            acc: [[MaybeUninit::uninit(); MAX_HEAD_DIM]; R],
            scores: [[MaybeUninit::uninit(); TOKENS]; R],
            weights: [[MaybeUninit::uninit(); TOKENS]; R],
            max: [f32::NEG_INFINITY; R],
            total: [0.0; R],
            visible: [const { 0..0 }; R],
            _formats: std::marker::PhantomData,
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
                let mut words = [0u32; LANES];
                E::store_words::<S>(words.as_mut_ptr(), S::mul(S::load(q.as_ptr().add(d)), S::splat(scale)));
                for (i, word) in words.iter().enumerate().take(LANES / E::PAIRING) {
                    self.q[d / E::PAIRING + i][r].write(*word);
                }
                S::store(self.acc[r].as_mut_ptr().cast::<f32>().add(d), S::splat(0.0));
            }
        }
    }

    /// Takes in the chunk whose first token is at `position`.
    ///
    /// # Safety
    /// The chunk's blocks have `dim` keys of 16 tokens and 16 values of `dim` elements, and scales if E has.
    #[inline(always)]
    unsafe fn chunk(&mut self, position: usize, chunk: &Chunk<E::Bits>) {
        // SAFETY: the caller's.
        unsafe {
            // As many blocks at once as there are registers for their scores.
            if R >= 8 {
                for b in (chunk.first / 2 * 2..chunk.last).step_by(2) {
                    self.score::<2>(chunk, b);
                }
            } else {
                self.score::<CHUNK>(chunk, 0);
            }
            // Tokens that some row sees: others may hold anything.
            let (mut first, mut last) = (TOKENS, 0);
            for r in 0..R {
                let from = self.visible[r].start.clamp(position, position + TOKENS) - position;
                let to = self.visible[r].end.clamp(position, position + TOKENS) - position;
                if from < to {
                    (first, last) = (first.min(from), last.max(to));
                }
                self.weigh(r, chunk, from, to);
            }
            if first < last {
                self.accumulate(chunk, first..last);
            }
        }
    }

    /// Scores of blocks `b..b + N`.
    #[inline(always)]
    unsafe fn score<const N: usize>(&mut self, chunk: &Chunk<E::Bits>, b: usize) {
        // SAFETY: the caller's.
        unsafe {
            let mut sums = [[S::splat(0.0); R]; N];
            let q: *const u32 = self.q.as_ptr().cast();
            for step in 0..self.dim / E::PAIRING {
                for (n, sums) in sums.iter_mut().enumerate() {
                    let k = E::load::<S>(chunk.blocks[b + n].keys.add(step * LANES * E::PAIRING));
                    if R <= FEW {
                        S::prefetch(chunk.next[b + n].keys.wrapping_add(step * LANES * E::PAIRING).cast());
                    }
                    for (r, sum) in sums.iter_mut().enumerate() {
                        *sum = E::fma::<S>(k, *q.add(step * R + r), *sum);
                    }
                }
            }
            for (n, sums) in sums.iter().enumerate() {
                for (r, sum) in sums.iter().enumerate() {
                    let mut score = *sum;
                    if E::SCALED {
                        score = S::mul(score, S::load(chunk.blocks[b + n].keys.add(self.dim * BLOCK_TOKENS).cast()));
                    }
                    S::store(self.scores[r].as_mut_ptr().cast::<f32>().add((b + n) * LANES), score);
                }
            }
        }
    }

    /// Turns the scores of a chunk into weights of row `r`, which sees tokens `from..to` of it, and rescales what the row
    /// has gathered to the new maximum.
    #[inline(always)]
    unsafe fn weigh(&mut self, r: usize, chunk: &Chunk<E::Bits>, from: usize, to: usize) {
        // SAFETY: the caller's.
        unsafe {
            let scores: *mut f32 = self.scores[r].as_mut_ptr().cast();
            let mut max = S::splat(f32::NEG_INFINITY);
            for b in chunk.first..chunk.last {
                let mut score = S::load(scores.add(b * LANES));
                if let Some(cap) = self.softcap {
                    // cap * tanh(s / cap) = cap * (2 sigmoid(2 s / cap) - 1)
                    let bent = sigmoid::<S>(S::mul(score, S::splat(2.0 / cap)));
                    score = S::fma(bent, S::splat(2.0 * cap), S::splat(-cap));
                }
                let (from, to) = lanes(b, from, to);
                score = S::select_range(from, to, score, S::splat(f32::NEG_INFINITY));
                S::store(scores.add(b * LANES), score);
                max = S::max(max, score);
            }
            let max = S::max_lane(max);
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
            let mut total = S::splat(0.0);
            for b in chunk.first..chunk.last {
                let (from, to) = lanes(b, from, to);
                let weight = exp::<S>(S::sub(S::load(scores.add(b * LANES)), S::splat(self.max[r])));
                let mut weight = S::select_range(from, to, weight, S::splat(0.0));
                total = S::add(total, weight);
                if E::SCALED {
                    // Slots that hold nothing may have any scale.
                    let scale = S::load(chunk.blocks[b].values.add(self.dim * BLOCK_TOKENS).cast());
                    weight = S::select_range(from, to, S::mul(weight, scale), S::splat(0.0));
                }
                let words = self.weights[r].as_mut_ptr().cast::<u32>();
                E::store_words::<S>(words.add(b * LANES / E::PAIRING), weight);
            }
            self.total[r] += S::sum(total);
        }
    }

    /// Adds the weighted values of the tokens in `seen`.
    #[inline(always)]
    unsafe fn accumulate(&mut self, chunk: &Chunk<E::Bits>, seen: Range<usize>) {
        // SAFETY: the caller's.
        unsafe {
            let mut weights: [*const u32; R] = [std::ptr::null(); R];
            let mut acc: [*mut f32; R] = [std::ptr::null_mut(); R];
            for r in 0..R {
                weights[r] = self.weights[r].as_ptr().cast();
                acc[r] = self.acc[r].as_mut_ptr().cast();
            }
            for d in (0..self.dim).step_by(LANES) {
                let mut sums = [S::splat(0.0); R];
                for r in 0..R {
                    sums[r] = S::load(acc[r].add(d));
                }
                for b in chunk.first..chunk.last {
                    let (from, to) = lanes(b, seen.start, seen.end);
                    for step in from / E::PAIRING..to.div_ceil(E::PAIRING) {
                        let at = (step * self.dim + d) * E::PAIRING;
                        let mut v = E::load::<S>(chunk.blocks[b].values.add(at));
                        if R <= FEW {
                            S::prefetch(chunk.next[b].values.wrapping_add(at).cast());
                        }
                        if step * E::PAIRING < from {
                            v = E::one_of_pair::<S>(v, true);
                        }
                        if (step + 1) * E::PAIRING > to {
                            v = E::one_of_pair::<S>(v, false);
                        }
                        for r in 0..R {
                            sums[r] = E::fma::<S>(v, *weights[r].add(b * LANES / E::PAIRING + step), sums[r]);
                        }
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

/// What tokens `from..to` of a chunk are in its block `b`.
#[inline(always)]
fn lanes(b: usize, from: usize, to: usize) -> (usize, usize) {
    let lane = |token: usize| token.clamp(b * LANES, (b + 1) * LANES) - b * LANES;
    (lane(from), lane(to))
}
