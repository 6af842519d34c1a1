//! Activations, quantised and packed for the matrix kernels.
//!
//! Rows are packed in groups of 16, 8, 4, 2 or 1 ([`in_row_groups`]), whose rows a kernel works on at once. A group has one
//! record for each 64 columns, in which everything that the kernel broadcasts lies in the order in which it needs it, so a
//! kernel walks through a group from one end to the other.
//!
//! A block of 64 activations (32 at a row's end, if it has no more) is `scale * code`, with `scale` its greatest magnitude over
//! 127: codes of 8 bits. Where that magnitude stands out ([`Precision`]) the scale is smaller, and codes beyond 8 bits are
//! `256 * high + low`: the kernel multiplies once more by the high parts of those words of four codes that have any. Scale and
//! codes follow from the row alone; where another row of the group has high parts, this one's are zero and change no bit. Groups
//! of 16, which are AMX's, list their high parts four rows at a time: with SmolLM2's prompts half of such blocks have any, in 3 of
//! 16 words, half of these in a single row.

use super::{OutOfMemory, Precision, Weight};
#[cfg(target_arch = "x86_64")]
use super::{bf16, weight::Layout};
use crate::Tensor;
use crate::cpu::{Cpu, Isa, Kernel, LANES, Simd, SyncMutPtr, SyncPtr};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Activations that share a scale.
pub(super) const BLOCK: usize = 64;
/// Rows of a group whose high parts are listed, and rows of which a word is listed at once.
const LISTED: usize = 16;
pub(super) const QUAD: usize = 4;
/// What rows are a multiple of.
const HALF: usize = BLOCK / 2;
/// Rows that are packed by one thread: whole groups. (Half a group of 16 each for two threads made decoding slower, as both then
/// write the same lines of a record.)
const UNIT: usize = 8;
/// The greatest code: both its parts are 127.
const MAX_CODE: f32 = 127.0 * 257.0;
/// Codes of 8 bits in a block that stands out go up to this share of the magnitude from which blocks do. At 1.0 such blocks cost
/// half of all precision; the smaller, the more words have high parts.
const FINER: f32 = 0.5;

/// Byte offsets, for each row of the group, of the parts of a record. But for codes, which are a row's 64 after the other's, a
/// part has the values of the group's rows side by side.
pub(super) mod record {
    use super::LANES;

    /// Low parts of the codes.
    pub const CODES: usize = 0;
    /// High parts; a word counts only where [`super::Scratch::high`] says so. In groups of [`super::LISTED`] rows, quads: a word of
    /// [`super::QUAD`] rows each, of which one has some.
    pub const HIGH: usize = 64;
    /// f32.
    pub const SCALE: usize = 128;
    /// f32 sums of 32 activations.
    pub const SUMS: usize = 132;
    /// i32, negated sums of 32 codes, times 2 to the power of [`CODE_SHIFT`].
    pub const CODE_SUMS: usize = 140;
    /// i32, negated sums of 16 codes, times 2 to the power of [`SHORT_SHIFT`].
    pub const SHORT_SUMS: usize = 148;
    /// In groups of [`super::LISTED`] rows, which need neither kind of negated sums: where the quads of high parts belong ([`place`]).
    pub const PLACES: usize = SHORT_SUMS;
    /// What the weights' code for zero is at least: as much is done once, instead of by each product.
    pub const CODE_SHIFT: u32 = 3;
    pub const SHORT_SHIFT: u32 = 5;
    /// All of it.
    pub const BYTES: usize = 164;

    /// Which quad of the group's rows, and which word of theirs.
    #[inline(always)]
    pub fn place(place: u8) -> (usize, usize) {
        (usize::from(place) / LANES, usize::from(place) % LANES)
    }
}

