//! Quantised weights times packed activations: tiles of 16 outputs times up to [`Simd::ROWS`] rows, the sums in registers.
//!
//! For few rows a tile is decoded on its way through the registers. For many a chunk of its columns is decoded to memory
//! that the first-level cache holds, and meets the same columns of a band of rows, which the second-level cache holds.

use super::activations::{BLOCK, in_row_groups, record};
use super::cpu::PartJob;
use super::format::{Decoded, Format, SubBlock};
use crate::cpu::{Kernel, LANES, Simd};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Columns of a chunk: 15 KiB of a decoded tile, and 246 KiB of a band's activations.
const CHUNK: usize = 768;
/// Bytes between what is worked on and what is asked for from memory. Tiles of a thread's share follow each other.
const AHEAD: usize = 16 * 1024;
/// Records between the one that is worked on and the one that is asked for from the second-level cache.
const RECORDS_AHEAD: usize = 3;

/// A part in format F.
pub struct QuantTiles<'a, F>(pub PartJob<'a>, pub PhantomData<F>);

impl<F: Format> Kernel for QuantTiles<'_, F> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let job = self.0.job;
        let rows = job.rows.clone();
        // What is left of whole groups goes the way of few rows.
        let whole = if job.x.rows() < F::MANY * S::ROWS { 0 } else { rows.len() / S::ROWS * S::ROWS };
        let (many, few) = (rows.start..rows.start + whole, rows.start + whole..rows.end);
        // SAFETY: Isa::run vouches for the instruction set; rows and tiles are the job's.
        unsafe {
            if !many.is_empty() {
                match S::ROWS {
                    8 => self.many::<S, 8>(many),
                    _ => self.many::<S, 4>(many),
                }
            }
            if !few.is_empty() {
                for tile in job.tiles.clone() {
                    self.few::<S>(tile, few.clone());
                }
            }
        }
    }
}

impl<F: Format> QuantTiles<'_, F> {
    /// A tile times rows.
    ///
    /// # Safety
    /// Needs the instruction set, as all below; the tile and the rows are the job's, and the first begins a group.
    #[inline(always)]
    unsafe fn few<S: Simd>(&self, tile: usize, rows: Range<usize>) {
        let job = self.0.job;
        let (weights, cols) = (self.0.tile(tile), job.x.cols());
        in_row_groups!(S, rows, |row, R| {
            // SAFETY: the caller's.
            unsafe {
                let (x, high) = (job.scratch.records(row), job.scratch.high(row));
                let sums = product::<S, F, R>(weights, cols, x, high, &mut Ahead::default(), [S::splat(0.0); R]);
                for (r, sums) in sums.into_iter().enumerate() {
                    S::store(self.0.sums(tile, row + r), sums);
                }
            }
        });
    }

    /// The job's tiles times rows in whole groups of R, chunk by chunk of the columns.
    ///
    /// # Safety
    /// As [`QuantTiles::few`].
    #[inline(always)]
    unsafe fn many<S: Simd, const R: usize>(&self, rows: Range<usize>) {
        const { assert!(CHUNK.is_multiple_of(F::BLOCK) && CHUNK.is_multiple_of(BLOCK)) };
        // The smallest sub-blocks need most: 16 codes, a scale of 4 bytes.
        let mut decoded = MaybeUninit::<[u8; CHUNK * LANES * 20 / 16]>::uninit();
        let decoded: *mut u8 = decoded.as_mut_ptr().cast();
        let cols = self.0.job.x.cols();
        for start in (0..cols).step_by(CHUNK) {
            let chunk = start..cols.min(start + CHUNK);
            for tile in self.0.job.tiles.clone() {
                // SAFETY: the chunk lies in the tile, and the buffer holds it.
                unsafe {
                    let weights = self.0.tile(tile).add(start / F::BLOCK * LANES * F::BLOCK_BYTES);
                    Decoded::<F>::write::<S>(weights, chunk.len() / F::BLOCK, decoded);
                    self.groups::<S, R>(rows.clone(), tile, chunk.clone(), weights, decoded);
                }
            }
        }
    }

    /// A chunk of a tile's columns, at `weights` and in `decoded`, times rows in whole groups of R.
    ///
    /// # Safety
    /// As [`QuantTiles::few`].
    #[inline(always)]
    unsafe fn groups<S: Simd, const R: usize>(
        &self,
        rows: Range<usize>,
        tile: usize,
        chunk: Range<usize>,
        weights: *const u8,
        decoded: *const u8,
    ) {
        let job = self.0.job;
        let next = weights.wrapping_add(LANES * self.0.part.dtype.row_bytes(job.x.cols()));
        let blocks = rows.len() / R * chunk.len().div_ceil(BLOCK);
        let mut ahead = Ahead::new(next, chunk.len() / F::BLOCK * LANES * F::BLOCK_BYTES, blocks);
        for row in rows.step_by(R) {
            // SAFETY: the records are in the scratch; sums of earlier chunks have been gathered.
            unsafe {
                let x = job.scratch.records(row).add(chunk.start / BLOCK * record::BYTES * R);
                let high = job.scratch.high(row).add(chunk.start / BLOCK);
                let mut sums = [S::splat(0.0); R];
                if chunk.start > 0 {
                    for (r, sum) in sums.iter_mut().enumerate() {
                        *sum = S::load(self.0.sums(tile, row + r));
                    }
                }
                let sums = product::<S, Decoded<F>, R>(decoded, chunk.len(), x, high, &mut ahead, sums);
                for (r, sum) in sums.into_iter().enumerate() {
                    S::store(self.0.sums(tile, row + r), sum);
                }
            }
        }
    }
}

