//! Activations, quantised and packed for the matrix kernels.
//!
//! Rows are packed in groups of 8, 4, 2 or 1 ([`in_row_groups`]), whose rows a kernel works on at once. A group has one
//! record for each 32 columns, in which everything that the kernel broadcasts lies in the order in which it needs it, so a
//! kernel walks through a group from one end to the other.
//!
//! A block of 32 activations is `scale * code`, codes of 8 bits, `scale` its greatest magnitude over 127. Some blocks
//! also have `rest`s, which make `scale * (code + rest / 256)`, that is 16 bits: see [`Precision`]. Whether a block has
//! them follows from its row alone; where another row of the group has them they are zero and change no bit.

use super::{OutOfMemory, Precision};
use crate::Tensor;
use crate::cpu::{Cpu, Kernel, LANES, Simd, SyncMutPtr, SyncPtr};
use std::ops::Range;

/// Activations that share a scale.
pub(super) const BLOCK: usize = 32;
/// Rows that are packed by one thread: the largest group.
pub(super) const GROUP: usize = 8;
/// A rest's unit is a code's over this.
const FINE: f32 = 256.0;

/// Byte offsets, for each row of the group, of the parts of a record. A part has the values of the group's rows side by side.
pub(super) mod record {
    /// Eight words of four codes.
    pub const CODES: usize = 0;
    /// As many of rests.
    pub const RESTS: usize = 32;
    /// f32.
    pub const SCALE: usize = 64;
    /// f32 sums of the activations: of all 32, of the first 16, of the others.
    pub const SUMS: usize = 68;
    /// i32, negated sums of the codes, in the same order.
    pub const CODE_SUMS: usize = 80;
    /// i32, negated sums of the rests, in the same order.
    pub const REST_SUMS: usize = 92;
    /// All of it.
    pub const BYTES: usize = 104;
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
pub(super) use in_row_groups;

/// The packed activations of one call; kept between calls, so that the steady state allocates nothing.
#[derive(Debug, Default)]
pub struct Scratch {
    records: Vec<u32>,
    /// For each block of a group, at the place of the group's first row, whether any of its rows has rests.
    refined: Vec<bool>,
    blocks: usize,
}

impl Scratch {
    /// Room for `rows` rows of `cols` activations; more is allocated when it is needed.
    pub fn new(rows: usize, cols: usize) -> Result<Scratch, OutOfMemory> {
        let mut scratch = Scratch::default();
        let blocks = rows.saturating_mul(cols / BLOCK);
        let bytes = blocks.saturating_mul(record::BYTES);
        let records = scratch.records.try_reserve_exact(bytes / size_of::<u32>());
        records.and_then(|()| scratch.refined.try_reserve_exact(blocks)).map_err(|_| OutOfMemory { bytes })?;
        scratch.fit(rows, cols / BLOCK);
        Ok(scratch)
    }

    fn fit(&mut self, rows: usize, blocks: usize) {
        self.blocks = blocks;
        let words = rows * blocks * record::BYTES / size_of::<u32>();
        if self.records.len() < words {
            self.records.resize(words, 0);
            self.refined.resize(rows * blocks, false);
        }
    }

    /// Records of the group whose first row is `row`.
    pub(super) fn records(&self, row: usize) -> *const u8 {
        self.records[row * self.blocks * record::BYTES / size_of::<u32>()..].as_ptr().cast()
    }

    /// Which blocks of that group have rests.
    pub(super) fn refined(&self, row: usize) -> *const bool {
        self.refined[row * self.blocks..].as_ptr()
    }

