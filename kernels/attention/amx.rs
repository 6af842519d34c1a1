//! Scores and weighted values of bf16 by AMX.
//!
//! The cache's blocks are tiles as they lie: sixteen dimensions of a block's keys are eight rows of pairs for its 16 tokens, and its
//! values are eight rows of pairs of tokens, of which 16 dimensions are 64 bytes. So a product of tiles takes the queries, or
//! weights, of all rows with 16 dimensions, or tokens. A row's sums do not depend on the rows beside it.
//!
//! What is read next is asked for where rows are few, so that memory is what takes time. Sixteen rows are a prompt's, whose tiles read
//! the same keys and values again and again: there it displaced what was still needed (heads of 256 dimensions take 10% less
//! without).

use super::PIECE;
use super::state::{PIECE_BLOCKS, Piece, Products, State, lanes, record_len};
use super::{BLOCK_TOKENS, MAX_HEAD_DIM};
use crate::cpu::amx::{self, Shapes, V};
use crate::cpu::{LANES, Simd};
use crate::kv_write::KvBf16;
use std::mem::MaybeUninit;
use std::ops::Range;

/// [`Products`] by tiles.
#[derive(Default)]
pub struct ByTiles {
    /// Rows that the tiles have shapes for.
    rows: usize,
}

/// Tiles for R rows.
struct Of<const R: usize>;

impl<const R: usize> Of<R> {
    /// Sums of R rows, R rows of 16 elements, 8 pairs of elements of 16 columns.
    const SHAPES: Shapes = {
        let (sums, left, right) = ((R, 64), (R, ELEMENTS), (LANES / 2, 64));
        Shapes::new([sums, sums, sums, sums, left, left, right, right])
    };
}

/// The most rows of a state.
pub const ROWS: usize = amx::TILE_ROWS;
/// Bytes of 16 elements of a key or of a weight, and of a row of pairs for 16 columns.
const ELEMENTS: usize = 2 * LANES;
/// Bytes between the queries of two rows, sums of values of two rows, and scores of two rows.
const RECORD: usize = 4 * record_len(MAX_HEAD_DIM);
const SCORES: usize = 4 * PIECE;

type Rows<const R: usize> = State<V, KvBf16, R>;

impl<const R: usize> Products<V, KvBf16, R> for ByTiles {
    #[inline(always)]
    unsafe fn begin(&mut self) {
        if self.rows != R {
            // SAFETY: the caller's.
            unsafe { amx::shape(&Of::<R>::SHAPES) };
            self.rows = R;
        }
    }

    /// Four blocks at once, far apart: memory is then read in four places, in order in each.
    #[inline(always)]
    unsafe fn scores(&mut self, state: &mut Rows<R>, piece: &Piece<u16>) {
        let apart = (piece.last - piece.first).div_ceil(4);
        let weights = state.weights.as_mut_ptr().cast::<f32>();
        for first in piece.first..piece.first + apart {
            // Where there is none, the last one again.
            let at: [usize; 4] = std::array::from_fn(|n| (first + n * apart).min(piece.last - 1));
            let blocks = at.map(|b| piece.blocks[b]);
            let scores = |n: usize| weights.wrapping_add(at[n] * LANES).cast();
            // SAFETY: the caller's.
            unsafe {
                zeros();
                for d in (0..state.dim).step_by(LANES) {
                    let keys = |n: usize| blocks[n].keys.wrapping_add(d * BLOCK_TOKENS).cast();
                    amx::load::<4>(state.q.as_ptr().cast::<u8>().add(d * 2), RECORD);
                    amx::load::<6>(keys(0), 64);
                    amx::add_bf16::<0, 4, 6>();
                    amx::load::<7>(keys(1), 64);
                    amx::add_bf16::<1, 4, 7>();
                    amx::load::<6>(keys(2), 64);
                    amx::add_bf16::<2, 4, 6>();
                    amx::load::<7>(keys(3), 64);
                    amx::add_bf16::<3, 4, 7>();
                    if R < ROWS {
                        for line in 0..LANES * ELEMENTS / 64 {
                            for block in &blocks {
                                V::prefetch(block.values.wrapping_add(d * BLOCK_TOKENS + line * 32).cast());
                            }
                        }
                    }
                }
                amx::store::<0>(scores(0), SCORES);
                amx::store::<1>(scores(1), SCORES);
                amx::store::<2>(scores(2), SCORES);
                amx::store::<3>(scores(3), SCORES);
            }
        }
    }

