//! Quantised weights times packed activations, the sums in registers: a tile of 16 outputs times up to [`Simd::ROWS`] rows,
//! [`Simd::TILES`] tiles times fewer, or two tiles times one.
//!
//! For few rows a tile is decoded on its way through the registers. For many a chunk of its columns is decoded to memory
//! that the first-level cache holds, and meets the same columns of a band of rows, which the second-level cache holds.
//!
//! Tried on AVX-512 for 16 rows, and dropped: groups of 16, which decode once and have 16 sums that do not wait for each other
//! (Q4_K 13% faster, Q4_0 13% and Q6_K 9% slower: scaled sums go through memory), and two sub-blocks of eight rows at once (Q4_0 10%
//! slower). Conversions, scales and decoding leave the products two thirds of the two units that do all of them.

use super::activations::{BLOCK, Scratch, in_row_groups, record};
use super::cpu::PartJob;
use super::format::{Decoded, Factors, Format, SubBlock};
use crate::cpu::{Kernel, LANES, Simd};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Columns of a chunk: 15 KiB of a decoded tile, and 246 KiB of a band's activations.
pub(super) const CHUNK: usize = 768;
/// Bytes between what is worked on and what is asked for from memory. Tiles of a thread's share follow each other.
const AHEAD: usize = 16 * 1024;
/// Records between the one that is worked on and the one that is asked for from the second-level cache.
const RECORDS_AHEAD: usize = 3;

/// A part in format F, for some of the job's rows.
pub struct QuantTiles<'a, F>(pub &'a PartJob<'a>, pub Range<usize>, pub PhantomData<F>);

impl<F: Format> Kernel for QuantTiles<'_, F> {
    const BF16: bool = false;
    const INT8: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self) {
        let (job, rows) = (self.0.job, self.1.clone());
        // What is left of whole groups goes the way of few rows.
        let whole = if rows.len() < Self::many_groups::<S>() * S::ROWS { 0 } else { rows.len() / S::ROWS * S::ROWS };
        let (many, few) = (rows.start..rows.start + whole, rows.start + whole..rows.end);
        // SAFETY: Isa::run vouches for the instruction set; rows and tiles are the job's.
        unsafe {
            if !many.is_empty() {
                match (S::ROWS, S::TILES) {
                    // A single tile takes a group's eight rows at once.
                    (8, 2) => self.many::<S, 8, 4, 2>(many),
                    (4, 1) => self.many::<S, 4, 4, 1>(many),
                    // Another group than the one that rows are packed in would read wrong records.
                    shape => unreachable!("no kernel for {shape:?}"),
                }
            }
            if few.len() == 1 {
                self.one::<S>(few.start);
            } else if !few.is_empty() {
                for tile in job.tiles.clone() {
                    self.few::<S>(tile, few.clone());
                }
            }
        }
    }
}

