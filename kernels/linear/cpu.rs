//! Products of a weight's tiles and bands of rows: who computes what, and what becomes of the sums.
//!
//! An item of work is a tile of 16 outputs and a band of rows. Some tiles of a band are one [`Job`]: its sums are gathered, tile
//! by tile, where the caches hold them, and then written row by row, so that memory gets whole stretches. Written tile by
//! tile, each line of an output went to another page, and those of wide outputs to the same few sets of the caches.

use super::activations::Scratch;
#[cfg(target_arch = "x86_64")]
use super::amx::AmxTiles;
#[cfg(target_arch = "x86_64")]
use super::bf16::Bf16Tiles;
use super::float::{Bf16, F16, F32, FloatTiles};
use super::format::{Format, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};
use super::quantised::QuantTiles;
use super::weight::{Layout, Part};
use super::{Activation, Weight};
use crate::act_mul::{Act, GeluTanh, Silu};
#[cfg(target_arch = "x86_64")]
use crate::cpu::amx::{self, TILE_ROWS};
use crate::cpu::{Cpu, Isa, Kernel, LANES, Simd, SyncMutPtr};
use crate::quant::DType;
use crate::{Tensor, TensorMut};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Rows of a band.
const BAND: usize = 128;
/// Rows of tiles whose sums a job gathers: 64 KiB of them.
const GATHERED: usize = 1024;
/// Tiles of a job; of a band there are 8.
const TILES: usize = 32;

/// `y = x Wᵀ + b`
pub fn linear(cpu: &Cpu, x: Tensor, w: &Weight, scratch: &mut Scratch, y: &mut TensorMut) {
    products(cpu, x, w, 1, Finish::Store, scratch, y);
}

/// `y = act(x Gᵀ) * (x Uᵀ)`, where G and U are the two parts of w.
pub fn gate_up(cpu: &Cpu, x: Tensor, w: &Weight, activation: Activation, scratch: &mut Scratch, y: &mut TensorMut) {
    products(cpu, x, w, 2, Finish::Gate(activation), scratch, y);
}

/// What becomes of sums.
#[derive(Clone, Copy)]
enum Finish {
    Store,
    Gate(Activation),
}

/// Products with all parts; every `together` of them, which have the same rows, make one output.
fn products(
    cpu: &Cpu,
    x: Tensor,
    w: &Weight,
    together: usize,
    finish: Finish,
    scratch: &mut Scratch,
    y: &mut TensorMut,
) {
    if x.rows() == 0 {
        return;
    }
    assert!(w.parts().iter().all(|p| p.layout != Layout::Rows), "a weight that was not laid out for the CPU");
    if w.parts().iter().any(|p| !p.dtype.is_float()) {
        scratch.pack(cpu, x, w.precision());
    }
    #[cfg(target_arch = "x86_64")]
    if w.parts().iter().any(|p| p.layout == Layout::Pairs) {
        scratch.pack_bf16(cpu, x);
    }
    let (scratch, output) = (&*scratch, Output { y: SyncMutPtr(y.ptr()), stride: y.stride(), bias: w.bias() });
    let tiles: usize = w.parts().chunks(together).map(|parts| tiles_of(&parts[0])).sum();
    let items = x.rows().div_ceil(BAND) * tiles;
    let grain = (items / (cpu.pool().threads() * 8)).max(1);
    // Item i is tile i % tiles, of the parts that stand there, times band i / tiles: a thread stays with a band, whose
    // activations its cache holds.
    cpu.pool().parallel_for(items, grain, &|items| {
        for band in items.start / tiles..items.end.div_ceil(tiles) {
            let rows = band * BAND..x.rows().min((band + 1) * BAND);
            let (mut first_tile, mut first_row) = (band * tiles, 0);
            for parts in w.parts().chunks(together) {
                let last_tile = first_tile + tiles_of(&parts[0]);
                let here = items.start.clamp(first_tile, last_tile) - first_tile
                    ..items.end.clamp(first_tile, last_tile) - first_tile;
                for tiles in evenly(here, (GATHERED / rows.len()).min(TILES)) {
                    let job = Job { x, scratch, tiles, rows: rows.clone() };
                    job.run(cpu, parts, finish, output, first_row);
                }
                first_tile = last_tile;
                first_row += parts[0].rows;
            }
        }
    });
}

