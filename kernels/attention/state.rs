//! The online softmax of a tile's rows.
//!
//! Positions are visited in chunks of 64, four blocks: first all scores of a chunk, then the weights, then the values. A
//! block's 16 scores are one vector; each key element is loaded once for all rows of the tile, each value too. A row is
//! a query token and head; what it computes is the same in any tile: chunks begin at multiples of 64, and where only other
//! rows see a token, its weight is exactly 0. Pieces, of several chunks, begin with nothing, and are then merged.

use super::MAX_HEAD_DIM;
use crate::BLOCK_TOKENS;
use crate::cpu::{LANES, Simd, exp, sigmoid};
use crate::kv_write::KvElement;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Blocks of a chunk.
pub(super) const CHUNK: usize = 4;
/// Rows for which computing takes less time than reading from memory.
const FEW: usize = 4;
/// Vectors of values that few rows take at once.
const WIDE: usize = 4;
/// Tokens of a chunk.
const TOKENS: usize = CHUNK * BLOCK_TOKENS;

/// What a row has gathered is a record: weighted sums of values, `dim` of them, the greatest score and the sum of weights.
pub(super) const fn record_len(dim: usize) -> usize {
    dim + LANES
}

/// Merges `part` into `sum`, both records; positions of `part` come after those of `sum`.
///
/// # Safety
/// Needs the instruction set, and records at both places.
#[inline(always)]
pub(super) unsafe fn merge<S: Simd>(sum: *mut f32, part: *const f32, dim: usize) {
    // SAFETY: the caller's.
    unsafe {
        let (old, new) = (*sum.add(dim), *part.add(dim));
        // One that saw nothing changes nothing.
        if new == f32::NEG_INFINITY {
            return;
        }
        if old == f32::NEG_INFINITY {
            return sum.copy_from_nonoverlapping(part, dim + 2);
        }
        let max = old.max(new);
        let (a, b) = (exp::<S>(S::splat(old - max)), exp::<S>(S::splat(new - max)));
        for d in (0..dim).step_by(LANES) {
            let part = S::mul(S::load(part.add(d)), b);
            S::store(sum.add(d), S::fma(S::load(sum.add(d)), a, part));
        }
        let mut lanes = [0.0; LANES];
        let total = S::fma(S::splat(*sum.add(dim + 1)), a, S::mul(S::splat(*part.add(dim + 1)), b));
        S::store(lanes.as_mut_ptr(), total);
        (*sum.add(dim), *sum.add(dim + 1)) = (max, lanes[0]);
    }
}

/// Writes the result of a record.
///
/// # Safety
/// Needs the instruction set and the record; `out` has room for `dim` elements.
#[inline(always)]
pub(super) unsafe fn finish<S: Simd>(record: *const f32, dim: usize, out: *mut f32) {
    // SAFETY: the caller's.
    unsafe {
        let scale = S::splat(1.0 / *record.add(dim + 1));
        for d in (0..dim).step_by(LANES) {
            S::store(out.add(d), S::mul(S::load(record.add(d)), scale));
        }
    }
}

/// A KV head of a block: elements of type B, then their scales where they have some.
#[derive(Clone, Copy)]
pub(super) struct Block<B> {
    pub keys: *const B,
    pub values: *const B,
}

/// Blocks `first..last` of a chunk; in the others' places stand some of these, so that all can be read.
pub(super) struct Chunk<B> {
    pub first: usize,
    pub last: usize,
    pub blocks: [Block<B>; CHUNK],
    /// What will be read after: few rows are done before memory has answered, unless it was asked a chunk ahead.
    pub next: [Block<B>; CHUNK],
}

/// R rows of an online softmax.
pub(super) struct State<S: Simd, E: KvElement, const R: usize> {
    dim: usize,
    softcap: Option<f32>,
    /// Scaled queries, as words for E's products: the rows' first words, their second ones, and so on.
    q: [[MaybeUninit<u32>; R]; MAX_HEAD_DIM],
    /// Records of the pieces so far, and of the current one, but for `max` and `total`.
    sum: [[MaybeUninit<f32>; record_len(MAX_HEAD_DIM)]; R],
    acc: [[MaybeUninit<f32>; record_len(MAX_HEAD_DIM)]; R],
    /// Scores of a chunk, and then weights as words for E's products.
    scores: [[MaybeUninit<f32>; TOKENS]; R],
    weights: [[MaybeUninit<u32>; TOKENS]; R],
    /// Greatest score and sum of weights of the current piece so far.
    max: [f32; R],
    total: [f32; R],
    visible: [Range<usize>; R],
    _formats: std::marker::PhantomData<(S, E)>,
}

