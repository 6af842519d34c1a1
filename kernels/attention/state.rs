//! The online softmax of a tile's rows.
//!
//! Positions are visited in pieces of 256, sixteen blocks: first all scores of a piece, then the weights, then the values. A
//! block's 16 scores are one vector; each key element is loaded once for all rows of the tile, each value too. A row is
//! a query token and head; what it computes is the same in any tile: pieces begin at multiples of 256, and where only other
//! rows see a token, its weight is exactly 0. Each piece begins with nothing, and is then merged.

use super::{MAX_HEAD_DIM, PIECE};
use crate::BLOCK_TOKENS;
use crate::cpu::{LANES, Simd, exp2, opaque, sigmoid};
use crate::kv_write::KvElement;
use std::f32::consts::LOG2_E;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Blocks of a piece.
pub(super) const PIECE_BLOCKS: usize = PIECE / BLOCK_TOKENS;
/// Rows for which computing takes less time than reading from memory.
const FEW: usize = 4;

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
            return copy::<S>(part, sum, dim);
        }
        let max = old.max(new);
        let (a, b) = (exp2::<S>(S::splat(old - max)), exp2::<S>(S::splat(new - max)));
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

/// Copies a record. (What a call of `memcpy` writes, in pieces of its own, is not at hand when vectors are read soon after.)
///
/// # Safety
/// Needs the instruction set, and records at both places.
#[inline(always)]
unsafe fn copy<S: Simd>(from: *const f32, to: *mut f32, dim: usize) {
    // SAFETY: the caller's.
    unsafe {
        for d in (0..dim).step_by(LANES) {
            S::store(to.add(d), S::load(from.add(d)));
        }
        (*to.add(dim), *to.add(dim + 1)) = (*from.add(dim), *from.add(dim + 1));
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

/// Blocks `first..last` of a piece; in the others' places stand some of these, so that all can be read.
pub(super) struct Piece<B> {
    pub first: usize,
    pub last: usize,
    pub blocks: [Block<B>; PIECE_BLOCKS],
    /// What will be read after.
    pub next: [Block<B>; PIECE_BLOCKS],
}

/// How the products of R rows' queries with keys, and of their weights with values, are computed.
pub(super) trait Products<S: Simd, E: KvElement, const R: usize> {
    /// States of R rows follow.
    ///
    /// # Safety
    /// Needs the instruction set, as all below.
    unsafe fn begin(&mut self);

    /// Scores of all the piece's blocks, in the place of weights.
    ///
    /// # Safety
    /// As [`State::piece`].
    unsafe fn scores(&mut self, state: &mut State<S, E, R>, piece: &Piece<E::Bits>);

    /// The weighted values of the tokens in `seen`, added up in `part`.
    ///
    /// # Safety
    /// As [`State::piece`].
    unsafe fn values(&mut self, state: &mut State<S, E, R>, piece: &Piece<E::Bits>, seen: Range<usize>);
}

/// [`Products`] by vectors, of any format.
pub(super) struct ByVectors;

impl<S: Simd, E: KvElement, const R: usize> Products<S, E, R> for ByVectors {
    #[inline(always)]
    unsafe fn begin(&mut self) {}

    #[inline(always)]
    unsafe fn scores(&mut self, state: &mut State<S, E, R>, piece: &Piece<E::Bits>) {
        // SAFETY: the caller's.
        unsafe { state.scores(piece) }
    }

    #[inline(always)]
    unsafe fn values(&mut self, state: &mut State<S, E, R>, piece: &Piece<E::Bits>, seen: Range<usize>) {
        // SAFETY: the caller's.
        unsafe { state.values(piece, seen) }
    }
}

/// R rows of an online softmax. Vectors lie within cache lines: those that cross one take twice as long.
#[repr(C, align(64))]
pub(super) struct State<S: Simd, E: KvElement, const R: usize> {
    /// Queries, scaled such that weights are powers of two, as words for E's products.
    pub(super) q: [[MaybeUninit<u32>; record_len(MAX_HEAD_DIM)]; R],
    /// Records of the pieces so far, and of the current one.
    sum: [[MaybeUninit<f32>; record_len(MAX_HEAD_DIM)]; R],
    pub(super) part: [[MaybeUninit<f32>; record_len(MAX_HEAD_DIM)]; R],
    /// Scores of a piece, and then, over them, weights as words for E's products.
    pub(super) weights: [[MaybeUninit<u32>; PIECE]; R],
    /// In row `r`'s lane, the greatest score of the piece.
    max: [f32; LANES],
    visible: [Range<usize>; R],
    pub(super) dim: usize,
    softcap: Option<f32>,
    _formats: std::marker::PhantomData<(S, E)>,
}

/// Less than this no greatest score is, not that of nothing nor of NaN: differences from it are numbers.
const LEAST: f32 = f32::MIN;

impl<S: Simd, E: KvElement, const R: usize> State<S, E, R> {
    #[inline(always)]
    pub fn new(dim: usize, softcap: Option<f32>) -> Self {
        State {
            q: [[MaybeUninit::uninit(); record_len(MAX_HEAD_DIM)]; R],
            sum: [[MaybeUninit::uninit(); record_len(MAX_HEAD_DIM)]; R],
            part: [[MaybeUninit::uninit(); record_len(MAX_HEAD_DIM)]; R],
            weights: [[MaybeUninit::uninit(); PIECE]; R],
            max: [LEAST; LANES],
            visible: [const { 0..0 }; R],
            dim,
            softcap: softcap.map(|cap| cap * LOG2_E),
            _formats: std::marker::PhantomData,
        }
    }

    /// # Safety
    /// Needs the instruction set (as all below); `q` has `dim` elements.
    #[inline(always)]
    pub unsafe fn set_row(&mut self, r: usize, q: &[f32], scale: f32, visible: Range<usize>) {
        self.visible[r] = visible;
        let words: *mut u32 = self.q[r].as_mut_ptr().cast();
        // SAFETY: dim is at most MAX_HEAD_DIM and a multiple of 16.
        unsafe {
            let scale = S::splat(scale * LOG2_E);
            for d in (0..self.dim).step_by(LANES) {
                E::store_words::<S>(words.add(d / E::PAIRING), S::mul(S::load(q.as_ptr().add(d)), scale));
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

    /// Takes in the piece whose first token is at `position`.
    ///
    /// # Safety
    /// Needs the instruction set, and that all rows were set. The piece's blocks have `dim` keys of 16 tokens and 16 values of
    /// `dim` elements, and scales if E has.
    #[inline(always)]
    pub unsafe fn piece<P: Products<S, E, R>>(&mut self, products: &mut P, position: usize, piece: &Piece<E::Bits>) {
        // What each row sees of the piece, and tokens that some row sees: others may hold anything.
        let mut seen = [(0, 0); R];
        let (mut first, mut last) = (PIECE, 0);
        for (seen, visible) in seen.iter_mut().zip(&self.visible) {
            let place = |p: usize| p.clamp(position, position + PIECE) - position;
            *seen = (place(visible.start), place(visible.end));
            if seen.0 < seen.1 {
                (first, last) = (first.min(seen.0), last.max(seen.1));
            }
        }
        // SAFETY: the caller's. Both are records; the sum's total and values are only read where its maximum says that there
        // are some.
        unsafe {
            products.scores(self, piece);
            self.weigh(piece, &seen);
            products.values(self, piece, first.min(last)..last);
            for r in 0..R {
                merge::<S>(self.sum[r].as_mut_ptr().cast(), self.part[r].as_ptr().cast(), self.dim);
            }
        }
    }

    /// Blocks whose scores the registers hold, and vectors of values. (To convert a block once for eight rows, where they hold
    /// sums of four, saves 4% with AVX2: conversions take their time beside the products.)
    const AT_ONCE: usize = match S::SUMS / R {
        0 | 1 => 1,
        2 | 3 => 2,
        _ => 4,
    };

    /// Whether each block, or vector of values, loads the rows' factors for itself: kept for the other one they would leave no
    /// registers for the sums, and decoding from the cache would take half as long again. (f32 needs no conversion and would do
    /// without: from memory it takes 3 to 8% longer.)
    const APART: bool = S::SUMS < 16 && Self::AT_ONCE > 1;

    /// Vectors of elements in a cache line.
    const IN_LINE: usize = 64 / (LANES * E::PAIRING * size_of::<E::Bits>());

    /// Scores of all blocks. Those at once are far apart: memory is then read in several places, in order in each.
    #[inline(always)]
    unsafe fn scores(&mut self, piece: &Piece<E::Bits>) {
        let apart = (piece.last - piece.first).div_ceil(Self::AT_ONCE);
        // SAFETY: the caller's.
        unsafe {
            for b in piece.first..piece.first + apart {
                match Self::AT_ONCE {
                    4 => self.score::<4>(piece, b, apart),
                    2 if R <= FEW || b + apart < piece.last => self.score::<2>(piece, b, apart),
                    _ => self.score::<1>(piece, b, apart),
                }
            }
        }
    }

    /// Scores of N blocks: `b`, the one `apart` blocks on, and so on; where there is none, the last one's again.
    #[inline(always)]
    unsafe fn score<const N: usize>(&mut self, piece: &Piece<E::Bits>, b: usize, apart: usize) {
        // SAFETY: the caller's.
        unsafe {
            let mut sums = [[S::splat(0.0); R]; N];
            let q: *const u32 = self.q.as_ptr().cast();
            let (mut at, mut blocks) = ([0; N], [piece.blocks[0]; N]);
            for n in 0..N {
                at[n] = (b + n * apart).min(piece.last - 1);
                blocks[n] = piece.blocks[at[n]];
            }
            for step in 0..self.dim / E::PAIRING {
                for (n, sums) in sums.iter_mut().enumerate() {
                    let q = if Self::APART { opaque(q) } else { q };
                    let k = E::load::<S>(blocks[n].keys.add(step * LANES * E::PAIRING));
                    S::prefetch(blocks[n].values.wrapping_add(step * LANES * E::PAIRING).cast());
                    for (r, sum) in sums.iter_mut().enumerate() {
                        *sum = E::fma::<S>(k, *q.add(r * record_len(MAX_HEAD_DIM) + step), *sum);
                    }
                }
            }
            for (n, sums) in sums.iter().enumerate() {
                for (r, sum) in sums.iter().enumerate() {
                    let mut score = *sum;
                    if E::SCALED {
                        score = S::mul(score, S::load(blocks[n].keys.add(self.dim * BLOCK_TOKENS).cast()));
                    }
                    S::store(self.weights[r].as_mut_ptr().cast::<f32>().add(at[n] * LANES), score);
                }
            }
        }
    }

    /// Turns the scores of a piece into weights of the rows, each of which sees tokens `seen` of it.
    #[inline(always)]
    unsafe fn weigh(&mut self, piece: &Piece<E::Bits>, seen: &[(usize, usize); R]) {
        // SAFETY: the caller's.
        unsafe {
            let mut greatest = [S::splat(f32::NEG_INFINITY); R];
            for r in 0..R {
                if self.softcap.is_some() || seen[r] != (0, PIECE) {
                    self.bend_and_mask(r, piece, seen[r]);
                }
                let scores = self.weights[r].as_ptr().cast::<f32>();
                for b in piece.first..piece.last {
                    greatest[r] = S::max(greatest[r], S::load(scores.add(b * LANES)));
                }
            }
            S::store(self.max.as_mut_ptr(), S::max(S::max_of_each(greatest), S::splat(LEAST)));
            for r in 0..R {
                self.weigh_row(r, piece, seen[r]);
            }
        }
    }

    /// Applies the cap to row `r`'s scores, and makes those that it does not see infinitely small.
    #[inline(always)]
    unsafe fn bend_and_mask(&mut self, r: usize, piece: &Piece<E::Bits>, (from, to): (usize, usize)) {
        // SAFETY: the caller's.
        unsafe {
            let scores: *mut f32 = self.weights[r].as_mut_ptr().cast();
            for b in piece.first..piece.last {
                let mut score = S::load(scores.add(b * LANES));
                if let Some(cap) = self.softcap {
                    // cap * tanh(s / cap) = cap * (2 sigmoid(2 s / cap) - 1)
                    let bent = sigmoid::<S>(S::mul(score, S::splat(2.0 / cap)));
                    score = S::fma(bent, S::splat(2.0 * cap), S::splat(-cap));
                }
                let (from, to) = lanes(b, from, to);
                score = S::select_range(from, to, score, S::splat(f32::NEG_INFINITY));
                S::store(scores.add(b * LANES), score);
            }
        }
    }

    /// Weights of row `r`, once its greatest score is known. What it does not see weighs exactly 0.
    #[inline(always)]
    unsafe fn weigh_row(&mut self, r: usize, piece: &Piece<E::Bits>, (from, to): (usize, usize)) {
        // SAFETY: the caller's.
        unsafe {
            // A block's words begin where its scores do, or before.
            let words: *mut u32 = self.weights[r].as_mut_ptr().cast();
            let scores: *const f32 = words.cast();
            let (max, mut total) = (S::splat(self.max[r]), S::splat(0.0));
            for b in piece.first..piece.last {
                let mut weight = E::exp2::<S>(S::sub(S::load(scores.add(b * LANES)), max));
                total = S::add(total, weight);
                if E::SCALED {
                    // Slots that hold nothing may have any scale.
                    let (from, to) = lanes(b, from, to);
                    let scale = S::load(piece.blocks[b].values.add(self.dim * BLOCK_TOKENS).cast());
                    weight = S::select_range(from, to, S::mul(weight, scale), S::splat(0.0));
                }
                E::store_words::<S>(words.add(b * LANES / E::PAIRING), weight);
            }
            // Of the weights that values are multiplied by, so that these add up to one.
            let total = E::sum_words::<S>(words, piece.first..piece.last, total);
            self.part[r][self.dim].write(if from < to { self.max[r] } else { f32::NEG_INFINITY });
            self.part[r][self.dim + 1].write(S::sum(total));
        }
    }

    /// Adds up the weighted values of the tokens in `seen`.
    #[inline(always)]
    unsafe fn values(&mut self, piece: &Piece<E::Bits>, seen: Range<usize>) {
        let mut d = 0;
        // SAFETY: the caller's.
        unsafe {
            // A sum waits for the one before it in its chain, and the weights are loaded once for all vectors: a load takes as long
            // as a product.
            while Self::AT_ONCE == 4 && d + 4 * LANES <= self.dim {
                self.values_at::<4>(piece, seen.clone(), d);
                d += 4 * LANES;
            }
            while Self::AT_ONCE == 2 && d + 2 * LANES <= self.dim {
                self.values_at::<2>(piece, seen.clone(), d);
                d += 2 * LANES;
            }
            while d < self.dim {
                self.values_at::<1>(piece, seen.clone(), d);
                d += LANES;
            }
        }
    }

    /// The same for elements `d..d + D * LANES`.
    #[inline(always)]
    unsafe fn values_at<const D: usize>(&mut self, piece: &Piece<E::Bits>, seen: Range<usize>, d: usize) {
        // SAFETY: the caller's.
        unsafe {
            let weights: *const u32 = self.weights.as_ptr().cast();
            let mut sums = [[S::splat(0.0); R]; D];
            for b in piece.first..piece.last {
                let (from, to) = lanes(b, seen.start, seen.end);
                // The next keys in the order in which they lie, as many bytes as are read here.
                let ahead = d * (piece.last - piece.first) + (b - piece.first) * D * LANES;
                let next = piece.next[ahead / self.dim % PIECE_BLOCKS].keys;
                let mut ahead = next.wrapping_add(ahead % self.dim * LANES);
                for step in from / E::PAIRING..to.div_ceil(E::PAIRING) {
                    for i in 0..D {
                        let at = (step * self.dim + d + i * LANES) * E::PAIRING;
                        let mut v = E::load::<S>(piece.blocks[b].values.add(at));
                        if i.is_multiple_of(Self::IN_LINE) {
                            S::prefetch(ahead.cast());
                        }
                        ahead = ahead.wrapping_add(LANES * E::PAIRING);
                        if step * E::PAIRING < from {
                            v = E::one_of_pair::<S>(v, true);
                        }
                        if (step + 1) * E::PAIRING > to {
                            v = E::one_of_pair::<S>(v, false);
                        }
                        let weights = if Self::APART { opaque(weights) } else { weights };
                        for r in 0..R {
                            let weight = *weights.add(r * PIECE + b * LANES / E::PAIRING + step);
                            sums[i][r] = E::fma::<S>(v, weight, sums[i][r]);
                        }
                    }
                }
            }
            for r in 0..R {
                for i in 0..D {
                    S::store(self.part[r].as_mut_ptr().cast::<f32>().add(d + i * LANES), sums[i][r]);
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
                copy::<S>(sum, out, self.dim);
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

/// What tokens `from..to` of a piece are in its block `b`.
#[inline(always)]
pub(super) fn lanes(b: usize, from: usize, to: usize) -> (usize, usize) {
    let lane = |token: usize| token.clamp(b * LANES, (b + 1) * LANES) - b * LANES;
    (lane(from), lane(to))
}