fn tiles_of(part: &Part) -> usize {
    part.rows.div_ceil(LANES)
}

/// Cuts a range into pieces of like size, none above `most`.
pub(super) fn evenly(range: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let (start, len) = (range.start, range.len());
    let pieces = len.div_ceil(most);
    (0..pieces).map(move |i| start + len * i / pieces..start + len * (i + 1) / pieces)
}

#[derive(Clone, Copy)]
struct Output<'a> {
    y: SyncMutPtr<f32>,
    stride: usize,
    bias: Option<&'a [f32]>,
}

/// Some tiles and rows.
pub(super) struct Job<'a> {
    pub x: Tensor<'a>,
    pub scratch: &'a Scratch,
    pub tiles: Range<usize>,
    /// At most [`BAND`], the first at the beginning of a group.
    pub rows: Range<usize>,
}

/// Where a part's sums are gathered.
#[derive(Clone, Copy)]
pub(super) struct Sums(*mut f32);

/// A part's products for a job.
pub(super) struct PartJob<'a> {
    pub job: &'a Job<'a>,
    pub part: &'a Part,
    sums: Sums,
}

impl Job<'_> {
    /// The products with `parts`, and what becomes of them: outputs from column `first_row` on.
    fn run(&self, cpu: &Cpu, parts: &[Part], finish: Finish, output: Output, first_row: usize) {
        let mut gathered = MaybeUninit::<[[f32; GATHERED * LANES]; 2]>::uninit();
        let first: *mut f32 = gathered.as_mut_ptr().cast();
        let sums = [Sums(first), Sums(first.wrapping_add(GATHERED * LANES))];
        for (part, sums) in parts.iter().zip(sums) {
            PartJob { job: self, part, sums }.run(cpu);
        }
        let write = Write { job: self, part: &parts[0], sums, output, first_row };
        match finish {
            Finish::Store => cpu.isa().run(Stored(write)),
            Finish::Gate(Activation::Silu) => cpu.isa().run(Gated::<Silu>(write, PhantomData)),
            Finish::Gate(Activation::GeluTanh) => cpu.isa().run(Gated::<GeluTanh>(write, PhantomData)),
        }
    }

    /// Offset of the sums of a tile and a row.
    #[inline(always)]
    fn offset(&self, tile: usize, row: usize) -> usize {
        ((tile - self.tiles.start) * self.rows.len() + row - self.rows.start) * LANES
    }
}

impl PartJob<'_> {
    fn run(self, cpu: &Cpu) {
        let isa = cpu.isa();
        match self.part.dtype {
            DType::F32 => isa.run(FloatTiles::<F32>(self, PhantomData)),
            DType::F16 => isa.run(FloatTiles::<F16>(self, PhantomData)),
            #[cfg(target_arch = "x86_64")]
            DType::BF16 if self.part.layout == Layout::Pairs => amx::run(Bf16Tiles(&self)),
            DType::BF16 => isa.run(FloatTiles::<Bf16>(self, PhantomData)),
            DType::Q8_0 => self.quantised::<Q8_0>(isa),
            DType::Q4_0 => self.quantised::<Q4_0>(isa),
            DType::Q4_1 => self.quantised::<Q4_1>(isa),
            DType::Q5_0 => self.quantised::<Q5_0>(isa),
            DType::Q5_1 => self.quantised::<Q5_1>(isa),
            DType::Q4_K => self.quantised::<Q4_K>(isa),
            DType::Q5_K => self.quantised::<Q5_K>(isa),
            DType::Q6_K => self.quantised::<Q6_K>(isa),
        }
    }

    fn quantised<F: Format>(self, isa: Isa) {
        let mut rows = self.job.rows.clone();
        #[cfg(target_arch = "x86_64")]
        if isa == Isa::Amx && rows.len() >= TILE_ROWS {
            let rest = rows.end - rows.len() % TILE_ROWS;
            amx::run(AmxTiles::<F>(&self, rows.start..rest, PhantomData));
            rows.start = rest;
        }
        if !rows.is_empty() {
            isa.run(QuantTiles::<F>(&self, rows, PhantomData));
        }
    }

    /// The tile's bytes.
    #[inline(always)]
    pub fn tile(&self, tile: usize) -> *const u8 {
        let tile_bytes = self.part.tile_bytes;
        self.part.bytes.as_slice()[tile * tile_bytes..][..tile_bytes].as_ptr()
    }

    /// Where the sums of a tile and a row, both within the job, are gathered.
    #[inline(always)]
    pub fn sums(&self, tile: usize, row: usize) -> *mut f32 {
        self.sums.0.wrapping_add(self.job.offset(tile, row))
    }
}