impl<S: Simd, E: KvElement, const R: usize> State<S, E, R> {
    #[inline(always)]
    pub fn new(dim: usize, softcap: Option<f32>) -> Self {
        State {
            dim,
            softcap,
            q: [[MaybeUninit::uninit(); R]; MAX_HEAD_DIM],
            sum: [[MaybeUninit::uninit(); record_len(MAX_HEAD_DIM)]; R],
            acc: [[MaybeUninit::uninit(); record_len(MAX_HEAD_DIM)]; R],
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
    pub unsafe fn set_row(&mut self, r: usize, q: &[f32], scale: f32, visible: Range<usize>) {
        self.visible[r] = visible;
        // SAFETY: dim is at most MAX_HEAD_DIM and a multiple of 16.
        unsafe {
            for d in (0..self.dim).step_by(LANES) {
                let mut words = [0u32; LANES];
                E::store_words::<S>(words.as_mut_ptr(), S::mul(S::load(q.as_ptr().add(d)), S::splat(scale)));
                for (i, word) in words.iter().enumerate().take(LANES / E::PAIRING) {
                    self.q[d / E::PAIRING + i][r].write(*word);
                }
            }
        }
        self.sum[r][self.dim].write(f32::NEG_INFINITY);
    }

    /// Blocks that any row sees.
    #[inline(always)]
    pub fn blocks(&self) -> Range<usize> {
        let start = self.visible.iter().map(|v| v.start).min().unwrap_or(0);
        let end = self.visible.iter().map(|v| v.end).max().unwrap_or(0);
        start / BLOCK_TOKENS..end.div_ceil(BLOCK_TOKENS)
    }

    /// # Safety
    /// Needs the instruction set.
    #[inline(always)]
    pub unsafe fn begin_piece(&mut self) {
        (self.max, self.total) = ([f32::NEG_INFINITY; R], [0.0; R]);
        for acc in &mut self.acc {
            for d in (0..self.dim).step_by(LANES) {
                // SAFETY: dim is at most MAX_HEAD_DIM and a multiple of 16.
                unsafe { S::store(acc.as_mut_ptr().cast::<f32>().add(d), S::splat(0.0)) }
            }
        }
    }

    /// # Safety
    /// Needs the instruction set; all rows were set, and a piece begun.
    #[inline(always)]
    pub unsafe fn end_piece(&mut self) {
        for r in 0..R {
            self.acc[r][self.dim].write(self.max[r]);
            self.acc[r][self.dim + 1].write(self.total[r]);
            // SAFETY: both are records; the sum's total and values are only read where its maximum says that there are some.
            unsafe { merge::<S>(self.sum[r].as_mut_ptr().cast(), self.acc[r].as_ptr().cast(), self.dim) }
        }
    }

    /// Takes in the chunk whose first token is at `position`.
    ///
    /// # Safety
    /// The chunk's blocks have `dim` keys of 16 tokens and 16 values of `dim` elements, and scales if E has.
    #[inline(always)]
    pub unsafe fn chunk(&mut self, position: usize, chunk: &Chunk<E::Bits>) {
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
        let mut d = 0;
        // SAFETY: the caller's.
        unsafe {
            // A sum waits for the one before it in its chain: few rows take several vectors at once, where registers suffice.
            while R <= FEW && S::ROWS >= 8 && d + WIDE * LANES <= self.dim {
                self.accumulate_at::<WIDE>(chunk, seen.clone(), d);
                d += WIDE * LANES;
            }
            while d < self.dim {
                self.accumulate_at::<1>(chunk, seen.clone(), d);
                d += LANES;
            }
        }
    }

    /// The same for elements `d..d + D * LANES`.
    #[inline(always)]
    unsafe fn accumulate_at<const D: usize>(&mut self, chunk: &Chunk<E::Bits>, seen: Range<usize>, d: usize) {
        // SAFETY: the caller's.
        unsafe {
            let mut weights: [*const u32; R] = [std::ptr::null(); R];
            let mut sums = [[S::splat(0.0); R]; D];
            for r in 0..R {
                weights[r] = self.weights[r].as_ptr().cast();
                for i in 0..D {
                    sums[i][r] = S::load(self.acc[r].as_ptr().cast::<f32>().add(d + i * LANES));
                }
            }
            for b in chunk.first..chunk.last {
                let (from, to) = lanes(b, seen.start, seen.end);
                for step in from / E::PAIRING..to.div_ceil(E::PAIRING) {
                    for i in 0..D {
                        let at = (step * self.dim + d + i * LANES) * E::PAIRING;
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
                            sums[i][r] = E::fma::<S>(v, *weights[r].add(b * LANES / E::PAIRING + step), sums[i][r]);
                        }
                    }
                }
            }
            for r in 0..R {
                for i in 0..D {
                    S::store(self.acc[r].as_mut_ptr().cast::<f32>().add(d + i * LANES), sums[i][r]);
                }
            }
        }
    }

    /// Writes row `r`'s record to `out`.
    ///
    /// # Safety
    /// `out` has room for one; a piece has ended.
    #[inline(always)]
    pub unsafe fn store(&self, r: usize, out: *mut f32) {
        // SAFETY: the caller's. Values and total of a row that saw nothing are never read.
        unsafe {
            let sum = self.sum[r].as_ptr().cast::<f32>();
            *out.add(self.dim) = *sum.add(self.dim);
            if *sum.add(self.dim) != f32::NEG_INFINITY {
                out.copy_from_nonoverlapping(sum, self.dim + 2);
            }
        }
    }

    /// Writes row `r`'s result.
    ///
    /// # Safety
    /// `out` has room for `dim` elements; a piece that the row sees has ended.
    #[inline(always)]
    pub unsafe fn finish(&self, r: usize, out: *mut f32) {
        // SAFETY: the caller's.
        unsafe { finish::<S>(self.sum[r].as_ptr().cast(), self.dim, out) }
    }
}

/// What tokens `from..to` of a chunk are in its block `b`.
#[inline(always)]
fn lanes(b: usize, from: usize, to: usize) -> (usize, usize) {
    let lane = |token: usize| token.clamp(b * LANES, (b + 1) * LANES) - b * LANES;
    (lane(from), lane(to))
}
