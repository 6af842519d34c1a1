//! Formats of weights: one definition of their bits.

/// Element formats. The discriminants are GGUF's (ggml_type).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
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

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::Q8_0 => 34,
            DType::Q4_0 => 18,
            DType::Q4_1 => 20,
            DType::Q5_0 => 22,
            DType::Q5_1 => 24,
            DType::Q4_K => 144,
            DType::Q5_K => 176,
            DType::Q6_K => 210,
        }
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