impl<F: Format> QuantTiles<'_, F> {
    /// Groups of rows from which decoding to memory, once for all of them, is faster than decoding once for each. For two groups of
    /// Q4_0 it is 7% slower. For K-quants, whose decoding takes longest, it is 8 to 10% faster with groups of four (AVX2, with VNNI and
    /// without), and with groups of eight, to which decoding is half as much, 8 to 25% slower (AVX-512 on Emerald Rapids).
    const fn many_groups<S: Simd>() -> usize {
        if F::BLOCK > 32 && S::ROWS < 8 { 2 } else { 3 }
    }

    /// The job's tiles times one row, two at once: they share the row's words, and a core reads memory faster in two places than in
    /// one (Zen 3: Q4_0 takes 14 to 22% less time, Q4_1, Q8_0 and Q4_K 10 to 15%, Q6_K 2%; four places were slower than two).
    ///
    /// # Safety
    /// Needs the instruction set, as all below; the tiles and the rows are the job's, and the first begins a group.
    #[inline(always)]
    unsafe fn one<S: Simd>(&self, row: usize) {
        let tiles = self.0.job.tiles.clone();
        let half = tiles.len() / 2;
        // SAFETY: the caller's.
        unsafe {
            for tile in tiles.start..tiles.start + half {
                self.group::<S, 1, 2>([tile, tile + half], row);
            }
            if !tiles.len().is_multiple_of(2) {
                self.group::<S, 1, 1>([tiles.end - 1], row);
            }
        }
    }

    /// A tile times rows.
    ///
    /// # Safety
    /// As [`QuantTiles::one`].
    #[inline(always)]
    unsafe fn few<S: Simd>(&self, tile: usize, rows: Range<usize>) {
        in_row_groups!(S::ROWS, rows, |row, R| {
            // SAFETY: the caller's.
            unsafe { self.group::<S, R, 1>([tile], row) };
        });
    }

    /// T tiles times a group of R rows.
    ///
    /// # Safety
    /// As [`QuantTiles::one`].
    #[inline(always)]
    unsafe fn group<S: Simd, const R: usize, const T: usize>(&self, tiles: [usize; T], row: usize) {
        let job = self.0.job;
        // SAFETY: the caller's.
        unsafe {
            let weights = tiles.map(|tile| self.0.tile(tile));
            let x = Rows::<R>::new(job.scratch, row, 0, 0);
            let zeros = [[S::splat(0.0); R]; T];
            let sums = product::<S, F, R, R, T>(weights, job.x.cols(), x, &mut Ahead::default(), zeros);
            for (tile, sums) in tiles.into_iter().zip(sums) {
                for (r, sums) in sums.into_iter().enumerate() {
                    S::store(self.0.sums(tile, row + r), sums);
                }
            }
        }
    }

    /// The job's tiles times rows in whole groups of G, chunk by chunk of the columns: T tiles and R rows of a group at once.
    ///
    /// # Safety
    /// As [`QuantTiles::one`].
    #[inline(always)]
    unsafe fn many<S: Simd, const G: usize, const R: usize, const T: usize>(&self, rows: Range<usize>) {
        let job = self.0.job;
        for start in (0..job.x.cols()).step_by(CHUNK) {
            let chunk = start..job.x.cols().min(start + CHUNK);
            let mut tiles = job.tiles.clone();
            // SAFETY: the caller's.
            unsafe {
                while tiles.len() >= T {
                    self.chunk::<S, G, R, T>(rows.clone(), tiles.start, chunk.clone());
                    tiles.start += T;
                }
                for tile in tiles {
                    self.chunk::<S, G, G, 1>(rows.clone(), tile, chunk.clone());
                }
            }
        }
    }

    /// A chunk of the columns of T tiles from `tile`, times rows in whole groups of G.
    ///
    /// # Safety
    /// As [`QuantTiles::one`].
    #[inline(always)]
    unsafe fn chunk<S: Simd, const G: usize, const R: usize, const T: usize>(
        &self,
        rows: Range<usize>,
        tile: usize,
        chunk: Range<usize>,
    ) {
        const { assert!(CHUNK.is_multiple_of(F::BLOCK) && CHUNK.is_multiple_of(BLOCK) && G.is_multiple_of(R)) };
        let job = self.0.job;
        // The smallest sub-blocks need most: 16 codes, a scale of 4 bytes.
        let mut decoded = [const { MaybeUninit::<[u8; CHUNK * LANES * 20 / 16]>::uninit() }; T];
        let mut weights = [std::ptr::null(); T];
        let tile_bytes = self.0.part.tile_bytes;
        let of_chunk =
            |t: usize| self.0.tile(tile).wrapping_add(t * tile_bytes + chunk.start / F::BLOCK * LANES * F::BLOCK_BYTES);
        let blocks = rows.len() / R * chunk.len().div_ceil(BLOCK);
        let bytes = chunk.len() / F::BLOCK * LANES * F::BLOCK_BYTES;
        let mut ahead = Ahead::new(of_chunk(T), T, tile_bytes, bytes, blocks);
        // SAFETY: the chunk lies in the tiles, and the buffers hold it; the records are in the scratch; sums of earlier chunks
        // have been gathered.
        unsafe {
            for t in 0..T {
                let out = decoded[t].as_mut_ptr().cast();
                Decoded::<F>::write::<S, false>(of_chunk(t), chunk.len() / F::BLOCK, out);
                weights[t] = decoded[t].as_ptr().cast();
            }
            for row in rows.step_by(R) {
                let (group, first) = (row / G * G, row % G);
                let x = Rows::<G>::new(job.scratch, group, first, chunk.start / BLOCK);
                let mut sums = [[S::splat(0.0); R]; T];
                if chunk.start > 0 {
                    for t in 0..T {
                        for r in 0..R {
                            sums[t][r] = S::load(self.0.sums(tile + t, row + r));
                        }
                    }
                }
                let sums = product::<S, Decoded<F>, G, R, T>(weights, chunk.len(), x, &mut ahead, sums);
                for t in 0..T {
                    for r in 0..R {
                        S::store(self.0.sums(tile + t, row + r), sums[t][r]);
                    }
                }
            }
        }
    }
}

