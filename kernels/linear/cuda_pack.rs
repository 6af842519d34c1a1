//! Weights as the GPU's kernels want them.
//!
//! A tile is 16 rows. Its records lie one after the other, each with all that the rows have for some columns
//! ([`Format::cols`]), in as many bytes as the rows as they come ([`Format::row_block_bytes`] each). `formats.cuh` tells
//! how a record is arranged, and reads it.

use aieng_kernels::DType;
use aieng_kernels::quant::k_scale_min;

/// Rows of a tile.
pub(super) const TILE: usize = 16;

/// How weights lie in a device's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
    /// Rows of groups: scale (f16), the code that stands for zero (a byte), codes of 4 bits, the first in a byte's lower half.
    Int4Group32,
    Int4Group128,
    Bf16,
}

/// The kernels of a format: up to 8 rows of x, up to 32 a block, tiles of 64 and of 128; and that which decodes rows.
#[derive(Debug)]
pub(crate) struct Kernels {
    pub few1: &'static str,
    pub few4: &'static str,
    pub many1: &'static str,
    pub many2: &'static str,
    pub embed: &'static str,
}

macro_rules! kernels {
    ($name:literal) => {
        &Kernels {
            few1: concat!("linear_few1_", $name),
            few4: concat!("linear_few4_", $name),
            many1: concat!("linear_many1_", $name),
            many2: concat!("linear_many2_", $name),
            embed: concat!("embed_", $name),
        }
    };
}

impl Format {
    /// What holds a file's format; f16 and f32 become bf16.
    pub fn of(dtype: DType) -> Format {
        match dtype {
            DType::F32 | DType::F16 | DType::BF16 => Format::Bf16,
            DType::Q4_0 => Format::Q4_0,
            DType::Q4_1 => Format::Q4_1,
            DType::Q5_0 => Format::Q5_0,
            DType::Q5_1 => Format::Q5_1,
            DType::Q8_0 => Format::Q8_0,
            DType::Q4_K => Format::Q4K,
            DType::Q5_K => Format::Q5K,
            DType::Q6_K => Format::Q6K,
        }
    }

    pub fn kernels(self) -> &'static Kernels {
        match self {
            Format::Q4_0 => kernels!("q4_0"),
            Format::Q4_1 => kernels!("q4_1"),
            Format::Q5_0 => kernels!("q5_0"),
            Format::Q5_1 => kernels!("q5_1"),
            Format::Q8_0 => kernels!("q8_0"),
            Format::Q4K => kernels!("q4_k"),
            Format::Q5K => kernels!("q5_k"),
            Format::Q6K => kernels!("q6_k"),
            Format::Int4Group32 => kernels!("int4_32"),
            Format::Int4Group128 => kernels!("int4_128"),
            Format::Bf16 => kernels!("bf16"),
        }
    }

    /// Columns of a record; a row's length is a multiple of it.
    pub fn cols(self) -> usize {
        match self {
            Format::Q4K | Format::Q5K | Format::Q6K => 256,
            Format::Int4Group128 => 128,
            _ => 32,
        }
    }

    /// Bytes of one row's part of a record.
    pub fn row_block_bytes(self) -> usize {
        match self {
            Format::Q4_0 => DType::Q4_0.block_bytes(),
            Format::Q4_1 => DType::Q4_1.block_bytes(),
            Format::Q5_0 => DType::Q5_0.block_bytes(),
            Format::Q5_1 => DType::Q5_1.block_bytes(),
            Format::Q8_0 => DType::Q8_0.block_bytes(),
            Format::Q4K => DType::Q4_K.block_bytes(),
            Format::Q5K => DType::Q5_K.block_bytes(),
            Format::Q6K => DType::Q6_K.block_bytes(),
            Format::Int4Group32 => 3 + 16,
            Format::Int4Group128 => 3 + 64,
            Format::Bf16 => 64,
        }
    }

    /// Bytes of a record.
    pub fn record_bytes(self) -> usize {
        TILE * self.row_block_bytes()
    }

    /// Columns that a kernel copies at a time.
    pub fn stage_cols(self) -> usize {
        match self {
            Format::Q8_0 => 128,
            Format::Bf16 => 64,
            _ => 256,
        }
    }

    /// Bits of a code above the lower four, where they stand apart.
    fn upper_bits(self) -> usize {
        match self {
            Format::Q5_0 | Format::Q5_1 | Format::Q5K => 1,
            Format::Q6K => 2,
            _ => 0,
        }
    }

    /// Where in a record the codes end.
    fn scales_at(self) -> usize {
        let bits = match self {
            Format::Q8_0 => 8,
            Format::Bf16 => 16,
            _ => 4 + self.upper_bits(),
        };
        TILE * self.cols() * bits / 8
    }

    /// Whether blocks have minima, so that kernels need sums of x.
    pub fn has_minima(self) -> bool {
        matches!(self, Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K)
    }
}

