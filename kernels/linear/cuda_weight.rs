//! Weights on their way to a GPU: rows of any origin, packed (`cuda_pack.rs`) and uploaded a band at a time.

use super::cuda_pack::{Format, RowBlock, TILE, pack};
use crate::{Gpu, GpuBuffer, GpuError};
use aieng_kernels::DType;
use aieng_kernels::linear::Source;
use half::{bf16, f16};

/// A matrix `[rows, cols]` in a device's memory, with an optional bias. Parts of different formats may stand one above the
/// other; each is a launch of its own.
///
/// It has the bytes of the file's weights, rounded up to tiles of 16 rows; but f16 and f32 become bf16.
#[derive(Debug)]
pub struct GpuWeight {
    pub(super) cols: usize,
    pub(super) parts: Vec<Part>,
    pub(super) gated: bool,
}

/// Rows of one format.
#[derive(Debug)]
pub(crate) struct Part {
    pub format: Format,
    /// Outputs; a gated part has two rows for each.
    pub outputs: usize,
    pub tiles: usize,
    pub records: GpuBuffer,
    pub(super) bias: Option<GpuBuffer>,
}

/// Rows as GPTQ and AWQ quantise them: `w = scale * (code - zero)`, with a scale and a zero for each group of columns.
#[derive(Debug, Clone, Copy)]
pub struct Int4Rows<'a> {
    /// Columns of a group: 32 or 128.
    pub group: usize,
    /// Number of rows.
    pub rows: usize,
    /// `[rows, cols]` codes of 4 bits, two to a byte, the first in the lower half.
    pub codes: &'a [u8],
    /// `[rows, cols / group]`
    pub scales: &'a [f16],
    /// `[rows, cols / group]`, each up to 16.
    pub zeros: &'a [u8],
}

/// Rows to be packed.
struct Rows<'a> {
    format: Format,
    rows: usize,
    content: Content<'a>,
}

