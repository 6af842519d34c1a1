//! Quantised weights times whole groups of 16 rows of packed activations, by AMX: the same numbers, bit by bit, as
//! [`super::quantised`] computes.
//!
//! A tile's sub-block of a chunk is decoded to signed bytes in the order in which it lies, which is that of a right tile of AMX: a
//! row for each word of codes. The unit then computes the whole numbers of 16 outputs times 16 rows, in memory on their way to
//! the vectors that add the products of high parts, scale, and add them up.
//!
//! Blocks follow each other without a pause: those of a chunk of a tile, times each group of rows, tile after tile. While the unit is
//! at one, the vectors scale and add the one before, and decode what comes two after it.

use super::activations::{BLOCK, QUAD, record};
use super::cpu::PartJob;
use super::format::{Decoded, Factors, Format};
use super::quantised::{Ahead, CHUNK, Rows, in_eights};
use crate::cpu::amx::{self, Shapes, TILE_ROWS, TileKernel, V};
use crate::cpu::{LANES, Simd};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

/// A part in format F, for some of the job's rows: whole groups.
pub struct AmxTiles<'a, F>(pub &'a PartJob<'a>, pub Range<usize>, pub PhantomData<F>);

/// The tiles of even sub-blocks, and of odd ones.
const S0: u8 = 0;
const S1: u8 = 1;
const L0: u8 = 2;
const L1: u8 = 3;
const R0: u8 = 4;
const R1: u8 = 5;

type Vector = <V as Simd>::F;

/// Whole numbers of a block: of each of 16 rows its sub-blocks', each of 16 outputs.
#[repr(C, align(64))]
struct Kept([i32; MOST * LANES * TILE_ROWS]);

impl Kept {
    /// Those of row `r` and sub-block `s`.
    #[inline(always)]
    fn dots<F: Format>(kept: *const Kept, r: usize, s: usize) -> *const u8 {
        kept.cast::<u8>().wrapping_add((r * (BLOCK / F::SUB) + s) * LANES * size_of::<i32>())
    }
}

/// The most sub-blocks of a block.
const MOST: usize = BLOCK / 16;

impl<F: Format> TileKernel for AmxTiles<'_, F> {
    #[inline(always)]
    unsafe fn run(self) {
        let job = self.0.job;
        // SAFETY: amx::run vouches for the instruction set.
        unsafe { amx::shape(&Self::SHAPES) };
        for start in (0..job.x.cols()).step_by(CHUNK) {
            // SAFETY: amx::run vouches for the instruction set; tiles and rows are the job's.
            unsafe { self.chunk(start..job.x.cols().min(start + CHUNK)) };
        }
    }
}

