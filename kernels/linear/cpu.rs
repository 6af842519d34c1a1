//! Tiles of 16 outputs times up to [`Simd::ROWS`] rows of activations, the sums held in registers.

use super::format::{Format, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};
use super::weight::{Layout, Part};
use super::{OutOfMemory, Precision, Weight};
use crate::cpu::{Cpu, Kernel, LANES, Simd, SyncMutPtr, SyncPtr};
use crate::quant::DType;
use crate::{Tensor, TensorMut};
use std::marker::PhantomData;
use std::ops::Range;

/// Elements of an activation block, which share a scale.
const BLOCK: usize = 32;
/// Steps of a fine activation's rest, which lies from -1/2 to 1/2, in one step of its code.
const FINE: f32 = 254.0;
/// Bytes of quantised activations that a pass over the tiles should find in the second-level cache.
const CACHED_BYTES: usize = 512 * 1024;

/// Quantised activations of one call: 8-bit codes `[T, K]`, a scale for each 32 of them, and the sums `Σ x` that minima
/// are multiplied with, for each 16 and for each 32. With [`Precision::Fine`] the rest of each code, in units of
/// 1 / [`FINE`]. Kept between calls, so that the steady state allocates nothing.
#[derive(Debug, Default)]
pub struct Scratch {
    codes: Vec<i8>,
    rests: Vec<i8>,
    scales: Vec<f32>,
    sums16: Vec<f32>,
    sums32: Vec<f32>,
}

impl Scratch {
    /// Room for `rows` rows of `cols` activations; more is allocated when it is needed.
    pub fn new(rows: usize, cols: usize) -> Result<Scratch, OutOfMemory> {
        let mut scratch = Scratch::default();
        let elements = rows.saturating_mul(cols);
        let Scratch { codes, rests, scales, sums16, sums32 } = &mut scratch;
        let asked = [
            codes.try_reserve_exact(elements),
            rests.try_reserve_exact(elements),
            scales.try_reserve_exact(elements / BLOCK),
            sums16.try_reserve_exact(elements / (BLOCK / 2)),
            sums32.try_reserve_exact(elements / BLOCK),
        ];
        if asked.iter().any(Result::is_err) {
            return Err(OutOfMemory { bytes: elements });
        }
        scratch.fit(rows, cols);
        Ok(scratch)
    }

    fn fit(&mut self, rows: usize, cols: usize) {
        let fit = |v: &mut Vec<f32>, len: usize| {
            if v.len() < len {
                v.resize(len, 0.0);
            }
        };
        for codes in [&mut self.codes, &mut self.rests] {
            if codes.len() < rows * cols {
                codes.resize(rows * cols, 0);
            }
        }
        fit(&mut self.scales, rows * cols / BLOCK);
        fit(&mut self.sums16, rows * cols / (BLOCK / 2));
        fit(&mut self.sums32, rows * cols / BLOCK);
    }
}