    #[inline(always)]
    unsafe fn values(&mut self, state: &mut Rows<R>, piece: &Piece<u16>, seen: Range<usize>) {
        // What nobody sees may be no number, and so must not be multiplied, not by zero either.
        let mut masked = [const { MaybeUninit::<Masked>::uninit() }; 2];
        let mut values: [*const u16; PIECE_BLOCKS] = std::array::from_fn(|b| piece.blocks[b].values);
        let ends = [seen.start / BLOCK_TOKENS, seen.end.saturating_sub(1) / BLOCK_TOKENS];
        // SAFETY: the caller's.
        unsafe {
            for (b, masked) in ends.into_iter().zip(&mut masked) {
                let (from, to) = lanes(b, seen.start, seen.end);
                if (piece.first..piece.last).contains(&b) && (from, to) != (0, LANES) {
                    let masked = masked.as_mut_ptr().cast();
                    mask(values[b], from..to, state.dim, masked);
                    values[b] = masked;
                }
            }
            let mut d = 0;
            while d + 4 * LANES <= state.dim {
                self.values_at::<R, 4>(state, piece, &values, &seen, d);
                d += 4 * LANES;
            }
            while d < state.dim {
                self.values_at::<R, 1>(state, piece, &values, &seen, d);
                d += LANES;
            }
        }
    }
}

impl ByTiles {
    /// Elements `d..d + D * 16` of the sums.
    ///
    /// # Safety
    /// As [`Products::values`].
    #[inline(always)]
    unsafe fn values_at<const R: usize, const D: usize>(
        &mut self,
        state: &mut Rows<R>,
        piece: &Piece<u16>,
        values: &[*const u16; PIECE_BLOCKS],
        seen: &Range<usize>,
        d: usize,
    ) {
        let dim = state.dim;
        let at = |b: usize, i: usize| values[b].wrapping_add(2 * (d + i * LANES)).cast();
        let part = state.part.as_mut_ptr().cast::<f32>();
        let sums = |i: usize| part.wrapping_add(d + i * LANES).cast();
        // SAFETY: the caller's.
        unsafe {
            zeros();
            for b in (seen.start / BLOCK_TOKENS).max(piece.first)..seen.end.div_ceil(BLOCK_TOKENS).min(piece.last) {
                // The next keys in the order in which they lie, as many bytes as are read here.
                let ahead = d * (piece.last - piece.first) + (b - piece.first) * D * LANES;
                let next = piece.next[ahead / dim % PIECE_BLOCKS].keys.wrapping_add(ahead % dim * LANES);
                amx::load::<4>(state.weights.as_ptr().cast::<u8>().add(b * ELEMENTS), SCORES);
                amx::load::<6>(at(b, 0), 4 * dim);
                amx::add_bf16::<0, 4, 6>();
                if D == 4 {
                    amx::load::<7>(at(b, 1), 4 * dim);
                    amx::add_bf16::<1, 4, 7>();
                    amx::load::<6>(at(b, 2), 4 * dim);
                    amx::add_bf16::<2, 4, 6>();
                    amx::load::<7>(at(b, 3), 4 * dim);
                    amx::add_bf16::<3, 4, 7>();
                }
                if R < ROWS {
                    for line in 0..D * LANES * ELEMENTS / 64 {
                        V::prefetch(next.wrapping_add(line * 32).cast());
                    }
                }
            }
            amx::store::<0>(sums(0), RECORD);
            if D == 4 {
                amx::store::<1>(sums(1), RECORD);
                amx::store::<2>(sums(2), RECORD);
                amx::store::<3>(sums(3), RECORD);
            }
        }
    }
}

/// Makes the tiles of sums zero.
///
/// # Safety
/// Needs the instruction set.
#[inline(always)]
unsafe fn zeros() {
    // SAFETY: the caller's.
    unsafe {
        amx::zero::<0>();
        amx::zero::<1>();
        amx::zero::<2>();
        amx::zero::<3>();
    }
}

/// Values of a block.
#[repr(C, align(64))]
struct Masked([u16; BLOCK_TOKENS * MAX_HEAD_DIM]);

/// Copies a block's values of tokens `seen`, and zeros for the others.
///
/// # Safety
/// Needs the instruction set, the block and room for one.
#[inline(always)]
unsafe fn mask(values: *const u16, seen: Range<usize>, dim: usize, out: *mut u16) {
    for token in (0..BLOCK_TOKENS).step_by(2) {
        let word = |half: usize| if seen.contains(&(token + half)) { 0xffff << (16 * half) } else { 0 };
        // SAFETY: the caller's.
        unsafe {
            let kept = V::splat_word(word(0) | word(1));
            for d in (0..dim).step_by(LANES) {
                let at = token * dim + 2 * d;
                V::store_words(out.add(at).cast(), V::and(V::load_words(values.add(at).cast()), kept));
            }
        }
    }
}