impl<F: Format> AmxTiles<'_, F> {
    /// Of the tiles: sums of 16 rows times 16 outputs, 16 rows of a sub-block's activations, its words of 16 outputs.
    const SHAPES: Shapes = {
        let (sums, left, right) = ((TILE_ROWS, 64), (TILE_ROWS, F::SUB), (F::SUB / 4, 64));
        Shapes::new([sums, sums, left, left, right, right, (0, 0), (0, 0)])
    };

    /// The group of rows that begins with `row`, from block `block` on.
    #[inline(always)]
    fn rows(&self, row: usize, block: usize) -> Rows<TILE_ROWS> {
        // SAFETY: the job's rows are in its scratch.
        unsafe { Rows::new(self.0.job.scratch, row, 0, block) }
    }

    /// A chunk of the columns of the job's tiles, times the rows.
    ///
    /// A product of tiles takes 52 cycles, and the next one can begin after 16: so its sums are stored when the next one has begun,
    /// the tiles that it has read are loaded again at once, and the vectors are a block behind. (Emerald Rapids: while the
    /// unit works, a core begins one vector instruction on floating point a cycle, not two, so a block of Q4_0 needs at least
    /// 80 cycles; it takes some 115. Those on whole numbers, as decoding, find room beside them. Taken out in turn, 128 rows: without
    /// the vectors' sums Q4_0 takes as long, Q4_1 a fifth less; without decoding 12% and 8% less; without loading activations,
    /// weights or both, 7% less at most. Tried and dropped: records asked for ahead; tiles in bf16, which hold high parts too and whose
    /// sums are floating point at once, but which are twice the lines to load and to decode (mostly a quarter to a half slower; Q4_0 was
    /// as slow without the vectors' sums); sums that begin with the bits of 1.5 * 2^23, which spare a conversion; four tiles of sums, so
    /// that none is zeroed soon after it was stored; 16 times the codes below themselves, so that one product has low and
    /// high parts: prompts of SmolLM2 seemed to gain, 16 rows and what has no high parts lost; weights decoded to bf16 with their scales
    /// and minima, so that the unit sums whole rows by itself: 128 rows of Q4_1 took two thirds of the time, 43 to 65 ms,
    /// but a single row took nearly four times as long, and a prompt's rows must have the bits of rows that come one at a time,
    /// or what was generated could not be found again as a prompt's prefix.)
    ///
    /// # Safety
    /// Needs the instruction set, as all below; the chunk is the job's.
    #[inline(always)]
    unsafe fn chunk(&self, chunk: Range<usize>) {
        let (part, job, rows) = (self.0, self.0.job, self.1.clone());
        let blocks = chunk.len().div_ceil(BLOCK);
        let groups = rows.len() / TILE_ROWS;
        // A single group needs more lines for a block than can be under way at once: so it asks row by row.
        let turns = if groups == 1 { TILE_ROWS } else { 1 };
        let tile_bytes = part.part.tile_bytes;
        let codes = part.tile(job.tiles.start).wrapping_add(chunk.start / F::BLOCK * LANES * F::BLOCK_BYTES);
        let bytes = chunk.len() / F::BLOCK * LANES * F::BLOCK_BYTES;
        let mut memory = MaybeUninit::<Slots>::uninit();
        let ring = Ring::<F>::new(memory.as_mut_ptr().cast(), blocks, groups);
        let mut decoder = Decoder::new(ring, codes, chunk.len(), tile_bytes - bytes, job.tiles.len() * blocks);
        let mut course = Course::new(self, ring, blocks, chunk.start / BLOCK);
        // Of the block that the vectors are at, and of the next one, at which the tiles are: in turn.
        let mut kept = [const { MaybeUninit::<Kept>::uninit() }; 2];
        let (mut now, mut then) = (kept[0].as_mut_ptr(), kept[1].as_mut_ptr());
        // SAFETY: blocks are decoded before they are loaded, if there are so many: behind the last one, what lies there is loaded and
        // multiplied in vain. Sums of earlier chunks have been gathered.
        unsafe {
            decoder.reach(AHEAD);
            let (mut at, mut next) = (course.at, course.next());
            at.load::<L0, R0>(0);
            at.load::<L1, R1>(1);
            in_eights!(BLOCK / F::SUB, |s| {
                at.step(s, next, now);
            });
            for (t, tile) in job.tiles.clone().enumerate() {
                let next_tile = codes.wrapping_add((t + 1) * tile_bytes);
                let mut ahead = Ahead::new(next_tile, 1, tile_bytes, bytes, groups * blocks * turns);
                for row in rows.clone().step_by(TILE_ROWS) {
                    let place = part.sums(tile, row);
                    let mut sums = if chunk.start > 0 { get(place) } else { [V::splat(0.0); TILE_ROWS] };
                    for b in 0..blocks {
                        decoder.reach(t * blocks + b + 1 + AHEAD);
                        let later = course.next();
                        in_eights!(BLOCK / F::SUB, |s| {
                            next.step(s, later, then);
                            if s == 0 {
                                store::<F, S1>(now, BLOCK / F::SUB - 1);
                                at.add_high(now);
                            }
                            let rows = TILE_ROWS * F::SUB / BLOCK;
                            for r in s * rows..(s + 1) * rows {
                                at.add(now, r, &mut sums[r]);
                                if r == 0 || turns > 1 {
                                    ahead.turn::<V>();
                                }
                            }
                        });
                        (now, then) = (then, now);
                        (at, next) = (next, later);
                    }
                    put(place, sums);
                }
            }
        }
    }
}

