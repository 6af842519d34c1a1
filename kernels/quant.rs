//! Element formats of weights: one definition of their bits.
//!
//! A quantised row is a sequence of blocks. [`DType::fields`] lists a block's fields, and [`dequantize_row`] is the
//! meaning of the bits; both follow ggml (`ggml-common.h`, `ggml-quants.c`), whose files we read. Scales are f16.

use half::{bf16, f16};

/// Element formats. The discriminants are GGUF's (`ggml_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
#[allow(non_camel_case_types, reason = "the names that everybody uses")]
pub enum DType {
    /// IEEE single.
    F32 = 0,
    /// IEEE half.
    F16 = 1,
    /// 32 × 4 bit, scale.
    Q4_0 = 2,
    /// 32 × 4 bit, scale and minimum.
    Q4_1 = 3,
    /// 32 × 5 bit, scale.
    Q5_0 = 6,
    /// 32 × 5 bit, scale and minimum.
    Q5_1 = 7,
    /// 32 × 8 bit, scale.
    Q8_0 = 8,
    /// 256 × 4 bit, 8 scales and minima of 6 bit.
    Q4_K = 12,
    /// 256 × 5 bit, 8 scales and minima of 6 bit.
    Q5_K = 13,
    /// 256 × 6 bit, 16 scales of 8 bit.
    Q6_K = 14,
    /// The upper half of an IEEE single.
    BF16 = 30,
}

/// `count` units of `size` bytes, one after the other in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Bytes of a unit.
    pub size: usize,
    /// Units.
    pub count: usize,
}

const fn field(size: usize, count: usize) -> Field {
    Field { size, count }
}

impl DType {
    /// All formats.
    pub const ALL: [DType; 11] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::Q8_0,
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q4_K,
        DType::Q5_K,
        DType::Q6_K,
    ];

    /// From GGUF's number.
    pub fn from_ggml(id: u32) -> Option<DType> {
        DType::ALL.into_iter().find(|d| *d as u32 == id)
    }

    /// Elements in one block; a row's length is a multiple of it.
    pub const fn block_len(self) -> usize {
        match self {
            DType::F32 | DType::F16 | DType::BF16 => 1,
            DType::Q8_0 | DType::Q4_0 | DType::Q4_1 | DType::Q5_0 | DType::Q5_1 => 32,
            DType::Q4_K | DType::Q5_K | DType::Q6_K => 256,
        }
    }

    /// A block's fields, in order: quants in units of 4 bytes, scales in units of their own size.
    pub const fn fields(self) -> &'static [Field] {
        match self {
            DType::F32 => const { &[field(4, 1)] },
            DType::F16 | DType::BF16 => const { &[field(2, 1)] },
            // d, qs
            DType::Q8_0 => const { &[field(2, 1), field(4, 8)] },
            DType::Q4_0 => const { &[field(2, 1), field(4, 4)] },
            // d, m, qs
            DType::Q4_1 => const { &[field(2, 2), field(4, 4)] },
            // d, qh, qs
            DType::Q5_0 => const { &[field(2, 1), field(4, 1), field(4, 4)] },
            // d, m, qh, qs
            DType::Q5_1 => const { &[field(2, 2), field(4, 1), field(4, 4)] },
            // d, dmin, scales, qs
            DType::Q4_K => const { &[field(2, 2), field(1, 12), field(4, 32)] },
            // d, dmin, scales, qh, qs
            DType::Q5_K => const { &[field(2, 2), field(1, 12), field(4, 8), field(4, 32)] },
            // ql, qh, scales, d
            DType::Q6_K => const { &[field(4, 32), field(4, 16), field(1, 16), field(2, 1)] },
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        let fields = self.fields();
        let (mut bytes, mut i) = (0, 0);
        while i < fields.len() {
            bytes += fields[i].size * fields[i].count;
            i += 1;
        }
        bytes
    }

    /// Bytes of a row of `len` elements; panics unless `len` is a multiple of the block's.
    pub fn row_bytes(self, len: usize) -> usize {
        assert!(len.is_multiple_of(self.block_len()), "{len} elements are no whole blocks of {}", self.name());
        len / self.block_len() * self.block_bytes()
    }

    /// Whether elements are floats rather than codes with scales.
    pub const fn is_float(self) -> bool {
        self.block_len() == 1
    }

    /// The name that GGUF tools print.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
            DType::Q8_0 => "Q8_0",
            DType::Q4_0 => "Q4_0",
            DType::Q4_1 => "Q4_1",
            DType::Q5_0 => "Q5_0",
            DType::Q5_1 => "Q5_1",
            DType::Q4_K => "Q4_K",
            DType::Q5_K => "Q5_K",
            DType::Q6_K => "Q6_K",
        }
    }
}