/// Where they are.
enum Content<'a> {
    /// Row after row, as a file has them.
    File(DType, &'a [u8]),
    Groups(Int4Rows<'a>),
}

/// Room for a row's part of a record that is not in one place, or not in its format, where it comes from.
type Room = [u8; 80];

impl GpuWeight {
    /// The matrix of `sources` from top to bottom. Packing takes all cores, and some MiB at a time.
    ///
    /// Panics if `cols` is no multiple of 32, a source's bytes do not fit its shape, or the bias has not one value for each
    /// row.
    pub fn new(gpu: &Gpu, cols: usize, sources: &[Source], bias: Option<&[f32]>) -> Result<GpuWeight, GpuError> {
        let rows: Vec<Rows> = sources.iter().map(|source| Rows::of(source, cols)).collect();
        GpuWeight::stacked(gpu, cols, &rows, bias)
    }

    /// Gate and up, to be used by [`super::gate_up`]; `bias` is that of the gate's rows, then that of up's. `None` if their formats
    /// differ: then a weight of both, [`super::linear`] and `act_mul` serve.
    ///
    /// Panics as [`GpuWeight::new`], and if one has more rows than the other.
    pub fn gate_up(
        gpu: &Gpu,
        cols: usize,
        gate: &Source,
        up: &Source,
        bias: Option<&[f32]>,
    ) -> Result<Option<GpuWeight>, GpuError> {
        let pair = [Rows::of(gate, cols), Rows::of(up, cols)];
        if pair[0].format != pair[1].format {
            return Ok(None);
        }
        GpuWeight::interleaved(gpu, cols, &pair, bias).map(Some)
    }

    /// As [`GpuWeight::new`], of rows with groups.
    pub fn int4(gpu: &Gpu, cols: usize, parts: &[Int4Rows], bias: Option<&[f32]>) -> Result<GpuWeight, GpuError> {
        let rows: Vec<Rows> = parts.iter().map(|part| Rows::of_groups(part, cols)).collect();
        GpuWeight::stacked(gpu, cols, &rows, bias)
    }

    /// As [`GpuWeight::gate_up`], of rows with groups, whose size must be the same.
    pub fn int4_gate_up(
        gpu: &Gpu,
        cols: usize,
        gate: &Int4Rows,
        up: &Int4Rows,
        bias: Option<&[f32]>,
    ) -> Result<GpuWeight, GpuError> {
        assert_eq!(gate.group, up.group, "groups of gate and up");
        GpuWeight::interleaved(gpu, cols, &[Rows::of_groups(gate, cols), Rows::of_groups(up, cols)], bias)
    }

    /// For measuring speed: a matrix whose rows are those of `pattern` again and again, which takes no longer than its copies.
    /// It has `outputs` rows, or, if it is one of gate and up (`gated`), two for each output.
    ///
    /// Panics as [`GpuWeight::new`], and unless the pattern is whole tiles of 16 rows.
    pub fn repeating(
        gpu: &Gpu,
        cols: usize,
        pattern: &Source,
        outputs: usize,
        gated: bool,
    ) -> Result<GpuWeight, GpuError> {
        GpuWeight::tiled(gpu, cols, &Rows::of(pattern, cols), outputs, gated)
    }

    /// As [`GpuWeight::repeating`], of rows with groups.
    pub fn int4_repeating(
        gpu: &Gpu,
        cols: usize,
        pattern: &Int4Rows,
        outputs: usize,
        gated: bool,
    ) -> Result<GpuWeight, GpuError> {
        GpuWeight::tiled(gpu, cols, &Rows::of_groups(pattern, cols), outputs, gated)
    }

    fn tiled(gpu: &Gpu, cols: usize, pattern: &Rows, outputs: usize, gated: bool) -> Result<GpuWeight, GpuError> {
        let tiles = if gated { outputs.div_ceil(8) } else { outputs.div_ceil(TILE) };
        Ok(GpuWeight { cols, parts: vec![Part::repeating(gpu, cols, pattern, outputs, tiles)?], gated })
    }

    fn stacked(gpu: &Gpu, cols: usize, sources: &[Rows], bias: Option<&[f32]>) -> Result<GpuWeight, GpuError> {
        let outputs: usize = sources.iter().map(|source| source.rows).sum();
        assert!(bias.is_none_or(|bias| bias.len() == outputs), "length of the bias");
        let (mut parts, mut first) = (Vec::new(), 0);
        // Neighbours of one format become one part.
        for run in sources.chunk_by(|a, b| a.format == b.format) {
            let rows: usize = run.iter().map(|source| source.rows).sum();
            let find = |mut row: usize| {
                run.iter().find_map(|source| {
                    if row < source.rows {
                        Some((source, row))
                    } else {
                        row -= source.rows;
                        None
                    }
                })
            };
            let bias = bias.map(|bias| bias[first..first + rows].to_vec());
            parts.push(Part::new(gpu, cols, run[0].format, rows, rows.div_ceil(TILE), &find, bias)?);
            first += rows;
        }
        Ok(GpuWeight { cols, parts, gated: false })
    }

    fn interleaved(gpu: &Gpu, cols: usize, pair: &[Rows; 2], bias: Option<&[f32]>) -> Result<GpuWeight, GpuError> {
        let [gate, up] = pair;
        assert_eq!(gate.rows, up.rows, "rows of gate and up");
        assert!(bias.is_none_or(|bias| bias.len() == 2 * gate.rows), "length of the bias");
        // A tile is eight rows of the gate and the same eight of up.
        let output = |row: usize| (row / TILE * 8 + row % 8, row / 8 % 2);
        let find = |row: usize| {
            let (output, which) = output(row);
            (output < gate.rows).then_some((&pair[which], output))
        };
        let tiles = gate.rows.div_ceil(8);
        let bias = bias.map(|bias| {
            let at = |row| match output(row) {
                (output, which) if output < gate.rows => bias[which * gate.rows + output],
                _ => 0.0,
            };
            (0..tiles * TILE).map(at).collect()
        });
        let part = Part::new(gpu, cols, gate.format, gate.rows, tiles, &find, bias)?;
        Ok(GpuWeight { cols, parts: vec![part], gated: true })
    }

    /// Whether it is one of gate and up, for [`super::gate_up`] alone.
    pub fn is_gated(&self) -> bool {
        self.gated
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.outputs).sum()
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes in the device's memory.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.records.len() + part.bias.as_ref().map_or(0, GpuBuffer::len)).sum()
    }

    /// The rows, where they are of one format and in their own order; panics otherwise.
    pub(crate) fn single_part(&self) -> &Part {
        assert!(self.parts.len() == 1 && !self.gated, "a weight of several parts");
        &self.parts[0]
    }
}

impl<'a> Rows<'a> {
    fn of(source: &'a Source, cols: usize) -> Rows<'a> {
        let bytes = source.bytes.as_slice();
        assert!(cols.is_multiple_of(32), "{cols} columns are no multiple of 32");
        assert_eq!(bytes.len(), source.rows * source.dtype.row_bytes(cols), "bytes of [{}, {cols}]", source.rows);
        let content = Content::File(source.dtype, bytes);
        Rows { format: Format::of(source.dtype), rows: source.rows, content }
    }

    fn of_groups(part: &Int4Rows<'a>, cols: usize) -> Rows<'a> {
        let format = match part.group {
            32 => Format::Int4Group32,
            128 => Format::Int4Group128,
            group => panic!("groups of {group} columns"),
        };
        assert!(cols.is_multiple_of(part.group), "{cols} columns are no whole groups of {}", part.group);
        let groups = part.rows * (cols / part.group);
        let scales_and_zeros = (part.scales.len(), part.zeros.len());
        assert_eq!(scales_and_zeros, (groups, groups), "scales and zeros of [{}, {cols}]", part.rows);
        assert_eq!(part.codes.len(), groups * part.group / 2, "codes of [{}, {cols}]", part.rows);
        assert!(part.zeros.iter().all(|zero| *zero <= 16), "a zero above 16");
        Rows { format, rows: part.rows, content: Content::Groups(*part) }
    }

    /// A row's part of record `record`.
    fn block<'b>(&'b self, cols: usize, row: usize, record: usize, room: &'b mut Room) -> &'b [u8] {
        let (record, bytes) = (row * (cols / self.format.cols()) + record, self.format.row_block_bytes());
        match self.content {
            Content::File(DType::F32, rows) => to_bf16(&rows[128 * record..][..128], room, |b| f32::from_le_bytes(*b)),
            Content::File(DType::F16, rows) => {
                to_bf16(&rows[64 * record..][..64], room, |b| f16::from_le_bytes(*b).to_f32())
            }
            Content::File(_, rows) => &rows[bytes * record..][..bytes],
            Content::Groups(Int4Rows { group, codes, scales, zeros, .. }) => {
                room[..2].copy_from_slice(&scales[record].to_le_bytes());
                room[2] = zeros[record];
                room[3..bytes].copy_from_slice(&codes[record * group / 2..][..group / 2]);
                &room[..bytes]
            }
        }
    }
}

fn to_bf16<'b, const SIZE: usize>(from: &[u8], room: &'b mut Room, value: impl Fn(&[u8; SIZE]) -> f32) -> &'b [u8] {
    for (to, from) in room.chunks_exact_mut(2).zip(from.as_chunks::<SIZE>().0) {
        to.copy_from_slice(&bf16::from_f32(value(from)).to_le_bytes());
    }
    &room[..2 * from.len() / SIZE]
}