/// One row's part of a record: where it comes from.
pub(super) type RowBlock<'a> = Option<&'a [u8]>;

/// Packs a record of up to 16 rows; a row that does not exist counts as zeros. `out` is zero before.
pub(super) fn pack(format: Format, rows: &[RowBlock; TILE], out: &mut [u8]) {
    for (i, row) in rows.iter().enumerate() {
        let Some(row) = row else { continue };
        match format {
            Format::Bf16 => pack_bf16(row, i, out),
            Format::Q8_0 => pack_q8_0(row, i, out),
            _ => pack_codes(format, row, i, out),
        }
        pack_scales(format, row, i, out);
    }
}

/// Ors `bytes` into `out`.
fn put(out: &mut [u8], offset: usize, bytes: &[u8]) {
    out[offset..offset + bytes.len()].iter_mut().zip(bytes).for_each(|(to, from)| *to |= from);
}

/// Lanes `4 g + t` have rows `g` and `g + 8`: `(g, 0)` or `(g, 1)` of a tile's row.
fn place(row: usize) -> (usize, usize) {
    (row % 8, row / 8)
}

/// Pairs of columns, as the operands of two steps want them: rows g and g + 8 side by side.
fn pack_bf16(row: &[u8], i: usize, out: &mut [u8]) {
    let (g, h) = place(i);
    for (j, pair) in row.chunks_exact(4).enumerate() {
        let (t, step, half) = (j / 4, j / 2 % 2, j % 2);
        put(out, (32 * step + 4 * g + t) * 16 + 8 * half + 4 * h, pair);
    }
}

/// Pairs of codes in bytes p and p + 2 of a lane's words.
fn pack_q8_0(row: &[u8], i: usize, out: &mut [u8]) {
    let (g, h) = place(i);
    for (t, c) in row[2..].chunks_exact(8).enumerate() {
        put(out, (4 * g + t) * 16 + 8 * h, &[c[0], c[2], c[1], c[3], c[4], c[6], c[5], c[7]]);
    }
}

/// Formats whose low four bits stand apart: nibbles p and p + 4 of a word are pair p; the upper bits of all first codes lie
/// below those of all second ones.
fn pack_codes(format: Format, row: &[u8], i: usize, out: &mut [u8]) {
    let (g, h) = place(i);
    let mut codes = [0u8; 256];
    let codes = &mut codes[..format.cols()];
    unpack(format, row, codes);
    let upper_bits = format.upper_bits();
    let (low, upper) = out.split_at_mut(8 * format.cols());
    for (b, block) in codes.as_chunks::<32>().0.iter().enumerate() {
        for t in 0..4 {
            let eight = lane_codes(format, block, t);
            let lane = 32 * b + 4 * g + t;
            let word = gather(eight, 4) | gather(eight >> 8, 4) << 16;
            low[lane * 8 + 4 * h..][..4].copy_from_slice(&(word as u32).to_le_bytes());
            if upper_bits > 0 {
                let first = gather(eight >> 4, upper_bits) << (upper_bits * 4 * h);
                let second = gather(eight >> 12, upper_bits) << (upper_bits * (4 * h + 8));
                let bytes = ((first | second) as u32).to_le_bytes();
                put(upper, lane * 2 * upper_bits, &bytes[..2 * upper_bits]);
            }
        }
    }
}

/// The lowest `bits` of each even byte, side by side.
fn gather(bytes: u64, bits: usize) -> u64 {
    let mask = (1u64 << bits) - 1;
    let four = bytes & (mask * 0x0001_0001_0001_0001);
    let two = (four | four >> (16 - bits)) & (((1 << (2 * bits)) - 1) * 0x0000_0001_0000_0001);
    (two | two >> (32 - 2 * bits)) & ((1 << (4 * bits)) - 1)
}

/// The eight codes of a block that lane `t` of a row has, in its order, the first in the lowest byte.
fn lane_codes(format: Format, block: &[u8; 32], t: usize) -> u64 {
    let four = |at: usize| u64::from(u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]));
    match format {
        Format::Q6K => four(4 * t) | four(16 + 4 * t) << 32,
        _ => four(8 * t) | four(8 * t + 4) << 32,
    }
}

