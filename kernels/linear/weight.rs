//! A weight matrix, laid out for the device that will use it.
//!
//! [`Layout::Tiles`] interleaves the blocks of 16 rows: where a row's block has a unit (a scale, or 4 bytes of quants) at
//! byte `o`, the tile's block has that unit of all 16 rows at byte `16 o`. One vector then holds the same unit of 16
//! rows, each output element stays in its own lane, and no sum ever crosses lanes. A tile has exactly the bytes of its
//! rows; only the last one may be padded. AMX multiplies pairs of bf16, so there these are the units ([`Layout::Pairs`]).

use crate::cpu::ceiling::Arithmetic;
use crate::cpu::{LANES, SyncMutPtr};
use crate::quant::{DType, dequantize_row};
use crate::{Arena, Bytes, Cpu, Device, Isa};
use std::ops::Range;
use std::sync::Arc;

/// How a part's bytes are arranged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Row after row, as in the file.
    Rows,
    /// Tiles of 16 interleaved rows.
    Tiles,
    /// Likewise, with pairs of bf16 as units: each [`STEP`] columns are a right tile of AMX.
    Pairs,
}

/// Columns of a tile of pairs: its rows have 64 bytes.
pub(super) const STEP: usize = 32;

/// Rows of one format.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub dtype: DType,
    pub rows: usize,
    pub layout: Layout,
    pub bytes: Bytes,
    /// Bytes of 16 rows. They are asked for with each tile, too often to be worked out from the format's fields.
    pub tile_bytes: usize,
}

/// Rows of a weight as a file has them.
#[derive(Debug, Clone)]
pub struct Source {
    /// Element format.
    pub dtype: DType,
    /// Number of rows.
    pub rows: usize,
    /// Row after row.
    pub bytes: Bytes,
}

/// Memory for a weight could not be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory {
    /// Bytes asked for.
    pub bytes: usize,
}

/// How exactly the CPU takes the activations that meet a quantised weight: a block of 64 of them is rounded to 8 bits, an
/// error of up to 0.4% of its greatest magnitude; or more finely, and the few activations that 8 bits do not hold then are
/// multiplied twice. Most of the error comes from few blocks, those with the greatest magnitudes, and these are the same few
/// in most rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Precision(f32);

impl Precision {
    /// 8 bits everywhere.
    pub const COARSE: Precision = Precision(f32::INFINITY);
    /// 16 bits everywhere.
    pub const FINE: Precision = Precision(0.0);

    /// More bits for the blocks whose greatest magnitude is above `threshold` times the harmonic mean of those of the row's
    /// blocks: as many as make their steps half of what they are right below. The harmonic mean, because the massive activations
    /// of a few channels (<https://arxiv.org/abs/2402.17762>) would make the arithmetic one a measure of nothing but themselves.
    pub const fn fine_above(threshold: f32) -> Precision {
        Precision(threshold)
    }

    pub(super) fn threshold(self) -> f32 {
        self.0
    }
}

/// A matrix `[rows, cols]` with an optional bias `[rows]`. It may consist of parts of different formats, one above the
/// other: that is how projections that read the same input (q, k and v; gate and up) become one.
#[derive(Debug, Clone)]
pub struct Weight {
    cols: usize,
    parts: Vec<Part>,
    bias: Option<Vec<f32>>,
    precision: Precision,
}