/// The bytes that will be decoded next, which are asked for from memory while others are multiplied: evenly, a few for each block,
/// since of many at once the last ones come too late.
#[derive(Default)]
struct Ahead {
    line: usize,
    /// Lines for a block, and those that are due, in units of 1 / 65536.
    step: u32,
    due: u32,
}

impl Ahead {
    fn new(bytes: *const u8, len: usize, blocks: usize) -> Ahead {
        Ahead { line: bytes.addr(), step: ((len / 64) << 16).div_ceil(blocks) as u32, due: 0 }
    }

    /// # Safety
    /// Needs the instruction set.
    #[inline(always)]
    unsafe fn block<S: Simd>(&mut self) {
        self.due += self.step;
        while self.due >= 1 << 16 {
            // SAFETY: the caller's; any address may be asked for.
            unsafe { S::prefetch(std::ptr::without_provenance(self.line)) };
            self.line += 64;
            self.due -= 1 << 16;
        }
    }
}

/// Evaluates `$body` for `$i` from 0 to 7, or to before `$n`, each time with a constant: shifts and offsets of sub-blocks,
/// and which lines are prefetched, are then immediates.
macro_rules! in_eights {
    ($n:expr, |$i:ident| $body:block) => {
        in_eights!(@ $n, $i, $body, 0 1 2 3 4 5 6 7)
    };
    (@ $n:expr, $i:ident, $body:block, $($value:literal)*) => {
        $(if $value < $n {
            let $i: usize = $value;
            $body
        })*
    };
}

/// Adds to `sums` the products of `cols` columns of a tile with R rows of packed activations.
///
/// # Safety
/// Needs the instruction set, the columns at `weights`, as many of a group of R rows at `x`, and for each block of them which
/// words have high parts at `high`.
#[inline(always)]
unsafe fn product<S: Simd, F: Format, const R: usize>(
    weights: *const u8,
    cols: usize,
    x: *const u8,
    high: *const u16,
    ahead: &mut Ahead,
    mut sums: [S::F; R],
) -> [S::F; R] {
    let step = if F::BLOCK > BLOCK { F::BLOCK } else { BLOCK };
    // SAFETY: offsets stay inside the tile and the records; the instruction set is the caller's.
    unsafe {
        for first in (0..cols / step * step).step_by(step) {
            let tile = weights.add(first / F::BLOCK * LANES * F::BLOCK_BYTES);
            in_eights!(step / BLOCK, |i| {
                let b = first / BLOCK + i;
                if !F::STREAMED {
                    ahead.block::<S>();
                }
                block_product::<S, F, R, BLOCK>(tile, i, x.add(b * record::BYTES * R), *high.add(b), &mut sums);
            });
        }
        if !cols.is_multiple_of(step) {
            let b = cols / BLOCK;
            let tile = weights.add(b * BLOCK / F::BLOCK * LANES * F::BLOCK_BYTES);
            block_product::<S, F, R, { BLOCK / 2 }>(tile, 0, x.add(b * record::BYTES * R), *high.add(b), &mut sums);
        }
    }
    sums
}