fn f16_at(block: &[u8], offset: usize) -> f32 {
    f16::from_le_bytes([block[offset], block[offset + 1]]).to_f32()
}

/// Scale and minimum `s` (0..8) of the 12 packed bytes of Q4_K and Q5_K: the low 6 bits of bytes 0..4 and 4..8 are the
/// first four of each; the rest have 4 bits in bytes 8..12 and the 2 upper bits on top of the earlier bytes.
pub fn k_scale_min(scales: &[u8], s: usize) -> (u8, u8) {
    if s < 4 {
        (scales[s] & 63, scales[s + 4] & 63)
    } else {
        ((scales[s + 4] & 15) | ((scales[s - 4] >> 6) << 4), (scales[s + 4] >> 4) | ((scales[s] >> 6) << 4))
    }
}

/// Decodes one row into `out`; `row` holds exactly [`DType::row_bytes`]`(out.len())` bytes.
pub fn dequantize_row(dtype: DType, row: &[u8], out: &mut [f32]) {
    assert_eq!(row.len(), dtype.row_bytes(out.len()), "bytes of a row of {} {}", out.len(), dtype.name());
    let blocks = row.chunks_exact(dtype.block_bytes()).zip(out.chunks_exact_mut(dtype.block_len()));
    for (block, out) in blocks {
        dequantize_block(dtype, block, out);
    }
}