pub fn linear(cpu: &Cpu, x: Tensor, w: &Weight, scratch: &mut Scratch, y: &mut TensorMut) {
    if x.rows() == 0 {
        return;
    }
    assert!(w.parts().iter().all(|p| p.layout == Layout::Tiles), "a weight that was not laid out for the CPU");
    if w.parts().iter().any(|p| !p.dtype.is_float()) {
        quantize(cpu, x, w.precision(), scratch);
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
                let fine = w.precision() == Precision::Fine;
                run_part(cpu, &Job { part, x, scratch, output, first_row, tiles, fine });
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
    /// Whether activations have rests.
    fine: bool,
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
        let band = (CACHED_BYTES / row_bytes.max(1)).max(32);
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

    /// Writes 16 outputs (fewer at the part's end) of activation row `row`.
    ///
    /// # Safety
    /// Needs the instruction set of `S`; `tile` and `row` are within the job.
    #[inline(always)]
    unsafe fn store<S: Simd>(&self, tile: usize, row: usize, value: S::F) {
        let (n, width) = (self.first_row + tile * LANES, (self.part.rows - tile * LANES).min(LANES));
        let mut lanes = [0.0f32; LANES];
        // SAFETY: columns n..n + width of row `row` are inside y, and no other thread has this tile.
        unsafe {
            let y = self.output.y.get().add(row * self.output.stride + n);
            if width == LANES && self.output.bias.is_none() {
                return S::store(y, value);
            }
            S::store(lanes.as_mut_ptr(), value);
            for (i, lane) in lanes.iter().take(width).enumerate() {
                *y.add(i) = lane + self.output.bias.map_or(0.0, |b| b[n + i]);
            }
        }
    }
}

/// Evaluates `$body` for each group of R rows that covers `$rows`, `$row` being its first; R is 8, 4, 2 or 1. (A macro,
/// because a closure round vector code is not inlined.)
macro_rules! in_row_groups {
    ($S:ident, $rows:expr, |$row:ident, $R:ident| $body:expr) => {{
        let rows = $rows;
        let mut $row = rows.start;
        if $S::ROWS >= 8 {
            while $row + 8 <= rows.end {
                const $R: usize = 8;
                $body;
                $row += 8;
            }
        }
        while $row + 4 <= rows.end {
            const $R: usize = 4;
            $body;
            $row += 4;
        }
        while $row + 2 <= rows.end {
            const $R: usize = 2;
            $body;
            $row += 2;
        }
        while $row < rows.end {
            const $R: usize = 1;
            $body;
            $row += 1;
        }
    }};
}

/// Quantised weights times activations of 8 bits, or 16 with their rests.
struct QuantTiles<'a, F>(&'a Job<'a>, PhantomData<F>);

impl<F: Format> Kernel for QuantTiles<'_, F> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let job = self.0;
        for (rows, tile) in job.bands(job.x.cols()) {
            let weights = job.tile(tile);
            // SAFETY: Isa::run vouches for the instruction set; rows and tile are the job's.
            in_row_groups!(S, rows, |row, R| unsafe {
                let sums = Self::rows::<S, R>(job, weights, row);
                for r in 0..R {
                    job.store::<S>(tile, row + r, sums[r]);
                }
            });
        }
    }
}