impl Weight {
    /// The matrix of `sources` from top to bottom, laid out for `device`. Where that copies them, `copied(i, range)` says
    /// that these bytes of source `i` are not needed any more; the copy lies in `arena`, if that has room.
    ///
    /// Panics if a source's bytes do not fit its shape, or the bias (empty: none) has not one value for each row.
    pub fn new(
        device: &Device,
        cols: usize,
        sources: &[Source],
        bias: Vec<f32>,
        arena: &Arena,
        copied: &mut dyn FnMut(usize, Range<usize>),
    ) -> Result<Weight, OutOfMemory> {
        let mut parts = Vec::with_capacity(sources.len());
        for (i, source) in sources.iter().enumerate() {
            let len = source.bytes.as_slice().len();
            assert_eq!(len, source.rows * source.dtype.row_bytes(cols), "bytes of [{}, {cols}]", source.rows);
            parts.push(match device {
                Device::Reference => {
                    let Source { dtype, rows, bytes } = source.clone();
                    Part { dtype, rows, layout: Layout::Rows, bytes, tile_bytes: LANES * dtype.row_bytes(cols) }
                }
                Device::Cpu(cpu) => interleave(cpu, source, cols, arena, &mut |range| copied(i, range))?,
            });
        }
        let weight = Weight { cols, parts, bias: (!bias.is_empty()).then_some(bias), precision: Precision::COARSE };
        assert!(weight.bias.as_ref().is_none_or(|b| b.len() == weight.rows()), "length of the bias");
        Ok(weight)
    }

    /// The same weight, to be used with this precision.
    pub fn with_precision(self, precision: Precision) -> Weight {
        Weight { precision, ..self }
    }

    /// How exactly activations are taken.
    pub(super) fn precision(&self) -> Precision {
        self.precision
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.parts.iter().map(|p| p.rows).sum()
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of all parts.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|p| p.bytes.as_slice().len()).sum()
    }

    /// What most of its products are made of. Where that is bf16, one of f32 takes three.
    pub fn arithmetic(&self) -> Arithmetic {
        match self.parts.iter().max_by_key(|p| p.rows) {
            Some(Part { layout: Layout::Pairs, .. }) => Arithmetic::Bf16,
            Some(part) if !part.dtype.is_float() => Arithmetic::Int8,
            _ => Arithmetic::F32,
        }
    }

    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    pub(super) fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    /// Decodes row `row` into `out`, of length [`Weight::cols`]. Panics if there is no such row.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.cols, "length of a row");
        let mut first = 0;
        for part in &self.parts {
            if row < first + part.rows {
                return part.row(row - first, out);
            }
            first += part.rows;
        }
        panic!("row {row} of {first}");
    }
}

impl Part {
    fn row(&self, row: usize, out: &mut [f32]) {
        let row_bytes = self.dtype.row_bytes(out.len());
        let bytes = self.bytes.as_slice();
        match self.layout {
            Layout::Rows => dequantize_row(self.dtype, &bytes[row * row_bytes..][..row_bytes], out),
            Layout::Pairs => {
                let tile = &bytes[row / LANES * LANES * row_bytes..][..LANES * row_bytes];
                for (pairs, out) in tile.chunks_exact(LANES * PAIR).zip(out.chunks_exact_mut(2)) {
                    dequantize_row(self.dtype, &pairs[row % LANES * PAIR..][..PAIR], out);
                }
            }
            Layout::Tiles => {
                let tile = &bytes[row / LANES * LANES * row_bytes..][..LANES * row_bytes];
                let (block_bytes, block_len) = (self.dtype.block_bytes(), self.dtype.block_len());
                let mut block = [0u8; MAX_BLOCK_BYTES];
                let block = &mut block[..block_bytes];
                for (tile_block, out) in tile.chunks_exact(LANES * block_bytes).zip(out.chunks_exact_mut(block_len)) {
                    for (offset, size) in units(self.dtype) {
                        let lane = offset * LANES + row % LANES * size;
                        block[offset..offset + size].copy_from_slice(&tile_block[lane..lane + size]);
                    }
                    dequantize_row(self.dtype, block, out);
                }
            }
        }
    }
}

/// Bytes of a pair of bf16.
const PAIR: usize = 4;
const MAX_BLOCK_BYTES: usize = DType::Q6_K.block_bytes();

/// Offset and size of each unit of a block.
fn units(dtype: DType) -> impl Iterator<Item = (usize, usize)> {
    let mut offset = 0;
    dtype.fields().iter().flat_map(move |field| {
        let first = offset;
        offset += field.size * field.count;
        (0..field.count).map(move |i| (first + i * field.size, field.size))
    })
}