/// Rows from `first` on of a group of G: their records, block after block.
#[derive(Clone, Copy)]
pub(super) struct Rows<const G: usize> {
    records: *const u8,
    first: usize,
    /// Which words have high parts, of each block, or how many are listed ([`Scratch::high`]).
    pub high: *const u16,
}

impl<const G: usize> Rows<G> {
    /// The rows from `first` on of the group that begins with row `group`, from this block on.
    ///
    /// # Safety
    /// Needs the group and the block.
    #[inline(always)]
    pub unsafe fn new(scratch: &Scratch, group: usize, first: usize, block: usize) -> Self {
        // SAFETY: the caller's.
        unsafe {
            let records = scratch.records(group).add(block * record::BYTES * G);
            Rows { records, first, high: scratch.high(group).add(block) }
        }
    }

    /// Block `b` of the records.
    #[inline(always)]
    pub fn block(self, b: usize) -> *const u8 {
        self.records.wrapping_add(b * record::BYTES * G)
    }

    /// The codes of the first row, low or high ones, in the record at `x`; those of the next are [`BLOCK`] further.
    #[inline(always)]
    pub fn codes(self, x: *const u8, part: usize) -> *const i8 {
        x.wrapping_add(part * G + BLOCK * self.first).cast()
    }

    /// Value `i` of row `r` in the record at `x`.
    ///
    /// # Safety
    /// Needs the record.
    #[inline(always)]
    pub unsafe fn value<V>(self, x: *const u8, part: usize, i: usize, r: usize) -> V {
        // SAFETY: the caller's; parts and their values are multiples of four bytes.
        unsafe { x.add(part * G).cast::<V>().add(i * G + self.first + r).read() }
    }
}

/// The bytes that will be decoded next, which are asked for from memory while others are multiplied: evenly, a few at each turn, since
/// of many at once the last ones come too late.
#[derive(Default)]
pub(super) struct Ahead {
    /// The next line, of the first of so many tiles.
    line: usize,
    tiles: usize,
    tile_bytes: usize,
    /// Lines for a turn, and those that are due, in units of 1 / 65536.
    step: u32,
    due: u32,
}

impl Ahead {
    /// Of each of so many tiles the `bytes` at its place, the first one's being `first`: in so many turns.
    #[inline(always)]
    pub fn new(first: *const u8, tiles: usize, tile_bytes: usize, bytes: usize, turns: usize) -> Ahead {
        let step = ((bytes / 64) << 16).div_ceil(turns) as u32;
        Ahead { line: first.addr(), tiles, tile_bytes, step, due: 0 }
    }