/// The blocks of a chunk, in the order in which they are multiplied: of each tile, times each group of rows.
struct Course<'a, F> {
    tiles: &'a AmxTiles<'a, F>,
    ring: Ring<F>,
    /// Blocks of the chunk, and its first one.
    blocks: usize,
    start: usize,
    /// Where it is: which group of rows, which block of the chunk, and the tile's first block.
    row: usize,
    block: usize,
    first: *const u8,
    at: Block<F>,
}

impl<'a, F: Format> Course<'a, F> {
    fn new(tiles: &'a AmxTiles<'a, F>, ring: Ring<F>, blocks: usize, start: usize) -> Self {
        let row = tiles.1.start;
        let at = Block::new(ring.start, tiles.rows(row, start));
        Course { tiles, ring, blocks, start, row, block: 0, first: ring.start, at }
    }

    /// Goes on to the next block: there is no end.
    #[inline(always)]
    fn next(&mut self) -> Block<F> {
        self.block += 1;
        if self.block < self.blocks {
            self.at = self.at.next(self.ring);
            return self.at;
        }
        (self.block, self.row) = (0, self.row + TILE_ROWS);
        if self.row == self.tiles.1.end {
            (self.row, self.first) = (self.tiles.1.start, self.ring.next(self.at.weights));
        }
        self.at = Block::new(self.first, self.tiles.rows(self.row, self.start));
        self.at
    }
}

/// Blocks that are decoded beyond the one that the vectors are at: the next one is multiplied meanwhile, of the one after that tiles
/// are loaded, and what has just been stored is not at hand at once.
const AHEAD: usize = 3;
/// Blocks of a ring beside a chunk's: those ahead, and the rest of a K-quant's that is decoded as a whole.
const SPARE: usize = 8;
/// The most bytes of a decoded block: the smallest sub-blocks need most, 16 codes and a scale of 4 bytes.
const MOST_BYTES: usize = BLOCK * LANES * 20 / 16;

#[repr(C, align(64))]
struct Slots([u8; (CHUNK / BLOCK + SPARE) * MOST_BYTES]);

/// Decoded blocks, each in a slot: the one of a chunk of a tile after the other, and then those of the next tile.
#[derive(Clone, Copy)]
struct Ring<F> {
    start: *mut u8,
    end: *mut u8,
    format: PhantomData<F>,
}

impl<F: Format> Ring<F> {
    const SLOT: usize = BLOCK / F::SUB * LANES * Decoded::<F>::BLOCK_BYTES;

    /// For chunks of so many blocks. A single group of rows needs each block once.
    fn new(start: *mut u8, blocks: usize, groups: usize) -> Self {
        let unit = const { Decoder::<F>::UNIT / BLOCK };
        const { assert!(Self::SLOT <= MOST_BYTES) };
        const { assert!(SPARE.is_multiple_of(Decoder::<F>::UNIT / BLOCK)) };
        let slots = if groups == 1 { SPARE } else { blocks.next_multiple_of(unit) + SPARE };
        Ring { start, end: start.wrapping_add(slots * Self::SLOT), format: PhantomData }
    }

    /// The slot after this one.
    #[inline(always)]
    fn next(self, slot: *const u8) -> *const u8 {
        let next = slot.wrapping_add(Self::SLOT);
        if next == self.end.cast_const() { self.start } else { next }
    }
}

/// Decodes a chunk of the columns of tile after tile into a ring.
struct Decoder<F> {
    ring: Ring<F>,
    slot: *mut u8,
    codes: *const u8,
    cols: usize,
    /// Columns of the tile that are left.
    left: usize,
    /// Bytes from the chunk's end in a tile to its beginning in the next.
    gap: usize,
    /// Blocks that have been decoded, and all.
    decoded: usize,
    blocks: usize,
}

impl<F: Format> Decoder<F> {
    /// Columns that are decoded at once.
    const UNIT: usize = if F::BLOCK > BLOCK { F::BLOCK } else { BLOCK };

    fn new(ring: Ring<F>, codes: *const u8, cols: usize, gap: usize, blocks: usize) -> Self {
        const { assert!(CHUNK.is_multiple_of(Self::UNIT)) };
        Decoder { ring, slot: ring.start, codes, cols, left: cols, gap, decoded: 0, blocks }
    }