    /// Quantises and packs the rows of `x`, whose columns are a multiple of [`BLOCK`].
    pub(super) fn pack(&mut self, cpu: &Cpu, x: Tensor, precision: Precision) {
        let blocks = x.cols() / BLOCK;
        self.fit(x.rows(), blocks);
        let pack = Pack {
            x: SyncPtr(x.ptr()),
            stride: x.stride(),
            blocks,
            threshold: precision.threshold(),
            records: SyncMutPtr(self.records.as_mut_ptr().cast()),
            refined: SyncMutPtr(self.refined.as_mut_ptr()),
            rows: 0..0,
        };
        let rows = x.rows();
        cpu.parallel(rows.div_ceil(GROUP), 1, |units| Pack {
            rows: units.start * GROUP..rows.min(units.end * GROUP),
            ..pack.clone()
        });
    }
}

#[derive(Clone)]
struct Pack {
    x: SyncPtr<f32>,
    stride: usize,
    blocks: usize,
    threshold: f32,
    records: SyncMutPtr<u8>,
    refined: SyncMutPtr<bool>,
    rows: Range<usize>,
}

impl Kernel for Pack {
    #[inline(always)]
    fn run<S: Simd>(self) {
        // SAFETY: Isa::run vouches for the instruction set; the scratch has room for all rows, each group is one
        // thread's, and x has `blocks` blocks a row.
        in_row_groups!(S, self.rows.clone(), |row, R| unsafe { self.group::<S, R>(row) });
    }
}

impl Pack {
    /// # Safety
    /// Needs the instruction set, and R rows from `row`.
    #[inline(always)]
    unsafe fn group<S: Simd, const R: usize>(&self, row: usize) {
        // SAFETY: the caller's.
        unsafe {
            let records = self.records.get().add(row * self.blocks * record::BYTES);
            let refined = self.refined.get().add(row * self.blocks);
            refined.write_bytes(0, self.blocks);
            let mut limits = [0.0; R];
            for (r, limit) in limits.iter_mut().enumerate() {
                let x = self.x.get().add((row + r) * self.stride);
                // Each block's greatest magnitude, kept where its scale will be.
                let mut total = 0.0;
                for b in 0..self.blocks {
                    let x = x.add(b * BLOCK);
                    let max = S::max_lane(S::max(S::abs(S::load(x)), S::abs(S::load(x.add(LANES)))));
                    total += max;
                    *self.part::<f32, R>(records, b, record::SCALE).add(r) = max;
                }
                *limit = self.threshold * (total / self.blocks as f32);
                for b in 0..self.blocks {
                    *refined.add(b) |= *self.part::<f32, R>(records, b, record::SCALE).add(r) > *limit;
                }
            }
            for (r, limit) in limits.iter().enumerate() {
                let x = self.x.get().add((row + r) * self.stride);
                for b in 0..self.blocks {
                    self.block::<S, R>(x.add(b * BLOCK), records, b, r, *limit, *refined.add(b));
                }
            }
        }
    }

    /// Writes row `r`'s part of record `b`, with rests if it has them or another row of the group does.
    ///
    /// # Safety
    /// Needs the instruction set, a block at `x`, and its greatest magnitude in place of its scale.
    #[inline(always)]
    unsafe fn block<S: Simd, const R: usize>(
        &self,
        x: *const f32,
        records: *mut u8,
        b: usize,
        r: usize,
        limit: f32,
        refined: bool,
    ) {
        // SAFETY: the caller's.
        unsafe {
            let scale_at = self.part::<f32, R>(records, b, record::SCALE).add(r);
            let max = *scale_at;
            let (scale, inverse) = (max / 127.0, if max > 0.0 { 127.0 / max } else { 0.0 });
            *scale_at = scale;
            let (mut codes, mut rests) = ([0i8; BLOCK], [0i8; BLOCK]);
            for half in [0, LANES] {
                let x = S::mul(S::load(x.add(half)), S::splat(inverse));
                let code = S::round(x);
                S::store_i8(codes.as_mut_ptr().add(half), code);
                if max > limit {
                    // A rest of a half has no code; the next smaller one serves.
                    let rest = S::round(S::mul(S::sub(x, code), S::splat(FINE)));
                    S::store_i8(rests.as_mut_ptr().add(half), S::min(rest, S::splat(127.0)));
                }
            }
            self.spread::<R>(&codes, self.part::<u32, R>(records, b, record::CODES), r);
            if refined {
                self.spread::<R>(&rests, self.part::<u32, R>(records, b, record::RESTS), r);
            }
            let code_sums = S::sums_i8(codes.as_ptr());
            let rest_sums = if max > limit { S::sums_i8(rests.as_ptr()) } else { [0, 0] };
            let three = |[a, b]: [i32; 2]| [a + b, a, b];
            for (i, (code, rest)) in three(code_sums).into_iter().zip(three(rest_sums)).enumerate() {
                *self.part::<f32, R>(records, b, record::SUMS).add(i * R + r) =
                    scale * (code as f32 + rest as f32 / FINE);
                *self.part::<i32, R>(records, b, record::CODE_SUMS).add(i * R + r) = -code;
                *self.part::<i32, R>(records, b, record::REST_SUMS).add(i * R + r) = -rest;
            }
        }
    }

    /// Writes row `r`'s eight words among those of R rows.
    #[inline(always)]
    unsafe fn spread<const R: usize>(&self, bytes: &[i8; BLOCK], out: *mut u32, r: usize) {
        for (g, word) in bytemuck::cast_slice::<i8, [u8; 4]>(bytes).iter().enumerate() {
            // SAFETY: the caller's: the record is there.
            unsafe { *out.add(g * R + r) = u32::from_ne_bytes(*word) };
        }
    }

    /// A part of record `b`.
    #[inline(always)]
    unsafe fn part<T, const R: usize>(&self, records: *mut u8, b: usize, part: usize) -> *mut T {
        // SAFETY: the caller's: the record is there.
        unsafe { records.add((b * record::BYTES + part) * R).cast() }
    }
}