    /// Asks for what is due.
    ///
    /// # Safety
    /// Needs the instruction set.
    #[inline(always)]
    pub unsafe fn turn<S: Simd>(&mut self) {
        self.due += self.step;
        while self.due >= 1 << 16 {
            for t in 0..self.tiles {
                // SAFETY: the caller's; any address may be asked for.
                unsafe { S::prefetch(std::ptr::without_provenance(self.line + t * self.tile_bytes)) };
            }
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
pub(super) use in_eights;

/// Adds to `sums` the products of `cols` columns of T tiles with R rows of packed activations.
///
/// # Safety
/// Needs the instruction set, the columns at each of `weights`, and as many of the rows in `x`.
#[inline(always)]
unsafe fn product<S: Simd, F: Format, const G: usize, const R: usize, const T: usize>(
    mut weights: [*const u8; T],
    cols: usize,
    x: Rows<G>,
    ahead: &mut Ahead,
    mut sums: [[S::F; R]; T],
) -> [[S::F; R]; T] {
    let step = if F::BLOCK > BLOCK { F::BLOCK } else { BLOCK };
    // SAFETY: offsets stay inside the tiles and the records; the instruction set is the caller's.
    unsafe {
        for first in (0..cols / step * step).step_by(step) {
            if !F::STREAMED {
                ahead.turn::<S>();
            }
            // Once for all blocks of activations that a block of weights spans.
            let factors = factors::<S, F, T>(weights);
            if R == 1 || S::UNROLLED {
                in_eights!(step / BLOCK, |i| {
                    block_product::<S, F, G, R, T, BLOCK>(weights, factors, i, x, first / BLOCK + i, &mut sums);
                });
            } else {
                // See `Simd::UNROLLED`; one row, which shares what is decoded with no other, needs its constants everywhere.
                for i in 0..step / BLOCK {
                    block_product::<S, F, G, R, T, BLOCK>(weights, factors, i, x, first / BLOCK + i, &mut sums);
                }
            }
            for tile in &mut weights {
                *tile = tile.add(step / F::BLOCK * LANES * F::BLOCK_BYTES);
            }
        }
        if !cols.is_multiple_of(step) {
            let factors = factors::<S, F, T>(weights);
            block_product::<S, F, G, R, T, { BLOCK / 2 }>(weights, factors, 0, x, cols / BLOCK, &mut sums);
        }
    }
    sums
}

/// Adds to `sums` the products of block `i` of the columns at `tiles`, of its first COLS columns, with block `b` of the rows.
///
/// # Safety
/// Needs the instruction set and the block; the factors are the weights' blocks', if these are longer.
#[inline(always)]
unsafe fn block_product<S: Simd, F: Format, const G: usize, const R: usize, const T: usize, const COLS: usize>(
    tiles: [*const u8; T],
    factors: [Factors<S>; T],
    i: usize,
    x: Rows<G>,
    b: usize,
    sums: &mut [[S::F; R]; T],
) {
    // SAFETY: the caller's.
    unsafe {
        let record = x.block(b);
        let high = *x.high.add(b);
        let mut scaled = [[S::splat(0.0); R]; T];
        if !F::STREAMED {
            // The low parts, which are a line for each row: high parts are needed seldom.
            in_eights!(R, |line| {
                S::prefetch(x.codes(x.block(b + RECORDS_AHEAD), record::CODES).wrapping_add(line * 64).cast());
            });
        }
        in_eights!(COLS / F::SUB, |s| {
            if F::STREAMED {
                // Spread over the sub-blocks: of many at once the last ones come too late. Which lines they are is constant, so that
                // nothing counts them at run time; in return a block's last line can be asked for again as the next one's first.
                let bytes = BLOCK * LANES * F::BLOCK_BYTES / F::BLOCK;
                let lines = |s: usize| bytes.div_ceil(64) * s / (BLOCK / F::SUB);
                for line in lines(s)..lines(s + 1) {
                    for tile in tiles {
                        S::prefetch(tile.wrapping_add(AHEAD + i * bytes + line * 64));
                    }
                }
            }
            let dots = dots::<S, F, G, R, T>(tiles, i, s, x, record, high >> (s * F::SUB / 4));
            for t in 0..T {
                let codes = sub_block::<F>(tiles[t], i, s);
                let d = codes.scale::<S>(factors_of(codes, factors[t]));
                for r in 0..R {
                    let dot = S::to_f32(dots[t][r]);
                    scaled[t][r] = if s == 0 { S::mul(dot, d) } else { S::fma(dot, d, scaled[t][r]) };
                    // Of four sub-blocks all dots would wait in memory; of two, which the registers hold, they had better wait.
                    if R == 1 && F::SUB < 32 {
                        scaled[t][r] = S::settled(scaled[t][r]);
                    }
                }
            }
        });
        if F::ZERO.is_none() {
            in_eights!(COLS / F::SUB, |s| {
                for t in 0..T {
                    let codes = sub_block::<F>(tiles[t], i, s);
                    let m = codes.min::<S>(factors_of(codes, factors[t]));
                    for r in 0..R {
                        let sum = S::splat(x.value(record, record::SUMS, s, r));
                        sums[t][r] = S::fma(m, sum, sums[t][r]);
                    }
                }
            });
        }
        for r in 0..R {
            let scale = S::splat(x.value(record, record::SCALE, 0, r));
            for t in 0..T {
                sums[t][r] = S::fma(scaled[t][r], scale, sums[t][r]);
            }
        }
    }
}

/// Sub-block `s` of block `i` of the columns at `tile`.
///
/// # Safety
/// Needs the block for as long as something is asked of it.
#[inline(always)]
unsafe fn sub_block<F: Format>(tile: *const u8, i: usize, s: usize) -> SubBlock<F> {
    let k = i * BLOCK + s * F::SUB;
    // SAFETY: the caller's.
    unsafe { SubBlock::new(tile.add(k / F::BLOCK * LANES * F::BLOCK_BYTES), k % F::BLOCK / F::SUB) }
}

/// The factors of the blocks at `tiles`.
///
/// # Safety
/// Needs the instruction set and the blocks.
#[inline(always)]
unsafe fn factors<S: Simd, F: Format, const T: usize>(tiles: [*const u8; T]) -> [Factors<S>; T] {
    // SAFETY: the caller's.
    unsafe {
        let mut factors = [F::factors::<S>(tiles[0]); T];
        for t in 1..T {
            factors[t] = F::factors::<S>(tiles[t]);
        }
        factors
    }
}

/// The factors of a sub-block's block: `shared`, where that spans several blocks of activations.
///
/// # Safety
/// Needs the instruction set and the block.
#[inline(always)]
unsafe fn factors_of<S: Simd, F: Format>(codes: SubBlock<F>, shared: Factors<S>) -> Factors<S> {
    // SAFETY: the caller's.
    if F::BLOCK > BLOCK { shared } else { unsafe { codes.factors() } }
}

/// The whole numbers of sub-block `s` of block `i` of the columns at `tiles`, and of the record of `x`: codes of weights times codes
/// of activations.
///
/// # Safety
/// Needs the instruction set, the block and the record; bit g of `high` says whether the sub-block's word g has high parts.
#[inline(always)]
unsafe fn dots<S: Simd, F: Format, const G: usize, const R: usize, const T: usize>(
    tiles: [*const u8; T],
    i: usize,
    s: usize,
    x: Rows<G>,
    record: *const u8,
    high: u16,
) -> [[S::W; R]; T] {
    // SAFETY: the caller's.
    unsafe {
        let mut codes = [sub_block::<F>(tiles[0], i, s); T];
        for t in 1..T {
            codes[t] = sub_block(tiles[t], i, s);
        }
        let mut dots = [[S::splat_word(0); R]; T];
        if let Some(z) = F::ZERO {
            let (sums, shift) = match F::SUB {
                16 => (record::SHORT_SUMS, record::SHORT_SHIFT),
                _ => (record::CODE_SUMS, record::CODE_SHIFT),
            };
            for r in 0..R {
                let sum = S::splat_word(x.value(record, sums, s, r));
                for dots in &mut dots {
                    dots[r] = if z == shift { sum } else { S::shl(sum, z - shift) };
                }
            }
        }
        let groups = F::SUB / 4;
        let codes_of = |part| x.codes(record, part).wrapping_add(s * F::SUB);
        let dots = S::dots_of_tiles::<T, R>(F::BITS, 0..groups, codes, codes_of(record::CODES), BLOCK, dots);
        let words = high & ((1 << groups) - 1);
        if words == 0 {
            return dots;
        }
        S::add_high::<T, R>(F::BITS, groups, words, codes, codes_of(record::HIGH), BLOCK, dots)
    }
}