    /// Decodes so many blocks, all in all, if there are so many.
    ///
    /// # Safety
    /// Needs the instruction set, the tiles and a ring with room for what it has not yet forgotten.
    #[inline(always)]
    unsafe fn reach(&mut self, blocks: usize) {
        while self.decoded < blocks.min(self.blocks) {
            // SAFETY: the caller's.
            unsafe { self.unit() };
        }
    }

    /// # Safety
    /// As [`Decoder::reach`]; there must be something left to decode.
    #[inline(always)]
    unsafe fn unit(&mut self) {
        let cols = self.left.min(Self::UNIT);
        // SAFETY: the caller's.
        unsafe {
            if cols == Self::UNIT {
                Decoded::<F>::write::<V, true>(self.codes, Self::UNIT / F::BLOCK, self.slot);
            } else {
                // Half a block. What is not there counts nothing, its factors being zero.
                let none = Factors::<V> { scale: V::splat(0.0), min: V::splat(0.0) };
                for s in cols / F::SUB..BLOCK / F::SUB {
                    Decoded::<F>::write_factors(self.slot.add(s * LANES * Decoded::<F>::BLOCK_BYTES), none);
                }
                Decoded::<F>::write::<V, true>(self.codes, 1, self.slot);
            }
        }
        self.decoded += Self::UNIT / BLOCK;
        self.slot = self.slot.wrapping_add(Self::UNIT / BLOCK * Ring::<F>::SLOT);
        if self.slot == self.ring.end {
            self.slot = self.ring.start;
        }
        self.codes = self.codes.wrapping_add(cols / F::BLOCK * LANES * F::BLOCK_BYTES);
        self.left -= cols;
        if self.left == 0 {
            (self.left, self.codes) = (self.cols, self.codes.wrapping_add(self.gap));
        }
    }
}

/// The sums of a tile's rows.
///
/// # Safety
/// Needs the instruction set and the sums.
#[inline(always)]
unsafe fn get(sums: *const f32) -> [Vector; TILE_ROWS] {
    // SAFETY: the caller's.
    unsafe {
        let mut values = [V::splat(0.0); TILE_ROWS];
        for (r, value) in values.iter_mut().enumerate() {
            *value = V::load(sums.add(r * LANES));
        }
        values
    }
}

/// Writes them.
///
/// # Safety
/// As [`get`].
#[inline(always)]
unsafe fn put(sums: *mut f32, values: [Vector; TILE_ROWS]) {
    // SAFETY: the caller's.
    unsafe {
        for (r, value) in values.into_iter().enumerate() {
            V::store(sums.add(r * LANES), value);
        }
    }
}

/// Stores the sums of sub-block `s`.
///
/// # Safety
/// Needs the instruction set.
#[inline(always)]
unsafe fn store<F: Format, const SUMS: u8>(kept: *mut Kept, s: usize) {
    // SAFETY: the caller's.
    unsafe { amx::store::<SUMS>(Kept::dots::<F>(kept, 0, s).cast_mut(), BLOCK / F::SUB * LANES * size_of::<i32>()) };
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
    /// How many quads of words with high parts are listed.
    quads: *const u16,
    x: Rows<TILE_ROWS>,
    format: PhantomData<F>,
}

impl<F: Format> Block<F> {
    /// The first block of the rows.
    #[inline(always)]
    fn new(weights: *const u8, x: Rows<TILE_ROWS>) -> Self {
        Block { weights, record: x.block(0), quads: x.high, x, format: PhantomData }
    }

    #[inline(always)]
    fn next(self, ring: Ring<F>) -> Self {
        let Block { weights, record, quads, .. } = self;
        Block {
            weights: ring.next(weights),
            record: record.wrapping_add(record::BYTES * TILE_ROWS),
            quads: quads.wrapping_add(1),
            ..self
        }
    }

    /// Loads the operands of sub-block `s`.
    ///
    /// # Safety
    /// Needs the instruction set and the block, as all below.
    #[inline(always)]
    unsafe fn load<const LEFT: u8, const RIGHT: u8>(self, s: usize) {
        // SAFETY: the caller's.
        unsafe {
            amx::load::<LEFT>(self.x.codes(self.record, record::CODES).wrapping_add(s * F::SUB).cast(), BLOCK);
            amx::load::<RIGHT>(self.sub_block(s), 64);
        }
    }