fn dequantize_block(dtype: DType, b: &[u8], out: &mut [f32]) {
    match dtype {
        DType::F32 => out[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        DType::F16 => out[0] = f16_at(b, 0),
        DType::BF16 => out[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        DType::Q8_0 => {
            let d = f16_at(b, 0);
            for (out, q) in out.iter_mut().zip(&b[2..]) {
                *out = d * f32::from(*q as i8);
            }
        }
        DType::Q4_0 => {
            let d = f16_at(b, 0);
            nibbles(&b[2..], out, |q, _| d * (f32::from(q) - 8.0));
        }
        DType::Q4_1 => {
            let (d, m) = (f16_at(b, 0), f16_at(b, 2));
            nibbles(&b[4..], out, |q, _| d * f32::from(q) + m);
        }
        DType::Q5_0 => {
            let (d, high) = (f16_at(b, 0), high_bits(&b[2..6]));
            nibbles(&b[6..], out, |q, i| d * (f32::from(q | high(i)) - 16.0));
        }
        DType::Q5_1 => {
            let (d, m, high) = (f16_at(b, 0), f16_at(b, 2), high_bits(&b[4..8]));
            nibbles(&b[8..], out, |q, i| d * f32::from(q | high(i)) + m);
        }
        DType::Q4_K => k_nibbles(b, &b[16..], |_, _| 0, out),
        DType::Q5_K => k_nibbles(b, &b[48..], |s, i| ((b[16 + i] >> s) & 1) << 4, out),
        DType::Q6_K => dequantize_q6_k(b, out),
    }
}

/// The low nibbles of 16 bytes are elements 0..16, the high ones 16..32; `f` gets the nibble and the element's index.
fn nibbles(qs: &[u8], out: &mut [f32], f: impl Fn(u8, usize) -> f32) {
    for (i, q) in qs.iter().enumerate() {
        out[i] = f(q & 15, i);
        out[i + 16] = f(q >> 4, i + 16);
    }
}

/// Bit `i` of the 32, moved to bit 4.
fn high_bits(qh: &[u8]) -> impl Fn(usize) -> u8 {
    let qh = u32::from_le_bytes([qh[0], qh[1], qh[2], qh[3]]);
    move |i| ((qh >> i) as u8 & 1) << 4
}

/// Q4_K and Q5_K: sub-blocks of 32 in pairs, the low and the high nibbles of 32 bytes; `high(s, i)` is what the fifth bit
/// adds to element `i` of sub-block `s`.
fn k_nibbles(b: &[u8], qs: &[u8], high: impl Fn(usize, usize) -> u8, out: &mut [f32]) {
    let (d, dmin) = (f16_at(b, 0), f16_at(b, 2));
    for (s, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = k_scale_min(&b[4..16], s);
        let (d, m) = (d * f32::from(scale), dmin * f32::from(min));
        for (i, out) in out.iter_mut().enumerate() {
            let q = (qs[s / 2 * 32 + i] >> (4 * (s % 2))) & 15;
            *out = d * f32::from(q | high(s, i)) - m;
        }
    }
}

/// Two halves of 128: element `32 g + i` of a half has its low nibble in byte `32 (g % 2) + i` of the half's 64 (low for
/// g < 2, high after), its two upper bits at bit `2 g` of byte `i` of the half's 32, and one scale for each 16.
fn dequantize_q6_k(b: &[u8], out: &mut [f32]) {
    let (ql, qh, scales, d) = (&b[..128], &b[128..192], &b[192..208], f16_at(b, 208));
    for (i, out) in out.iter_mut().enumerate() {
        let (half, g, j) = (i / 128, i % 128 / 32, i % 32);
        let low = (ql[half * 64 + (g % 2) * 32 + j] >> (4 * (g / 2))) & 15;
        let high = (qh[half * 32 + j] >> (2 * g)) & 3;
        let q = i32::from(low | (high << 4)) - 32;
        *out = d * f32::from(scales[i / 16] as i8) * q as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_sizes_are_ggmls() {
        let bytes = DType::ALL.map(DType::block_bytes);
        assert_eq!(bytes, [4, 2, 2, 34, 18, 20, 22, 24, 144, 176, 210]);
    }

    /// Values worked out by hand from ggml's definitions.
    #[test]
    fn known_blocks() {
        let half = |x: f32| f16::from_f32(x).to_le_bytes();
        let mut out = [0.0; 32];
        let mut q8 = half(0.5).to_vec();
        q8.extend((0..32).map(|i| (i - 16) as i8 as u8));
        dequantize_row(DType::Q8_0, &q8, &mut out);
        assert_eq!((out[0], out[31]), (-8.0, 7.5));

        let mut q5 = [half(2.0).as_slice(), &half(1.0), &0x8000_0001u32.to_le_bytes()].concat();
        q5.extend([0x21; 16]);
        dequantize_row(DType::Q5_1, &q5, &mut out);
        assert_eq!((out[0], out[1], out[16], out[31]), (35.0, 3.0, 5.0, 37.0));

        let mut q4k = [half(1.0).as_slice(), &half(0.5)].concat();
        // Scale 0 is 3, minimum 0 is 2; scale 7 is 0b110101, minimum 7 is 0b100110.
        q4k.extend([3, 0, 0, 0b1100_0000, 2, 0, 0, 0b1000_0000, 0, 0, 0, 0b0110_0101]);
        q4k.extend([0x51; 128]);
        let mut out = [0.0; 256];
        dequantize_row(DType::Q4_K, &q4k, &mut out);
        assert_eq!(out[0], 3.0 - 1.0);
        assert_eq!(out[255], 53.0 * 5.0 - 19.0);
    }
}