/// The codes of a row's block, without signs (`quant.rs` has the formats).
fn unpack(format: Format, row: &[u8], codes: &mut [u8]) {
    match format {
        Format::Q4_0 => nibbles(&row[2..], codes),
        Format::Q4_1 => nibbles(&row[4..], codes),
        Format::Q5_0 => {
            nibbles(&row[6..], codes);
            fifth_bits(&row[2..6], codes);
        }
        Format::Q5_1 => {
            nibbles(&row[8..], codes);
            fifth_bits(&row[4..8], codes);
        }
        Format::Q4K => row[16..].chunks_exact(32).zip(codes.chunks_exact_mut(64)).for_each(|(q, c)| nibbles(q, c)),
        Format::Q5K => {
            row[48..].chunks_exact(32).zip(codes.chunks_exact_mut(64)).for_each(|(q, c)| nibbles(q, c));
            for (s, codes) in codes.chunks_exact_mut(32).enumerate() {
                codes.iter_mut().zip(&row[16..48]).for_each(|(code, high)| *code |= (high >> s & 1) << 4);
            }
        }
        Format::Q6K => {
            for (half, codes) in codes.chunks_exact_mut(128).enumerate() {
                nibbles(&row[64 * half..][..64], codes);
                for (g, codes) in codes.chunks_exact_mut(32).enumerate() {
                    let high = &row[128 + 32 * half..][..32];
                    codes.iter_mut().zip(high).for_each(|(code, high)| *code |= (high >> (2 * g) & 3) << 4);
                }
            }
        }
        Format::Int4Group32 | Format::Int4Group128 => {
            codes.as_chunks_mut::<2>().0.iter_mut().zip(&row[3..]).for_each(|(two, q)| *two = [q & 15, q >> 4]);
        }
        Format::Q8_0 | Format::Bf16 => unreachable!("packed as they are"),
    }
}

/// The low nibbles of `packed`, then the high ones.
fn nibbles(packed: &[u8], codes: &mut [u8]) {
    let (low, high) = codes.split_at_mut(packed.len());
    low.iter_mut().zip(packed).for_each(|(code, q)| *code = q & 15);
    high.iter_mut().zip(packed).for_each(|(code, q)| *code = q >> 4);
}

/// Bit `i` of the 32 is the fifth of code `i`.
fn fifth_bits(bits: &[u8], codes: &mut [u8]) {
    let bits = u32::from_le_bytes([bits[0], bits[1], bits[2], bits[3]]);
    codes.iter_mut().enumerate().for_each(|(i, code)| *code |= (bits >> i & 1) as u8 * 16);
}

/// Scales, minima and zeros, those of rows g and g + 8 side by side.
fn pack_scales(format: Format, row: &[u8], i: usize, out: &mut [u8]) {
    let (g, h) = place(i);
    let base = format.scales_at();
    match format {
        Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => put(out, base + 4 * g + 2 * h, &row[..2]),
        Format::Q4_1 | Format::Q5_1 => {
            put(out, base + 8 * g + 2 * h, &row[..2]);
            put(out, base + 8 * g + 4 + 2 * h, &row[2..4]);
        }
        Format::Q4K | Format::Q5K => {
            for b in 0..8 {
                let (scale, minimum) = k_scale_min(&row[4..16], b);
                let fields = u32::from(scale) << (6 * h) | u32::from(minimum) << (12 + 6 * h);
                let bytes = fields.to_le_bytes();
                put(out, base + 2 * (8 * b + g), &bytes[..2]);
                put(out, base + 128 + 8 * b + g, &bytes[2..3]);
            }
            put(out, base + 192 + 8 * g + 2 * h, &row[..2]);
            put(out, base + 192 + 8 * g + 4 + 2 * h, &row[2..4]);
        }
        Format::Q6K => {
            for (s, scale) in row[192..208].iter().enumerate() {
                put(out, base + 4 * (8 * (s / 2) + g) + 2 * (s % 2) + h, &[*scale]);
            }
            put(out, base + 256 + 4 * g + 2 * h, &row[208..]);
        }
        Format::Int4Group32 | Format::Int4Group128 => {
            put(out, base + 4 * g + 2 * h, &row[..2]);
            put(out, base + 32 + 2 * g + h, &row[2..3]);
        }
        Format::Bf16 => {}
    }
}
