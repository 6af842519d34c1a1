//! Quantised weights times whole groups of 16 rows of packed activations, by AMX: the same numbers, bit by bit, as
//! [`super::quantised`] computes.
//!
//! A tile's sub-block of a chunk is decoded to signed bytes in the order in which it lies, which is that of a right tile of AMX: a
//! row for each word of codes. The unit then computes the whole numbers of 16 outputs times 16 rows, in memory on their way to
//! the vectors that scale and add them up.

use super::activations::{BLOCK, record};
use super::cpu::PartJob;
use super::format::{Decoded, Format};
use super::quantised::{Ahead, CHUNK, Rows, in_eights};
use crate::cpu::amx::{self, Shapes, TILE_ROWS, TileKernel, V};
use crate::cpu::{LANES, Simd};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

/// A part in format F, for some of the job's rows: whole groups.
pub struct AmxTiles<'a, F>(pub &'a PartJob<'a>, pub Range<usize>, pub PhantomData<F>);

/// The tiles of even sub-blocks, of odd ones, and of high parts.
const S0: u8 = 0;
const S1: u8 = 1;
const S2: u8 = 2;
const L0: u8 = 3;
const L1: u8 = 4;
const L2: u8 = 5;
const R0: u8 = 6;
const R1: u8 = 7;

type Vector = <V as Simd>::F;

/// Whole numbers of a sub-block: 16 outputs of 16 rows.
#[repr(C, align(64))]
struct Dots([[i32; LANES]; TILE_ROWS]);

/// Those of the sub-blocks of a block, and of their high parts.
#[repr(C)]
struct Kept {
    low: [Dots; MOST],
    high: [Dots; MOST],
}

/// The most sub-blocks of a block.
const MOST: usize = BLOCK / 16;

/// A chunk of a decoded tile. The smallest sub-blocks need most: 16 codes, a scale of 4 bytes.
#[repr(C, align(64))]
struct Chunk([u8; CHUNK * LANES * 20 / 16]);

impl<F: Format> TileKernel for AmxTiles<'_, F> {
    #[inline(always)]
    unsafe fn run(self) {
        let job = self.0.job;
        // SAFETY: amx::run vouches for the instruction set.
        unsafe { amx::shape(&Self::SHAPES) };
        for start in (0..job.x.cols()).step_by(CHUNK) {
            let chunk = start..job.x.cols().min(start + CHUNK);
            for tile in job.tiles.clone() {
                // SAFETY: amx::run vouches for the instruction set; tiles and rows are the job's.
                unsafe { self.chunk(tile, chunk.clone()) };
            }
        }
    }
}

impl<F: Format> AmxTiles<'_, F> {
    /// Of the tiles: sums of 16 rows times 16 outputs, 16 rows of a sub-block's activations, its words of 16 outputs.
    const SHAPES: Shapes = {
        let (sums, left, right) = ((TILE_ROWS, 64), (TILE_ROWS, F::SUB), (F::SUB / 4, 64));
        Shapes::new([sums, sums, sums, left, left, left, right, right])
    };

    /// A chunk of the columns of a tile, times the rows.
    ///
    /// # Safety
    /// Needs the instruction set, as all below; the tile and the chunk are the job's.
    #[inline(always)]
    unsafe fn chunk(&self, tile: usize, chunk: Range<usize>) {
        let (part, job, rows) = (self.0, self.0.job, self.1.clone());
        let mut decoded = MaybeUninit::<Chunk>::uninit();
        let weights: *mut u8 = decoded.as_mut_ptr().cast();
        let tile_bytes = LANES * part.part.dtype.row_bytes(job.x.cols());
        let codes = part.tile(tile).wrapping_add(chunk.start / F::BLOCK * LANES * F::BLOCK_BYTES);
        let bytes = chunk.len() / F::BLOCK * LANES * F::BLOCK_BYTES;
        let blocks = rows.len() / TILE_ROWS * chunk.len().div_ceil(BLOCK);
        let mut ahead = Ahead::new(codes.wrapping_add(tile_bytes), 1, tile_bytes, bytes, blocks);
        // SAFETY: the chunk lies in the tile, and the buffer holds it; the records are in the scratch; sums of earlier chunks
        // have been gathered.
        unsafe {
            Decoded::<F>::write::<V, true>(codes, chunk.len() / F::BLOCK, weights);
            for row in rows.step_by(TILE_ROWS) {
                let mut sums = [V::splat(0.0); TILE_ROWS];
                if chunk.start > 0 {
                    for (r, sums) in sums.iter_mut().enumerate() {
                        *sums = V::load(part.sums(tile, row + r));
                    }
                }
                let x = Rows::<TILE_ROWS>::new(job.scratch, row, 0, chunk.start / BLOCK);
                let sums = product::<F>(weights, chunk.len(), x, &mut ahead, sums);
                for (r, sums) in sums.into_iter().enumerate() {
                    V::store(part.sums(tile, row + r), sums);
                }
            }
        }
    }
}