/// Evaluates `$body` for each group of R rows that covers `$rows`, `$row` being its first; R is 16, 8, 4, 2 or 1, and at most
/// `$most`. (A macro, because a closure round vector code is not inlined.)
macro_rules! in_row_groups {
    ($most:expr, $rows:expr, |$row:ident, $R:ident| $body:expr) => {{
        let rows = $rows;
        let mut $row = rows.start;
        if $most >= 16 {
            while $row + 16 <= rows.end {
                const $R: usize = 16;
                $body;
                $row += 16;
            }
        }
        if $most >= 8 {
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

/// A line of the caches: with groups of 16 each row's codes are one.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "read and written through pointers")] [u8; 64]);

/// The packed activations of one call; kept between calls, so that the steady state allocates nothing.
#[derive(Debug, Default)]
pub struct Scratch {
    records: Vec<Line>,
    /// For weights of bf16 by AMX ([`super::bf16`]).
    tiles: Vec<Line>,
    /// For each block of a group, at the place of the group's first row, a bit for each word in which a row has high parts; of groups
    /// of [`LISTED`] rows, how many quads are listed.
    high: Vec<u16>,
    blocks: usize,
}

impl Scratch {
    /// Room for `rows` rows of activations that meet any of these weights; more is allocated when it is needed.
    pub fn new<'a>(rows: usize, weights: impl Iterator<Item = &'a Weight>) -> Result<Scratch, OutOfMemory> {
        let mut scratch = Scratch::default();
        for w in weights {
            if w.parts().iter().any(|part| !part.dtype.is_float()) {
                scratch.fit(rows, w.cols().div_ceil(BLOCK))?;
            }
            #[cfg(target_arch = "x86_64")]
            if w.parts().iter().any(|part| part.layout == Layout::Pairs) {
                grow(&mut scratch.tiles, bf16::packed_bytes(rows, w.cols()))?;
            }
        }
        Ok(scratch)
    }

    fn fit(&mut self, rows: usize, blocks: usize) -> Result<(), OutOfMemory> {
        self.blocks = blocks;
        let blocks = rows.saturating_mul(blocks);
        grow(&mut self.records, blocks.saturating_mul(record::BYTES))?;
        let missing = OutOfMemory { bytes: blocks.saturating_mul(2) };
        self.high.try_reserve_exact(blocks.saturating_sub(self.high.len())).map_err(|_| missing)?;
        self.high.resize(blocks.max(self.high.len()), 0);
        Ok(())
    }

    /// Records of the group whose first row is `row`.
    pub(super) fn records(&self, row: usize) -> *const u8 {
        let offset = row * self.blocks * record::BYTES;
        self.records[offset / size_of::<Line>()..].as_ptr().cast::<u8>().wrapping_add(offset % size_of::<Line>())
    }

    /// For each block of that group, which words have high parts, or how many quads are listed.
    pub(super) fn high(&self, row: usize) -> *const u16 {
        self.high[row * self.blocks..].as_ptr()
    }

    /// Splits and packs the rows of `x` for weights of bf16.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn pack_bf16(&mut self, cpu: &Cpu, x: Tensor) {
        grow(&mut self.tiles, bf16::packed_bytes(x.rows(), x.cols())).expect("memory for activations");
        bf16::pack(cpu, x, SyncMutPtr(self.tiles.as_mut_ptr().cast()));
    }

    /// The tiles of the group of 16 rows of so many columns that begins with `row`, as [`Scratch::pack_bf16`] has packed them.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn left_tiles(&self, row: usize, cols: usize) -> *const u8 {
        self.tiles[bf16::packed_bytes(row, cols) / size_of::<Line>()..].as_ptr().cast()
    }

    /// Quantises and packs the rows of `x`, whose columns are a multiple of 32.
    pub(super) fn pack(&mut self, cpu: &Cpu, x: Tensor, precision: Precision) {
        let blocks = x.cols().div_ceil(BLOCK);
        self.fit(x.rows(), blocks).expect("memory for activations");
        let group = (cpu.isa() == Isa::Amx).then_some(16);
        let unit = group.unwrap_or(UNIT);
        let pack = Pack {
            x: SyncPtr(x.ptr()),
            stride: x.stride(),
            blocks,
            cols: x.cols(),
            threshold: precision.threshold(),
            records: SyncMutPtr(self.records.as_mut_ptr().cast()),
            high: SyncMutPtr(self.high.as_mut_ptr()),
            group,
            rows: 0..0,
        };
        let rows = x.rows();
        cpu.parallel(rows.div_ceil(unit), 1, |units| Pack {
            rows: units.start * unit..rows.min(units.end * unit),
            ..pack.clone()
        });
    }
}

/// Makes a list at least so many bytes long.
fn grow(lines: &mut Vec<Line>, bytes: usize) -> Result<(), OutOfMemory> {
    let more = bytes.div_ceil(size_of::<Line>()).saturating_sub(lines.len());
    lines.try_reserve_exact(more).map_err(|_| OutOfMemory { bytes })?;
    lines.resize(lines.len() + more, Line([0; 64]));
    Ok(())
}

#[derive(Clone)]
struct Pack {
    x: SyncPtr<f32>,
    stride: usize,
    blocks: usize,
    cols: usize,
    threshold: f32,
    records: SyncMutPtr<u8>,
    high: SyncMutPtr<u16>,
    /// Rows of the largest group: 16 for AMX, [`Simd::ROWS`] for all else.
    group: Option<usize>,
    rows: Range<usize>,
}

impl Kernel for Pack {
    #[inline(always)]
    fn run<S: Simd>(self) {
        // SAFETY: Isa::run vouches for the instruction set; the scratch has room for all rows, each group is one
        // thread's, and x has `blocks` blocks a row.
        in_row_groups!(self.group.unwrap_or(S::ROWS), self.rows.clone(), |row, R| unsafe { self.group::<S, R>(row) });
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
            let high = self.high.get().add(row * self.blocks);
            let limits = self.limits::<S, R>(row, records);
            for b in 0..self.blocks {
                *high.add(b) = self.record::<S, R>(row, records, b, &limits);
            }
        }
    }

    /// From which magnitude a row's blocks stand out. Leaves each block's greatest magnitude where its scale will be.
    ///
    /// # Safety
    /// As [`Pack::group`].
    #[inline(always)]
    unsafe fn limits<S: Simd, const R: usize>(&self, row: usize, records: *mut u8) -> [f32; R] {
        let mut inverses = [0.0; R];
        for b in 0..self.blocks {
            // SAFETY: the caller's.
            unsafe {
                let mut magnitudes = [S::splat(0.0); R];
                for (r, magnitudes) in magnitudes.iter_mut().enumerate() {
                    *magnitudes = greatest::<S>(self.x.get().add((row + r) * self.stride + b * BLOCK), self.len(b));
                }
                let mut lanes = [0.0; LANES];
                S::store(lanes.as_mut_ptr(), S::max_of_each(magnitudes));
                let maxima: [f32; R] = std::array::from_fn(|r| lanes[r]);
                for (inverse, max) in inverses.iter_mut().zip(maxima) {
                    *inverse += if max > 0.0 { 1.0 / max } else { 0.0 };
                }
                self.part::<[f32; R], R>(records, b, record::SCALE).write_unaligned(maxima);
            }
        }
        inverses.map(|inverse| self.threshold * (self.blocks as f32 / inverse))
    }

    /// Columns of block `b`.
    #[inline(always)]
    fn len(&self, b: usize) -> usize {
        BLOCK.min(self.cols - b * BLOCK)
    }

    /// Writes record `b` of the group whose first row is `row`; with high parts if the block stands out in any of the rows.
    /// Returns which words have high parts, or how many quads are listed.
    ///
    /// # Safety
    /// Needs the instruction set, the rows, and the block's greatest magnitudes in place of its scales.
    #[inline(always)]
    unsafe fn record<S: Simd, const R: usize>(&self, row: usize, records: *mut u8, b: usize, limits: &[f32; R]) -> u16 {
        // SAFETY: the caller's.
        unsafe {
            let scales = self.part::<[f32; R], R>(records, b, record::SCALE);
            let (maxima, mut inverses, mut stands_out) = (scales.read_unaligned(), [0.0; R], false);
            let mut scale = [0.0; R];
            for r in 0..R {
                let (max, limit) = (maxima[r], limits[r]);
                let fine = (FINER * limit).max(max * (127.0 / MAX_CODE));
                let greatest = if max > limit { fine } else { max };
                stands_out |= max > limit;
                scale[r] = greatest / 127.0;
                inverses[r] = if max > 0.0 { 127.0 / greatest } else { 0.0 };
            }
            scales.write_unaligned(scale);
            let low = self.part::<u8, R>(records, b, record::CODES);
            let high = self.part::<u8, R>(records, b, record::HIGH);
            let mut tops_of = [const { MaybeUninit::<[u32; LANES]>::uninit() }; R];
            // A bit for each word that has high parts: of all rows, or where they are listed of each quad's.
            let (mut sums, mut words) = ([[0; 4]; R], 0);
            for r in 0..R {
                let x = self.x.get().add((row + r) * self.stride + b * BLOCK);
                let mut codes = [S::splat(0.0); 4];
                for (q, codes) in codes.iter_mut().enumerate().take(self.len(b) / LANES) {
                    *codes = S::mul(S::load(x.add(q * LANES)), S::splat(inverses[r]));
                }
                let codes = if stands_out {
                    let (codes, tops) = S::split_i8(codes);
                    sums[r] = S::sums_of_split(codes, tops);
                    S::store_words(
                        if R == LISTED { tops_of[r].as_mut_ptr().cast() } else { high.add(BLOCK * r) },
                        tops,
                    );
                    words |= u64::from(S::words_set(tops)) << if R == LISTED { r / QUAD * LANES } else { 0 };
                    codes
                } else {
                    let codes = S::pack_i8(codes);
                    sums[r] = S::sums_i8(codes);
                    codes
                };
                S::store_words(low.add(BLOCK * r), codes);
            }
            self.put_sums(records, b, &scale, &sums);
            if R == LISTED { self.list(records, b, &tops_of, words) } else { words as u16 }
        }
    }

    /// Lists the high parts of a group's rows, which are in these words of each quad of rows, and returns how many quads that makes.
    ///
    /// # Safety
    /// Needs the record of a group of LISTED rows, and the high parts, if any.
    #[inline(always)]
    unsafe fn list<const R: usize>(
        &self,
        records: *mut u8,
        b: usize,
        tops: &[MaybeUninit<[u32; LANES]>; R],
        mut words: u64,
    ) -> u16 {
        let quads = words.count_ones();
        // SAFETY: the caller's; there is room for a quad of each word.
        unsafe {
            let high = self.part::<[u32; QUAD], R>(records, b, record::HIGH);
            let places = self.part::<u8, R>(records, b, record::PLACES);
            for i in 0..quads as usize {
                let place = words.trailing_zeros() as u8;
                words &= words - 1;
                let (quad, word) = record::place(place);
                *high.add(i) = std::array::from_fn(|r| tops[quad * QUAD + r].assume_init_ref()[word]);
                *places.add(i) = place;
            }
        }
        quads as u16
    }

    /// Writes the sums of the activations; and of 16 and 32 codes, those of 16 being known, but for groups that are AMX's.
    ///
    /// # Safety
    /// Needs the record.
    #[inline(always)]
    unsafe fn put_sums<const R: usize>(&self, records: *mut u8, b: usize, scale: &[f32; R], sums: &[[i32; 4]; R]) {
        // SAFETY: the caller's.
        unsafe {
            for half in 0..BLOCK / HALF {
                let of_activations = self.part::<f32, R>(records, b, record::SUMS).add(half * R);
                let of_codes = self.part::<i32, R>(records, b, record::CODE_SUMS).add(half * R);
                let of_quarters = self.part::<i32, R>(records, b, record::SHORT_SUMS).add(2 * half * R);
                for r in 0..R {
                    let [first, second] = [sums[r][2 * half], sums[r][2 * half + 1]];
                    *of_activations.add(r) = scale[r] * (first + second) as f32;
                    if R != LISTED {
                        *of_codes.add(r) = -(first + second) << record::CODE_SHIFT;
                        *of_quarters.add(r) = -first << record::SHORT_SHIFT;
                        *of_quarters.add(R + r) = -second << record::SHORT_SHIFT;
                    }
                }
            }
        }
    }

    /// A part of record `b`.
    #[inline(always)]
    unsafe fn part<T, const R: usize>(&self, records: *mut u8, b: usize, part: usize) -> *mut T {
        // SAFETY: the caller's: the record is there.
        unsafe { records.add((b * record::BYTES + part) * R).cast() }
    }
}

/// The greatest magnitudes of a block, or half a block, one of each lane.
///
/// # Safety
/// Needs the instruction set, and the block.
#[inline(always)]
unsafe fn greatest<S: Simd>(x: *const f32, len: usize) -> S::F {
    // SAFETY: the caller's. Half a block is taken twice.
    unsafe {
        let second = x.add(len - HALF);
        let first = S::max(S::abs(S::load(x)), S::abs(S::load(x.add(LANES))));
        S::max(first, S::max(S::abs(S::load(second)), S::abs(S::load(second.add(LANES)))))
    }
}
