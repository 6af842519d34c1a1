//! Scores and weighted values of bf16 by AMX.
//!
//! The cache's blocks are tiles as they lie: sixteen dimensions of a block's keys are eight rows of pairs for its 16 tokens, and its
//! values are eight rows of pairs of tokens, of which 16 dimensions are 64 bytes. So a product of tiles takes the queries, or
//! weights, of all rows with 16 dimensions, or tokens. A row's sums do not depend on the rows beside it.

use super::PIECE;
use super::state::{PIECE_BLOCKS, Piece, Products, State, lanes, record_len};
use super::{BLOCK_TOKENS, MAX_HEAD_DIM};
use crate::cpu::amx::{self, Shapes, V};
use crate::cpu::{LANES, Simd};
use crate::kv_write::KvBf16;
use std::mem::MaybeUninit;
use std::ops::Range;

/// [`Products`] by tiles.
pub struct ByTiles {
    /// Rows that the tiles have shapes for.
    rows: usize,
}

/// Sums of R rows, R rows of 16 elements, 8 pairs of elements of 16 columns: and so one takes the other's place by rows alone.
const fn shapes(rows: usize) -> Shapes {
    let (sums, left, right) = ((rows, 64), (rows, 32), (8, 64));
    Shapes::new([sums, sums, sums, sums, left, left, right, right])
}

struct Of<const R: usize>;

impl<const R: usize> Of<R> {
    const SHAPES: Shapes = shapes(R);
}

impl ByTiles {
    /// The shapes for the most rows.
    pub const SHAPES: Shapes = shapes(ROWS);

    pub fn new() -> ByTiles {
        ByTiles { rows: ROWS }
    }
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

    /// Two blocks at once, far apart: memory is then read in two places, in order in each.
    #[inline(always)]
    unsafe fn scores(&mut self, state: &mut Rows<R>, piece: &Piece<u16>) {
        let apart = (piece.last - piece.first).div_ceil(2);
        let weights = state.weights.as_mut_ptr().cast::<f32>();
        let scores = |b: usize| weights.wrapping_add(b * LANES).cast();
        for b in piece.first..piece.first + apart {
            let other = (b + apart).min(piece.last - 1);
            let (one, two) = (piece.blocks[b], piece.blocks[other]);
            // SAFETY: the caller's.
            unsafe {
                amx::zero::<0>();
                amx::zero::<1>();
                for d in (0..state.dim).step_by(LANES) {
                    amx::load::<4>(state.q.as_ptr().cast::<u8>().add(d * 2), RECORD);
                    amx::load::<6>(one.keys.add(d * BLOCK_TOKENS).cast(), 64);
                    amx::add_bf16::<0, 4, 6>();
                    amx::load::<7>(two.keys.add(d * BLOCK_TOKENS).cast(), 64);
                    amx::add_bf16::<1, 4, 7>();
                    for line in 0..LANES * ELEMENTS / 64 {
                        let at = d * BLOCK_TOKENS + line * 32;
                        V::prefetch(one.values.wrapping_add(at).cast());
                        V::prefetch(two.values.wrapping_add(at).cast());
                    }
                }
                amx::store::<0>(scores(b), SCORES);
                amx::store::<1>(scores(other), SCORES);
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
            amx::zero::<0>();
            amx::zero::<1>();
            amx::zero::<2>();
            amx::zero::<3>();
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
                for line in 0..D * LANES * ELEMENTS / 64 {
                    V::prefetch(next.wrapping_add(line * 32).cast());
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