/// Adds to `sums` the products of `cols` columns of a decoded tile with a group of packed activations.
///
/// A product of tiles takes 52 cycles, and the next one can begin after 16: so its sums are stored when the next one has begun, the
/// tiles that it has read are loaded again at once, and the vectors are a block behind. (Emerald Rapids, Q4_0: what bounds it are
/// the two ports that the vectors share with the unit, which also fetch the sums that are stored. Records asked for ahead change
/// nothing; chunks of 1536 columns take 3% less for 128 rows, and 25% more for 16.)
///
/// # Safety
/// Needs the instruction set, the columns at `weights`, and as many of the rows in `x`.
#[inline(always)]
unsafe fn product<F: Format>(
    weights: *const u8,
    cols: usize,
    x: Rows<TILE_ROWS>,
    ahead: &mut Ahead,
    mut sums: [Vector; TILE_ROWS],
) -> [Vector; TILE_ROWS] {
    // Of the block that the tiles are at, and of the one that the vectors are at: in turn.
    let mut kept = [const { MaybeUninit::<Kept>::uninit() }; 2];
    let (mut now, mut then) = (kept[0].as_mut_ptr(), kept[1].as_mut_ptr());
    let mut at = Block::<F> { weights, record: x.block(0), high: x.high, x, format: PhantomData };
    let blocks = cols.div_ceil(BLOCK);
    // SAFETY: the caller's.
    unsafe {
        at.load::<L0, R0>(0);
        at.load::<L1, R1>(1);
        for b in 0..blocks {
            ahead.block::<V>();
            // Behind the last block it is loaded in vain.
            let next = if b + 1 < blocks { at.next() } else { at };
            in_eights!(BLOCK / F::SUB, |s| {
                if s.is_multiple_of(2) {
                    at.step::<S0, L0, R0>(s, next, now);
                } else {
                    at.step::<S1, L1, R1>(s, next, now);
                }
                if s % 2 == 1 {
                    store::<S0>(now, s - 1);
                } else if s > 0 {
                    store::<S1>(now, s - 1);
                } else if b > 0 {
                    store::<S1>(then, BLOCK / F::SUB - 1);
                    at.previous().add_high(then);
                }
                if b > 0 {
                    let rows = TILE_ROWS * F::SUB / BLOCK;
                    at.previous().add::<BLOCK>(then, s * rows..(s + 1) * rows, &mut sums);
                }
            });
            (now, then) = (then, now);
            at = next;
        }
        store::<S1>(then, BLOCK / F::SUB - 1);
        at.add_high(then);
        if cols.is_multiple_of(BLOCK) {
            at.add::<BLOCK>(then, 0..TILE_ROWS, &mut sums);
        } else {
            at.add::<{ BLOCK / 2 }>(then, 0..TILE_ROWS, &mut sums);
        }
    }
    sums
}

/// Stores the sums of sub-block `s`.
///
/// # Safety
/// Needs the instruction set.
#[inline(always)]
unsafe fn store<const SUMS: u8>(kept: *mut Kept, s: usize) {
    // SAFETY: the caller's.
    unsafe { amx::store::<SUMS>((&raw mut (*kept).low).cast::<Dots>().wrapping_add(s).cast(), 64) };
}

/// The sums of rows of activations times words of codes, as [`Decoded`] has them.
///
/// # Safety
/// Needs the instruction set.
#[inline(always)]
unsafe fn multiply<F: Format, const SUMS: u8, const LEFT: u8, const RIGHT: u8>() {
    // SAFETY: the caller's.
    unsafe {
        amx::zero::<SUMS>();
        if F::ZERO.is_some() {
            amx::add_signed::<SUMS, LEFT, RIGHT>()
        } else {
            amx::add_unsigned::<SUMS, LEFT, RIGHT>()
        }
    }
}

/// A block of the decoded tile, and of the rows.
#[derive(Clone, Copy)]
struct Block<F> {
    weights: *const u8,
    record: *const u8,
    /// Which words of it have high parts.
    high: *const u16,
    x: Rows<TILE_ROWS>,
    format: PhantomData<F>,
}

impl<F: Format> Block<F> {
    const WEIGHTS: usize = BLOCK / F::SUB * LANES * Decoded::<F>::BLOCK_BYTES;

