//! Tiles of 16 outputs times up to [`Simd::ROWS`] rows of activations, the sums held in registers.
//!
//! For few rows a tile is decoded on its way through the registers. For many a chunk of its columns is decoded to memory
//! that the first-level cache holds, and meets the same columns of a band of rows, which the second-level cache holds.

use super::Weight;
use super::activations::{BLOCK, GROUP, Scratch, in_row_groups, record};
use super::format::{Decoded, Format, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, SubBlock};
use super::weight::{Layout, Part};
use crate::cpu::{Cpu, Kernel, LANES, Simd, SyncMutPtr};
use crate::quant::DType;
use crate::{Tensor, TensorMut};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Bytes of float activations that a pass over the tiles should find in the second-level cache.
const CACHED_BYTES: usize = 512 * 1024;
/// Rows of a band.
const BAND: usize = 128;
/// Columns of a chunk: 15 KiB of a decoded tile, and 312 KiB of a band's activations.
const CHUNK: usize = 768;
/// Bytes between what is worked on and what is asked for from memory. Tiles of a thread's share follow each other.
const AHEAD: usize = 16 * 1024;
/// Rows from which decoding to memory is worth it.
const MANY: usize = 24;
/// Records between the one that is worked on and the one that is asked for from the second-level cache.
const RECORDS_AHEAD: usize = 3;

pub fn linear(cpu: &Cpu, x: Tensor, w: &Weight, scratch: &mut Scratch, y: &mut TensorMut) {
    if x.rows() == 0 {
        return;
    }
    assert!(w.parts().iter().all(|p| p.layout == Layout::Tiles), "a weight that was not laid out for the CPU");
    if w.parts().iter().any(|p| !p.dtype.is_float()) {
        scratch.pack(cpu, x, w.precision());
    }
    let output = Output { y: SyncMutPtr(y.ptr()), stride: y.stride(), bias: w.bias() };
    // All parts are one parallel loop: item i is tile i - first of the part that holds it.
    let tiles: usize = w.parts().iter().map(|p| p.rows.div_ceil(LANES)).sum();
    let grain = (tiles / (cpu.pool().threads() * 8)).max(1);
    cpu.pool().parallel_for(tiles, grain, &|range| {
        let (mut first_tile, mut first_row) = (0, 0);
        for part in w.parts() {
            let last_tile = first_tile + part.rows.div_ceil(LANES);
            let here = range.start.max(first_tile)..range.end.min(last_tile);
            if !here.is_empty() {
                let tiles = here.start - first_tile..here.end - first_tile;
                run_part(cpu, &Job { part, x, scratch, output, first_row, tiles });
            }
            first_tile = last_tile;
            first_row += part.rows;
        }
    });
}

#[derive(Clone, Copy)]
struct Output<'a> {
    y: SyncMutPtr<f32>,
    stride: usize,
    bias: Option<&'a [f32]>,
}

/// Some tiles of one part.
struct Job<'a> {
    part: &'a Part,
    x: Tensor<'a>,
    scratch: &'a Scratch,
    output: Output<'a>,
    /// The part's first row in the whole weight.
    first_row: usize,
    tiles: Range<usize>,
}

fn run_part(cpu: &Cpu, job: &Job) {
    let isa = cpu.isa();
    match job.part.dtype {
        DType::F32 => isa.run(FloatTiles::<F32>(job, PhantomData)),
        DType::F16 => isa.run(FloatTiles::<F16>(job, PhantomData)),
        DType::BF16 => isa.run(FloatTiles::<Bf16>(job, PhantomData)),
        DType::Q8_0 => isa.run(QuantTiles::<Q8_0>(job, PhantomData)),
        DType::Q4_0 => isa.run(QuantTiles::<Q4_0>(job, PhantomData)),
        DType::Q4_1 => isa.run(QuantTiles::<Q4_1>(job, PhantomData)),
        DType::Q5_0 => isa.run(QuantTiles::<Q5_0>(job, PhantomData)),
        DType::Q5_1 => isa.run(QuantTiles::<Q5_1>(job, PhantomData)),
        DType::Q4_K => isa.run(QuantTiles::<Q4_K>(job, PhantomData)),
        DType::Q5_K => isa.run(QuantTiles::<Q5_K>(job, PhantomData)),
        DType::Q6_K => isa.run(QuantTiles::<Q6_K>(job, PhantomData)),
    }
}