/// Gathered sums on their way to the output.
struct Write<'a> {
    job: &'a Job<'a>,
    part: &'a Part,
    sums: [Sums; 2],
    output: Output<'a>,
    /// The part's first output.
    first_row: usize,
}

/// The sums as they are.
struct Stored<'a>(Write<'a>);

/// The activation A of the gate's sums, times up's.
struct Gated<'a, A>(Write<'a>, PhantomData<A>);

impl Kernel for Stored<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Write { job, output, .. } = &self.0;
        for row in job.rows.clone() {
            for tile in job.tiles.clone() {
                // SAFETY: Isa::run vouches for the instruction set; the sums were gathered.
                unsafe {
                    let n = self.0.output(tile);
                    self.0.store::<S>(tile, row, self.0.sum::<S>(0, tile, row, output.bias.map(|bias| &bias[n..])));
                }
            }
        }
    }
}

impl<A: Act> Kernel for Gated<'_, A> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Write { job, part, output, .. } = &self.0;
        for row in job.rows.clone() {
            for tile in job.tiles.clone() {
                // SAFETY: as above.
                unsafe {
                    let n = self.0.output(tile);
                    let gate = self.0.sum::<S>(0, tile, row, output.bias.map(|bias| &bias[n..]));
                    let up = self.0.sum::<S>(1, tile, row, output.bias.map(|bias| &bias[part.rows + n..]));
                    self.0.store::<S>(tile, row, S::mul(A::act::<S>(gate), up));
                }
            }
        }
    }
}

impl Write<'_> {
    /// The first output of a tile.
    #[inline(always)]
    fn output(&self, tile: usize) -> usize {
        self.first_row + tile * LANES
    }

    /// The outputs of a tile: 16, or fewer at the part's end.
    #[inline(always)]
    fn width(&self, tile: usize) -> usize {
        (self.part.rows - tile * LANES).min(LANES)
    }

    /// A row's sums of a tile in part `i`, and their bias.
    ///
    /// # Safety
    /// Needs the instruction set of `S`, and that the sums were gathered.
    #[inline(always)]
    unsafe fn sum<S: Simd>(&self, i: usize, tile: usize, row: usize, bias: Option<&[f32]>) -> S::F {
        // SAFETY: the caller's; a bias has a value for each output.
        unsafe {
            let sum = S::load(self.sums[i].0.add(self.job.offset(tile, row)));
            let Some(bias) = bias else { return sum };
            let mut lanes = [0.0f32; LANES];
            let width = self.width(tile);
            lanes[..width].copy_from_slice(&bias[..width]);
            S::add(sum, S::load(lanes.as_ptr()))
        }
    }

    /// Writes a row's outputs of a tile.
    ///
    /// # Safety
    /// Needs the instruction set of `S`; `tile` and `row` are within the job.
    #[inline(always)]
    unsafe fn store<S: Simd>(&self, tile: usize, row: usize, value: S::F) {
        let width = self.width(tile);
        // SAFETY: columns n..n + width of row `row` are inside y, and no other thread has this tile of this row.
        unsafe {
            let y = self.output.y.get().add(row * self.output.stride + self.output(tile));
            if width == LANES {
                return S::store(y, value);
            }
            let mut lanes = [0.0f32; LANES];
            S::store(lanes.as_mut_ptr(), value);
            y.copy_from(lanes.as_ptr(), width);
        }
    }
}