    #[inline(always)]
    fn next(self) -> Self {
        let Block { weights, record, high, .. } = self;
        Block {
            weights: weights.wrapping_add(Self::WEIGHTS),
            record: record.wrapping_add(record::BYTES * TILE_ROWS),
            high: high.wrapping_add(1),
            ..self
        }
    }

    #[inline(always)]
    fn previous(self) -> Self {
        let Block { weights, record, high, .. } = self;
        Block {
            weights: weights.wrapping_sub(Self::WEIGHTS),
            record: record.wrapping_sub(record::BYTES * TILE_ROWS),
            high: high.wrapping_sub(1),
            ..self
        }
    }

    /// Loads the operands of sub-block `s`.
    ///
    /// # Safety
    /// As [`product`], as all below: the block must be there.
    #[inline(always)]
    unsafe fn load<const LEFT: u8, const RIGHT: u8>(self, s: usize) {
        // SAFETY: the caller's.
        unsafe {
            amx::load::<LEFT>(self.x.codes(self.record, record::CODES).wrapping_add(s * F::SUB).cast(), BLOCK);
            amx::load::<RIGHT>(self.sub_block(s), 64);
        }
    }

    /// Multiplies sub-block `s`, and loads the operands of the one after next.
    #[inline(always)]
    unsafe fn step<const SUMS: u8, const LEFT: u8, const RIGHT: u8>(self, s: usize, next: Self, kept: *mut Kept) {
        let subs = BLOCK / F::SUB;
        // SAFETY: the caller's.
        unsafe {
            multiply::<F, SUMS, LEFT, RIGHT>();
            if *self.high >> (s * F::SUB / 4) & ((1 << (F::SUB / 4)) - 1) != 0 {
                let codes = self.x.codes(self.record, record::HIGH).wrapping_add(s * F::SUB);
                amx::load::<L2>(codes.cast(), BLOCK);
                multiply::<F, S2, L2, RIGHT>();
                amx::store::<S2>((*kept).high[s].0.as_mut_ptr().cast(), 64);
            }
            if s + 2 < subs {
                self.load::<LEFT, RIGHT>(s + 2);
            } else {
                next.load::<LEFT, RIGHT>(s + 2 - subs);
            }
        }
    }

    /// Adds the high parts to the low ones.
    #[inline(always)]
    unsafe fn add_high(self, kept: *mut Kept) {
        // SAFETY: the caller's.
        unsafe {
            let (high, kept) = (*self.high, &mut *kept);
            if high == 0 {
                return;
            }
            for s in 0..BLOCK / F::SUB {
                if high >> (s * F::SUB / 4) & ((1 << (F::SUB / 4)) - 1) == 0 {
                    continue;
                }
                for (low, high) in kept.low[s].0.iter_mut().zip(&kept.high[s].0) {
                    let high = V::shl(V::load_words(high.as_ptr().cast()), 8);
                    let low: *mut u8 = low.as_mut_ptr().cast();
                    V::store_words(low, V::add_words(V::load_words(low), high));
                }
            }
        }
    }

    /// Adds what has been computed of the first COLS columns of the block to the sums of `rows`: in the order of
    /// [`super::quantised`]'s `block_product`.
    #[inline(always)]
    unsafe fn add<const COLS: usize>(self, kept: *const Kept, rows: Range<usize>, sums: &mut [Vector; TILE_ROWS]) {
        // SAFETY: the caller's.
        unsafe {
            for r in rows {
                let mut scaled = V::splat(0.0);
                for s in 0..COLS / F::SUB {
                    let dot = V::to_f32(V::load_words((*kept).low[s].0[r].as_ptr().cast()));
                    let d = Decoded::<F>::factors::<V>(self.sub_block(s)).scale;
                    scaled = if s == 0 { V::mul(dot, d) } else { V::fma(dot, d, scaled) };
                }
                if F::ZERO.is_none() {
                    for s in 0..COLS / F::SUB {
                        let m = Decoded::<F>::factors::<V>(self.sub_block(s)).min;
                        sums[r] = V::fma(m, V::splat(self.x.value(self.record, record::SUMS, s, r)), sums[r]);
                    }
                }
                sums[r] = V::fma(scaled, V::splat(self.x.value(self.record, record::SCALE, 0, r)), sums[r]);
            }
        }
    }

    /// Sub-block `s` of the decoded tile.
    #[inline(always)]
    fn sub_block(self, s: usize) -> *const u8 {
        self.weights.wrapping_add(s * LANES * Decoded::<F>::BLOCK_BYTES)
    }
}