impl Job<'_> {
    /// All pairs of a band of rows and a tile; a band's activations, `row_bytes` a row, stay cached over the tiles.
    #[inline(always)]
    fn bands(&self, row_bytes: usize) -> impl Iterator<Item = (Range<usize>, usize)> {
        let (rows, tiles) = (self.x.rows(), self.tiles.clone());
        let band = (CACHED_BYTES / row_bytes.max(1) / GROUP * GROUP).max(32);
        (0..rows).step_by(band).flat_map(move |start| {
            let end = rows.min(start + band);
            tiles.clone().map(move |tile| (start..end, tile))
        })
    }

    /// The tile's bytes.
    #[inline(always)]
    fn tile(&self, tile: usize) -> *const u8 {
        let tile_bytes = LANES * self.part.dtype.row_bytes(self.x.cols());
        self.part.bytes.as_slice()[tile * tile_bytes..][..tile_bytes].as_ptr()
    }

    /// Writes 16 outputs (fewer at the part's end) of activation row `row`: a `result`, to which the bias is added, or a sum
    /// that is not complete.
    ///
    /// # Safety
    /// Needs the instruction set of `S`; `tile` and `row` are within the job.
    #[inline(always)]
    unsafe fn store<S: Simd>(&self, tile: usize, row: usize, value: S::F, result: bool) {
        let (n, width) = self.outputs(tile);
        let bias = self.output.bias.filter(|_| result);
        // SAFETY: columns n..n + width of row `row` are inside y, and no other thread has this tile.
        unsafe {
            let y = self.output.y.get().add(row * self.output.stride + n);
            if width == LANES && bias.is_none() {
                return S::store(y, value);
            }
            let mut lanes = [0.0f32; LANES];
            S::store(lanes.as_mut_ptr(), value);
            for (i, lane) in lanes.iter().take(width).enumerate() {
                *y.add(i) = lane + bias.map_or(0.0, |b| b[n + i]);
            }
        }
    }

    /// Reads what [`Job::store`] has written; lanes behind the part's end are 0.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn load<S: Simd>(&self, tile: usize, row: usize) -> S::F {
        let (n, width) = self.outputs(tile);
        // SAFETY: as in `store`.
        unsafe {
            let y = self.output.y.get().add(row * self.output.stride + n);
            if width == LANES {
                return S::load(y);
            }
            let mut lanes = [0.0f32; LANES];
            y.copy_to(lanes.as_mut_ptr(), width);
            S::load(lanes.as_ptr())
        }
    }

    /// The first output of a tile, and how many it has.
    #[inline(always)]
    fn outputs(&self, tile: usize) -> (usize, usize) {
        (self.first_row + tile * LANES, (self.part.rows - tile * LANES).min(LANES))
    }
}

/// Quantised weights times packed activations.
struct QuantTiles<'a, F>(&'a Job<'a>, PhantomData<F>);