/// Adds to `sums` the products of block `i` of the columns at `tile`, of its first COLS columns, with the record at `x`.
///
/// # Safety
/// Needs the instruction set and the record, with the high parts of the words in `high`.
#[inline(always)]
unsafe fn block_product<S: Simd, F: Format, const R: usize, const COLS: usize>(
    tile: *const u8,
    i: usize,
    x: *const u8,
    high: u16,
    sums: &mut [S::F; R],
) {
    // SAFETY: the caller's.
    unsafe {
        let at = |offset: usize| x.add(offset * R);
        let mut scaled = [S::splat(0.0); R];
        if !F::STREAMED {
            // The low parts, which are a line for each row: high parts are needed seldom.
            in_eights!(R, |line| {
                S::prefetch(x.wrapping_add(RECORDS_AHEAD * record::BYTES * R + line * 64));
            });
        }
        in_eights!(COLS / F::SUB, |s| {
            let k = i * BLOCK + s * F::SUB;
            if F::STREAMED {
                // Spread over the sub-blocks: of many at once the last ones come too late.
                let lines = |k: usize| k * LANES * F::BLOCK_BYTES / F::BLOCK / 64;
                for line in lines(k)..lines(k + F::SUB) {
                    S::prefetch(tile.wrapping_add(AHEAD + line * 64));
                }
            }
            let sub = F::decode::<S>(tile.add(k / F::BLOCK * LANES * F::BLOCK_BYTES), k % F::BLOCK / F::SUB);
            let dots = dots::<S, F, R>(&sub, x, s, high >> (s * F::SUB / 4));
            for (r, scaled) in scaled.iter_mut().enumerate() {
                let dot = S::to_f32(dots[r]);
                *scaled = if s == 0 { S::mul(dot, sub.d) } else { S::fma(dot, sub.d, *scaled) };
                if F::ZERO.is_none() {
                    let sum = S::splat(at(record::SUMS).cast::<f32>().add(s * R + r).read());
                    sums[r] = S::fma(sub.m, sum, sums[r]);
                }
            }
        });
        for (r, sum) in sums.iter_mut().enumerate() {
            *sum = S::fma(scaled[r], S::splat(at(record::SCALE).cast::<f32>().add(r).read()), *sum);
        }
    }
}

/// The whole numbers of sub-block `s` of the record at `x`: codes of weights times codes of activations.
///
/// # Safety
/// Needs the instruction set and the record; bit g of `high` says whether the sub-block's word g has high parts.
#[inline(always)]
unsafe fn dots<S: Simd, F: Format, const R: usize>(
    sub: &SubBlock<S, F::Codes<S>>,
    x: *const u8,
    s: usize,
    high: u16,
) -> [S::W; R] {
    // SAFETY: the caller's.
    unsafe {
        let at = |offset: usize| x.add(offset * R);
        let mut dots = [S::splat_word(0); R];
        let mut words = high & ((1 << (F::SUB / 4)) - 1);
        if words != 0 {
            let x = at(record::HIGH).add(s * F::SUB).cast();
            if F::STREAMED {
                // Codes in registers have no number: all of them, then.
                dots = S::dots::<R>(F::BITS, 0..F::SUB / 4, sub.codes, x, BLOCK, dots);
            } else {
                while words != 0 {
                    let g = words.trailing_zeros() as usize;
                    dots = S::dots::<R>(F::BITS, g..g + 1, sub.codes, x, BLOCK, dots);
                    words &= words - 1;
                }
            }
            for dot in &mut dots {
                *dot = S::shl(*dot, 8);
            }
        }
        if let Some(z) = F::ZERO {
            let (sums, shift) = match F::SUB {
                16 => (record::SHORT_SUMS, record::SHORT_SHIFT),
                _ => (record::CODE_SUMS, record::CODE_SHIFT),
            };
            for (r, dot) in dots.iter_mut().enumerate() {
                let sum = S::splat_word(at(sums).cast::<u32>().add(s * R + r).read());
                *dot = S::add_words(*dot, if z == shift { sum } else { S::shl(sum, z - shift) });
            }
        }
        S::dots::<R>(F::BITS, 0..F::SUB / 4, sub.codes, at(record::CODES).add(s * F::SUB).cast(), BLOCK, dots)
    }
}