/// Bytes that `rows` rows of `cols` elements take as tiles.
pub fn laid_out_bytes(dtype: DType, rows: usize, cols: usize) -> usize {
    rows.next_multiple_of(LANES) * dtype.row_bytes(cols)
}

/// Bytes that are copied between two reports of what was copied.
const BAND_BYTES: usize = 8 << 20;

fn interleave(
    cpu: &Cpu,
    source: &Source,
    cols: usize,
    arena: &Arena,
    copied: &mut dyn FnMut(Range<usize>),
) -> Result<Part, OutOfMemory> {
    let paired = source.dtype == DType::BF16 && cpu.isa() == Isa::Amx && cols.is_multiple_of(STEP);
    let layout = if paired { Layout::Pairs } else { Layout::Tiles };
    let tile_bytes = LANES * source.dtype.row_bytes(cols);
    let tiles = source.rows.div_ceil(LANES);
    let bytes = laid_out_bytes(source.dtype, source.rows, cols);
    let mut buffer = arena.buffer(bytes).ok_or(OutOfMemory { bytes })?;
    let out = SyncMutPtr(buffer.as_mut_slice().as_mut_ptr());
    let rows = source.bytes.as_slice();
    let band = (BAND_BYTES / tile_bytes.max(1)).max(1);
    for first in (0..tiles).step_by(band) {
        let count = band.min(tiles - first);
        cpu.pool().parallel_for(count, 4, &|range| {
            for tile in first + range.start..first + range.end {
                let from = tile * tile_bytes;
                let rows = &rows[from..rows.len().min(from + tile_bytes)];
                // SAFETY: tiles are disjoint parts of the buffer, and each is given to one thread.
                let out = unsafe { std::slice::from_raw_parts_mut(out.get().add(from), tile_bytes) };
                match layout {
                    Layout::Pairs => interleave_pairs(rows, tile_bytes / LANES, out),
                    _ => interleave_tile(source.dtype, rows, tile_bytes / LANES, out),
                }
            }
        });
        copied(first * tile_bytes..rows.len().min((first + count) * tile_bytes));
    }
    let bytes = Bytes::Owned(Arc::new(buffer));
    Ok(Part { dtype: source.dtype, rows: source.rows, layout, bytes, tile_bytes })
}

/// Interleaves up to 16 rows of bf16 pair by pair; lanes without a row stay zero.
fn interleave_pairs(rows: &[u8], row_bytes: usize, out: &mut [u8]) {
    for (lane, row) in rows.chunks_exact(row_bytes).enumerate() {
        copy_units::<PAIR>(row, lane, out);
    }
}

/// Interleaves up to 16 rows; lanes without a row stay zero.
fn interleave_tile(dtype: DType, rows: &[u8], row_bytes: usize, out: &mut [u8]) {
    let block_bytes = dtype.block_bytes();
    for (b, out) in out.chunks_exact_mut(LANES * block_bytes).enumerate() {
        let mut offset = 0;
        for field in dtype.fields() {
            let len = field.size * field.count;
            let out = &mut out[offset * LANES..(offset + len) * LANES];
            for (lane, row) in rows.chunks_exact(row_bytes).enumerate() {
                let units = &row[b * block_bytes + offset..][..len];
                match field.size {
                    4 => copy_units::<4>(units, lane, out),
                    2 => copy_units::<2>(units, lane, out),
                    _ => copy_units::<1>(units, lane, out),
                }
            }
            offset += len;
        }
    }
}

fn copy_units<const SIZE: usize>(units: &[u8], lane: usize, out: &mut [u8]) {
    for (unit, out) in units.as_chunks::<SIZE>().0.iter().zip(out.as_chunks_mut::<SIZE>().0.chunks_exact_mut(LANES)) {
        out[lane] = *unit;
    }
}