impl<F: Format> Kernel for QuantTiles<'_, F> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let job = self.0;
        let rows = job.x.rows();
        // What is left of whole groups goes the way of few rows.
        let whole = if rows < MANY { 0 } else { rows / S::ROWS * S::ROWS };
        // SAFETY: Isa::run vouches for the instruction set; rows and tiles are the job's.
        unsafe {
            for start in (0..whole).step_by(BAND) {
                let band = start..whole.min(start + BAND);
                match S::ROWS {
                    8 => Self::many::<S, 8>(job, band),
                    _ => Self::many::<S, 4>(job, band),
                }
            }
            if whole < rows {
                for tile in job.tiles.clone() {
                    Self::few::<S>(job, tile, whole..rows);
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
    unsafe fn few<S: Simd>(job: &Job, tile: usize, rows: Range<usize>) {
        let (weights, cols) = (job.tile(tile), job.x.cols());
        in_row_groups!(S, rows, |row, R| {
            // SAFETY: the caller's.
            unsafe {
                let (x, high) = (job.scratch.records(row), job.scratch.high(row));
                let sums = product::<S, F, R>(weights, cols, x, high, [S::splat(0.0); R]);
                for (r, sums) in sums.into_iter().enumerate() {
                    job.store::<S>(tile, row + r, sums, true);
                }
            }
        });
    }

    /// The job's tiles times a band of rows, in whole groups of R, chunk by chunk of the columns.
    ///
    /// # Safety
    /// As [`QuantTiles::few`].
    #[inline(always)]
    unsafe fn many<S: Simd, const R: usize>(job: &Job, rows: Range<usize>) {
        const { assert!(CHUNK.is_multiple_of(F::BLOCK) && CHUNK.is_multiple_of(BLOCK)) };
        // The smallest sub-blocks need most: 16 codes, a scale of 4 bytes.
        let mut decoded = MaybeUninit::<[u8; CHUNK * LANES * 20 / 16]>::uninit();
        let decoded: *mut u8 = decoded.as_mut_ptr().cast();
        let cols = job.x.cols();
        for start in (0..cols).step_by(CHUNK) {
            let chunk = start..cols.min(start + CHUNK);
            for tile in job.tiles.clone() {
                // SAFETY: the chunk lies in the tile, and the buffer holds it.
                unsafe {
                    let weights = job.tile(tile).add(start / F::BLOCK * LANES * F::BLOCK_BYTES);
                    Decoded::<F>::write::<S>(weights, chunk.len() / F::BLOCK, decoded);
                    Self::groups::<S, R>(job, rows.clone(), tile, chunk.clone(), weights, decoded);
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
        job: &Job,
        rows: Range<usize>,
        tile: usize,
        chunk: Range<usize>,
        weights: *const u8,
        decoded: *const u8,
    ) {
        let cols = job.x.cols();
        // The next tile's bytes are asked for a share at a time: of many at once the last ones come too late.
        let next = weights.wrapping_add(LANES * job.part.dtype.row_bytes(cols));
        let lines = chunk.len() / F::BLOCK * LANES * F::BLOCK_BYTES / 64;
        let share = lines.div_ceil(rows.len() / R);
        for (i, row) in rows.step_by(R).enumerate() {
            // SAFETY: the records are in the scratch; sums wait where the result will be.
            unsafe {
                for line in i * share..lines.min((i + 1) * share) {
                    S::prefetch(next.wrapping_add(64 * line));
                }
                let x = job.scratch.records(row).add(chunk.start / BLOCK * record::BYTES * R);
                let high = job.scratch.high(row).add(chunk.start / BLOCK);
                let mut sums = [S::splat(0.0); R];
                if chunk.start > 0 {
                    for (r, sum) in sums.iter_mut().enumerate() {
                        *sum = job.load::<S>(tile, row + r);
                    }
                }
                let sums = product::<S, Decoded<F>, R>(decoded, chunk.len(), x, high, sums);
                for (r, sum) in sums.into_iter().enumerate() {
                    job.store::<S>(tile, row + r, sum, chunk.end == cols);
                }
            }
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
    mut sums: [S::F; R],
) -> [S::F; R] {
    let step = if F::BLOCK > BLOCK { F::BLOCK } else { BLOCK };
    // SAFETY: offsets stay inside the tile and the records; the instruction set is the caller's.
    unsafe {
        for first in (0..cols / step * step).step_by(step) {
            let tile = weights.add(first / F::BLOCK * LANES * F::BLOCK_BYTES);
            in_eights!(step / BLOCK, |i| {
                let b = first / BLOCK + i;
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
            let sums = if F::SUB == 16 { record::SHORT_SUMS } else { record::CODE_SUMS };
            for (r, dot) in dots.iter_mut().enumerate() {
                let sum = at(sums).cast::<u32>().add(s * R + r).read();
                *dot = S::add_words(*dot, S::shl(S::splat_word(sum), z));
            }
        }
        S::dots::<R>(F::BITS, 0..F::SUB / 4, sub.codes, at(record::CODES).add(s * F::SUB).cast(), BLOCK, dots)
    }
}

/// A float format of weights.
trait Float: 'static {
    const BYTES: usize;
    /// # Safety
    /// Needs the instruction set, and sixteen elements at `p`.
    unsafe fn load<S: Simd>(p: *const u8) -> S::F;
}

macro_rules! float {
    ($name:ident, $bytes:expr, $load:ident) => {
        struct $name;
        impl Float for $name {
            const BYTES: usize = $bytes;
            #[inline(always)]
            unsafe fn load<S: Simd>(p: *const u8) -> S::F {
                // SAFETY: the caller's.
                unsafe { S::$load(p.cast()) }
            }
        }
    };
}
float!(F32, 4, load);
float!(F16, 2, load_f16);
float!(Bf16, 2, load_bf16);

/// Float weights times f32 activations.
struct FloatTiles<'a, F>(&'a Job<'a>, PhantomData<F>);

impl<F: Float> Kernel for FloatTiles<'_, F> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let job = self.0;
        for (rows, tile) in job.bands(4 * job.x.cols()) {
            let weights = job.tile(tile);
            // SAFETY: Isa::run vouches for the instruction set; rows and tile are the job's.
            in_row_groups!(S, rows, |row, R| unsafe {
                let sums = Self::rows::<S, R>(job, weights, row);
                for r in 0..R {
                    job.store::<S>(tile, row + r, sums[r], true);
                }
            });
        }
    }
}

impl<F: Float> FloatTiles<'_, F> {
    #[inline(always)]
    unsafe fn rows<S: Simd, const R: usize>(job: &Job, weights: *const u8, row: usize) -> [S::F; R] {
        let mut x = [std::ptr::null(); R];
        for r in 0..R {
            x[r] = job.x.row(row + r).as_ptr();
        }
        // SAFETY: k stays inside the rows and the tile; the instruction set is the caller's.
        unsafe {
            let mut acc = [S::splat(0.0); R];
            for k in 0..job.x.cols() {
                let w = F::load::<S>(weights.add(k * LANES * F::BYTES));
                for r in 0..R {
                    acc[r] = S::fma(w, S::splat(*x[r].add(k)), acc[r]);
                }
            }
            acc
        }
    }
}