/// Bytes that are packed between two uploads.
const BAND_BYTES: usize = 8 << 20;

impl Part {
    /// `find` tells of each row of the tiles where it comes from.
    fn new<'a>(
        gpu: &Gpu,
        cols: usize,
        format: Format,
        outputs: usize,
        tiles: usize,
        find: &(impl Fn(usize) -> Option<(&'a Rows<'a>, usize)> + Sync),
        bias: Option<Vec<f32>>,
    ) -> Result<Part, GpuError> {
        let tile_bytes = cols / format.cols() * format.record_bytes();
        let records = gpu.alloc(tiles * tile_bytes)?;
        let band = (BAND_BYTES / tile_bytes.max(1)).clamp(1, tiles.max(1));
        let mut staging = Vec::new();
        let bytes = band * tile_bytes;
        staging.try_reserve_exact(bytes).map_err(|_| GpuError::OutOfMemory { bytes })?;
        for first in (0..tiles).step_by(band) {
            staging.clear();
            staging.resize(band.min(tiles - first) * tile_bytes, 0);
            pack_band(format, cols, first, tile_bytes, find, &mut staging);
            records.upload(first * tile_bytes, &staging)?;
        }
        let bias = bias.map(|mut bias| {
            bias.resize(tiles * TILE, 0.0);
            let bytes: Vec<u8> = bias.iter().flat_map(|x| x.to_le_bytes()).collect();
            gpu.from_bytes(&bytes)
        });
        Ok(Part { format, outputs, tiles, records, bias: bias.transpose()? })
    }

    /// Tiles of the pattern's rows, packed once.
    fn repeating(gpu: &Gpu, cols: usize, pattern: &Rows, outputs: usize, tiles: usize) -> Result<Part, GpuError> {
        let format = pattern.format;
        let (tile_bytes, period) = (cols / format.cols() * format.record_bytes(), pattern.rows / TILE);
        assert!(period > 0 && pattern.rows.is_multiple_of(TILE), "a pattern of {} rows", pattern.rows);
        let mut packed = vec![0; period * tile_bytes];
        pack_band(format, cols, 0, tile_bytes, &|row| Some((pattern, row)), &mut packed);
        let records = gpu.alloc(tiles * tile_bytes)?;
        for first in (0..tiles).step_by(period) {
            records.upload(first * tile_bytes, &packed[..period.min(tiles - first) * tile_bytes])?;
        }
        Ok(Part { format, outputs, tiles, records, bias: None })
    }
}

/// Packs tiles from number `first` on into `out`, on all cores.
fn pack_band<'a>(
    format: Format,
    cols: usize,
    first: usize,
    tile_bytes: usize,
    find: &(impl Fn(usize) -> Option<(&'a Rows<'a>, usize)> + Sync),
    out: &mut [u8],
) {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let share = (out.len() / tile_bytes).div_ceil(threads);
    let pack_tile = |tile: usize, out: &mut [u8]| {
        let rows: [_; TILE] = std::array::from_fn(|i| find(tile * TILE + i));
        let mut rooms: [Room; TILE] = [[0; 80]; TILE];
        for (record, out) in out.chunks_exact_mut(format.record_bytes()).enumerate() {
            let mut blocks: [RowBlock; TILE] = [None; TILE];
            for ((block, row), room) in blocks.iter_mut().zip(&rows).zip(&mut rooms) {
                *block = row.map(|(source, row)| source.block(cols, row, record, room));
            }
            pack(format, &blocks, out);
        }
    };
    std::thread::scope(|scope| {
        for (i, out) in out.chunks_mut(share * tile_bytes).enumerate() {
            let work = move |out: &mut [u8]| {
                for (j, out) in out.chunks_exact_mut(tile_bytes).enumerate() {
                    pack_tile(first + i * share + j, out);
                }
            };
            if threads == 1 {
                work(out);
            } else {
                scope.spawn(move || work(out));
            }
        }
    });
}