    /// Multiplies sub-block `s`, stores the sums of the one before, and loads the operands of the one after next, which may
    /// be the next block's.
    #[inline(always)]
    unsafe fn step(self, s: usize, next: Self, kept: *mut Kept) {
        // SAFETY: the caller's.
        unsafe {
            if s.is_multiple_of(2) {
                self.step_by::<S0, L0, R0>(s, next);
            } else {
                self.step_by::<S1, L1, R1>(s, next);
            }
            if s % 2 == 1 {
                store::<F, S0>(kept, s - 1);
            } else if s > 0 {
                store::<F, S1>(kept, s - 1);
            }
        }
    }

    /// Likewise, but for the store: by these tiles.
    #[inline(always)]
    unsafe fn step_by<const SUMS: u8, const LEFT: u8, const RIGHT: u8>(self, s: usize, next: Self) {
        let subs = BLOCK / F::SUB;
        // SAFETY: the caller's.
        unsafe {
            multiply::<F, SUMS, LEFT, RIGHT>();
            if s + 2 < subs {
                self.load::<LEFT, RIGHT>(s + 2);
            } else {
                next.load::<LEFT, RIGHT>(s + 2 - subs);
            }
        }
    }

    /// Adds the products of high parts to those of low ones. Few words have any: for each quad of these, some 14 cycles. (A product
    /// of tiles for each sub-block that has any, and vectors to add it, made linear layers of SmolLM2's prompts half as slow again
    /// as without; quads make them a sixth slower. With 16 bits everywhere, which no model has, quads take twice as long as tiles.
    /// Tried and dropped: lists of single words; whole groups of a word; products of 16 bits, which need no shift, but more quads; a
    /// list of its own for high parts from -8 to 7, times 16 as codes of 4 bits are then too, so that one instruction does for
    /// three: 0 to 4%.)
    #[inline(always)]
    unsafe fn add_high(self, kept: *mut Kept) {
        let high = self.x.codes(self.record, record::HIGH).cast::<[i32; QUAD]>();
        let places = self.record.wrapping_add(record::PLACES * TILE_ROWS);
        // SAFETY: the caller's; the quads are the block's.
        unsafe {
            for i in 0..usize::from(*self.quads) {
                let (quad, word) = record::place(*places.add(i));
                let s = word / (F::SUB / 4);
                // Between sub-blocks their factors lie.
                let factors = (Decoded::<F>::BLOCK_BYTES - F::SUB) * LANES;
                let codes = V::load_words(self.weights.wrapping_add(word * 4 * LANES + s * factors));
                for (r, x) in (*high.add(i)).iter().enumerate() {
                    let dots = amx::dots(codes, F::ZERO.is_some(), *x);
                    let sums = Kept::dots::<F>(kept, quad * QUAD + r, s).cast_mut();
                    V::store_words(sums, V::add_words(V::load_words(sums), V::shl(dots, 8)));
                }
            }
        }
    }

    /// Adds what has been computed of the block to the sums of row `r`: in the order of [`super::quantised`]'s `block_product`.
    #[inline(always)]
    unsafe fn add(self, kept: *const Kept, r: usize, sums: &mut Vector) {
        // SAFETY: the caller's.
        unsafe {
            let mut scaled = V::splat(0.0);
            for s in 0..BLOCK / F::SUB {
                let dot = V::to_f32(V::load_words(Kept::dots::<F>(kept, r, s)));
                let d = Decoded::<F>::factors::<V>(self.sub_block(s)).scale;
                scaled = if s == 0 { V::mul(dot, d) } else { V::fma(dot, d, scaled) };
            }
            if F::ZERO.is_none() {
                for s in 0..BLOCK / F::SUB {
                    let m = Decoded::<F>::factors::<V>(self.sub_block(s)).min;
                    *sums = V::fma(m, V::splat(self.x.value(self.record, record::SUMS, s, r)), *sums);
                }
            }
            *sums = V::fma(scaled, V::splat(self.x.value(self.record, record::SCALE, 0, r)), *sums);
        }
    }

    /// Sub-block `s` of the decoded tile.
    #[inline(always)]
    fn sub_block(self, s: usize) -> *const u8 {
        self.weights.wrapping_add(s * LANES * Decoded::<F>::BLOCK_BYTES)
    }
}