impl<F: Format> QuantTiles<'_, F> {
    /// One tile times R rows of activations.
    #[inline(always)]
    unsafe fn rows<S: Simd, const R: usize>(job: &Job, weights: *const u8, row: usize) -> [S::F; R] {
        let cols = job.x.cols();
        let codes = job.scratch.codes[row * cols..(row + R) * cols].as_ptr();
        let rests = job.scratch.rests[row * cols..(row + R) * cols].as_ptr();
        let scales = job.scratch.scales[row * cols / BLOCK..(row + R) * cols / BLOCK].as_ptr();
        let sums = if F::SUB == 16 { &job.scratch.sums16 } else { &job.scratch.sums32 };
        let sums = sums[row * cols / F::SUB..(row + R) * cols / F::SUB].as_ptr();
        // SAFETY: offsets stay inside the slices above and inside the tile; the instruction set is the caller's.
        unsafe {
            let mut acc = [S::splat(0.0); R];
            for block in 0..cols / F::BLOCK {
                let tile = weights.add(block * LANES * F::BLOCK_BYTES);
                // The next tile's: this one is worked on for long enough that memory would idle meanwhile.
                let next = tile.wrapping_add(LANES * F::BLOCK_BYTES * (cols / F::BLOCK));
                for line in (0..LANES * F::BLOCK_BYTES).step_by(64) {
                    S::prefetch(next.wrapping_add(line));
                }
                for s in 0..F::BLOCK / F::SUB {
                    let sub = F::decode::<S>(tile, s);
                    let k = block * F::BLOCK + s * F::SUB;
                    for r in 0..R {
                        let dot = S::dot(F::BITS, F::SUB / 4, &sub.codes, codes.add(r * cols + k));
                        let mut dot = S::to_f32(dot);
                        if job.fine {
                            let rest = S::dot(F::BITS, F::SUB / 4, &sub.codes, rests.add(r * cols + k));
                            dot = S::fma(S::to_f32(rest), S::splat(1.0 / FINE), dot);
                        }
                        let dot = S::mul(dot, sub.d);
                        let scale = S::splat(*scales.add((r * cols + k) / BLOCK));
                        let sum = S::splat(*sums.add((r * cols + k) / F::SUB));
                        acc[r] = S::fma(dot, scale, acc[r]);
                        acc[r] = S::fma(sub.m, sum, acc[r]);
                    }
                }
            }
            acc
        }
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
                    job.store::<S>(tile, row + r, sums[r]);
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

/// Quantises the rows of `x` into `scratch`.
fn quantize(cpu: &Cpu, x: Tensor, precision: Precision, scratch: &mut Scratch) {
    scratch.fit(x.rows(), x.cols());
    let out = QuantOutput {
        codes: SyncMutPtr(scratch.codes.as_mut_ptr()),
        rests: (precision == Precision::Fine).then_some(SyncMutPtr(scratch.rests.as_mut_ptr())),
        scales: SyncMutPtr(scratch.scales.as_mut_ptr()),
        sums16: SyncMutPtr(scratch.sums16.as_mut_ptr()),
        sums32: SyncMutPtr(scratch.sums32.as_mut_ptr()),
    };
    cpu.parallel(x.rows(), 8, |rows| Quantize { x: SyncPtr(x.ptr()), stride: x.stride(), cols: x.cols(), out, rows });
}

#[derive(Clone, Copy)]
struct QuantOutput {
    codes: SyncMutPtr<i8>,
    rests: Option<SyncMutPtr<i8>>,
    scales: SyncMutPtr<f32>,
    sums16: SyncMutPtr<f32>,
    sums32: SyncMutPtr<f32>,
}

struct Quantize {
    x: SyncPtr<f32>,
    stride: usize,
    cols: usize,
    out: QuantOutput,
    rows: Range<usize>,
}

impl Kernel for Quantize {
    #[inline(always)]
    fn run<S: Simd>(self) {
        for row in self.rows.clone() {
            for block in 0..self.cols / BLOCK {
                // SAFETY: the scratch has room for all rows, each row is one thread's, and x has cols elements a row.
                unsafe {
                    let x = self.x.get().add(row * self.stride + block * BLOCK);
                    let at = (row * self.cols) / BLOCK + block;
                    let (a, b) = (S::load(x), S::load(x.add(LANES)));
                    let max = S::max_lane(S::max(S::abs(a), S::abs(b)));
                    let (scale, inverse) = (max / 127.0, if max > 0.0 { 127.0 / max } else { 0.0 });
                    let sum_a = self.half::<S>(a, inverse, at * BLOCK);
                    let sum_b = self.half::<S>(b, inverse, at * BLOCK + LANES);
                    *self.out.scales.get().add(at) = scale;
                    *self.out.sums16.get().add(2 * at) = scale * sum_a;
                    *self.out.sums16.get().add(2 * at + 1) = scale * sum_b;
                    *self.out.sums32.get().add(at) = scale * (sum_a + sum_b);
                }
            }
        }
    }
}

impl Quantize {
    /// Writes 16 codes (and rests) at `at` and returns the sum of what they stand for, in units of the scale.
    ///
    /// # Safety
    /// Needs the instruction set and room at `at`.
    #[inline(always)]
    unsafe fn half<S: Simd>(&self, x: S::F, inverse: f32, at: usize) -> f32 {
        // SAFETY: the caller's.
        unsafe {
            let x = S::mul(x, S::splat(inverse));
            let code = S::round(x);
            S::store_i8(self.out.codes.get().add(at), code);
            let Some(rests) = self.out.rests else { return S::sum(code) };
            let rest = S::round(S::mul(S::sub(x, code), S::splat(FINE)));
            S::store_i8(rests.get().add(at), rest);
            S::sum(S::fma(rest, S::splat(1.0 / FINE), code))
        }
    }
}
