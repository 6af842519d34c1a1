//! Decoders: how the codes of each quantised format come out of a tile, for any instruction set.
//!
//! Every format is brought to one of two forms with unsigned codes `u`: `w = d * u + m`, where `Σ w x = d Σ u x + m Σ x`,
//! or `w = d * (u - 2^z)`, where `Σ w x = d (Σ u x - 2^z Σ x)`. Sums with codes are sums of integers, and `Σ x` is known
//! for each block of activations. See [`super::weight`] for the tiles and [`crate::quant`] for the bits.

use crate::cpu::{Codes, InMemory, LANES, Simd};
use std::marker::PhantomData;

/// One sub-block of a tile: codes of 16 rows, four to a word, their scales and, where codes have no zero, their minima.
#[derive(Clone, Copy)]
pub struct SubBlock<S: Simd, C = [<S as Simd>::W; 8]> {
    pub codes: C,
    pub d: S::F,
    pub m: S::F,
}

impl<S: Simd, C> SubBlock<S, C> {
    /// One without minima.
    #[inline(always)]
    unsafe fn symmetric(codes: C, d: S::F) -> Self {
        // SAFETY: the caller's.
        SubBlock { codes, d, m: unsafe { S::splat(0.0) } }
    }
}

/// A quantised format.
///
/// # Safety
/// `decode` reads at most `LANES * BLOCK_BYTES` bytes from `tile`; codes are below `2^BITS`.
pub unsafe trait Format: 'static {
    /// Elements of a block.
    const BLOCK: usize;
    /// Bytes of a row's block.
    const BLOCK_BYTES: usize;
    /// Elements of a sub-block: those with one scale; 16 or 32.
    const SUB: usize = 32;
    /// Bits of a code.
    const BITS: u32;
    /// The code that stands for zero is two to this power; `None` where sub-blocks have minima.
    const ZERO: Option<u32>;
    /// Groups of rows from which decoding to memory, once for all of them, is faster than decoding once for each. With two groups
    /// of Q4_0 it is 7% slower, of K-quants 12% faster.
    const MANY: usize = if Self::BLOCK > 32 { 2 } else { 3 };
    /// Whether blocks come from memory rather than from a cache.
    const STREAMED: bool = true;
    /// Where decoded codes are.
    type Codes<S: Simd>: Codes<S>;

    /// Sub-block `s` of the tile's block at `tile`. With `SUB` 16, only the first four words of codes count.
    ///
    /// # Safety
    /// Needs the instruction set, a whole block at `tile`, and `s < BLOCK / SUB`.
    unsafe fn decode<S: Simd>(tile: *const u8, s: usize) -> SubBlock<S, Self::Codes<S>>;
}

const NIBBLES: u32 = 0x0f0f_0f0f;

/// A scale times a constant.
#[inline(always)]
unsafe fn times<S: Simd>(a: S::F, x: f32) -> S::F {
    // SAFETY: the caller's.
    unsafe { S::mul(a, S::splat(x)) }
}

/// Word `w` of 16 rows at byte offset `offset` of a row's block.
#[inline(always)]
unsafe fn words<S: Simd>(tile: *const u8, offset: usize, w: usize) -> S::W {
    // SAFETY: the caller's.
    unsafe { S::load_words(tile.add(LANES * (offset + 4 * w))) }
}

/// f16 of 16 rows at byte offset `offset` of a row's block.
#[inline(always)]
unsafe fn halves<S: Simd>(tile: *const u8, offset: usize) -> S::F {
    // SAFETY: the caller's.
    unsafe { S::load_f16(tile.add(LANES * offset).cast()) }
}

/// 32 nibbles of four words: the low ones first.
#[inline(always)]
unsafe fn nibbles<S: Simd>(tile: *const u8, offset: usize) -> [S::W; 8] {
    // SAFETY: the caller's.
    unsafe {
        let mask = S::splat_word(NIBBLES);
        let mut codes = [mask; 8];
        for w in 0..4 {
            let word = words::<S>(tile, offset, w);
            codes[w] = S::and(word, mask);
            codes[w + 4] = S::and(S::shr(word, 4), mask);
        }
        codes
    }
}

/// Adds the fifth bits: bit `4 g + j` of the word belongs to byte `j` of group `g`. The product copies the group's four
/// bits to distances of 7, which puts bit `j` at the bottom of byte `j`.
#[inline(always)]
unsafe fn add_fifth_bits<S: Simd>(codes: &mut [S::W; 8], high: S::W) {
    // SAFETY: the caller's.
    unsafe {
        for (g, code) in codes.iter_mut().enumerate() {
            let four = S::and(S::shr(high, 4 * g as u32), S::splat_word(15));
            let spread = S::and(S::mul_words(four, S::splat_word(0x0020_4081)), S::splat_word(0x0101_0101));
            *code = S::or(*code, S::shl(spread, 4));
        }
    }
}

/// Scale and negated minimum of sub-block `s` of Q4_K and Q5_K ([`crate::quant`]'s `k_scale_min`, sixteen rows at once).
#[inline(always)]
unsafe fn k_scale_min<S: Simd>(tile: *const u8, s: usize) -> (S::F, S::F) {
    // SAFETY: the caller's.
    unsafe {
        let scales = tile.add(LANES * 4);
        let (scale, min) = if s < 4 {
            let low = S::splat_word(63);
            (S::and(S::load_u8(scales.add(LANES * s)), low), S::and(S::load_u8(scales.add(LANES * (s + 4))), low))
        } else {
            let both = S::load_u8(scales.add(LANES * (s + 4)));
            let scale_top = S::shl(S::shr(S::load_u8(scales.add(LANES * (s - 4))), 6), 4);
            let min_top = S::shl(S::shr(S::load_u8(scales.add(LANES * s)), 6), 4);
            (S::or(S::and(both, S::splat_word(15)), scale_top), S::or(S::shr(both, 4), min_top))
        };
        let d = S::mul(halves::<S>(tile, 0), S::to_f32(scale));
        let m = S::mul(halves::<S>(tile, 2), S::to_f32(min));
        (d, times::<S>(m, -1.0))
    }
}

/// 32 nibbles of eight words: the low ones in even sub-blocks, the high ones in odd ones.
#[inline(always)]
unsafe fn k_nibbles<S: Simd>(tile: *const u8, offset: usize, s: usize) -> [S::W; 8] {
    // SAFETY: the caller's.
    unsafe {
        let mask = S::splat_word(NIBBLES);
        let mut codes = [mask; 8];
        for (w, code) in codes.iter_mut().enumerate() {
            *code = S::and(S::shr(words::<S>(tile, offset, s / 2 * 8 + w), 4 * (s as u32 % 2)), mask);
        }
        codes
    }
}

macro_rules! format {
    ($name:ident, $block:expr, $bytes:expr, $sub:expr, $bits:expr, $zero:expr, |$tile:ident, $s:ident, $S:ident| $decode:block) => {
        #[allow(non_camel_case_types, reason = "the names that everybody uses")]
        pub struct $name;
        // SAFETY: offsets are those of the format's fields.
        unsafe impl Format for $name {
            const BLOCK: usize = $block;
            const BLOCK_BYTES: usize = $bytes;
            const SUB: usize = $sub;
            const BITS: u32 = $bits;
            const ZERO: Option<u32> = $zero;
            type Codes<S: Simd> = [S::W; 8];
            #[inline(always)]
            unsafe fn decode<$S: Simd>($tile: *const u8, $s: usize) -> SubBlock<$S> {
                // SAFETY: the caller's.
                unsafe { $decode }
            }
        }
    };
}

format!(Q4_0, 32, 18, 32, 4, Some(3), |tile, _s, S| {
    SubBlock::symmetric(nibbles::<S>(tile, 2), halves::<S>(tile, 0))
});

format!(Q4_1, 32, 20, 32, 4, None, |tile, _s, S| {
    SubBlock { codes: nibbles::<S>(tile, 4), d: halves::<S>(tile, 0), m: halves::<S>(tile, 2) }
});

format!(Q5_0, 32, 22, 32, 5, Some(4), |tile, _s, S| {
    let mut codes = nibbles::<S>(tile, 6);
    add_fifth_bits::<S>(&mut codes, words::<S>(tile, 2, 0));
    SubBlock::symmetric(codes, halves::<S>(tile, 0))
});

format!(Q5_1, 32, 24, 32, 5, None, |tile, _s, S| {
    let mut codes = nibbles::<S>(tile, 8);
    add_fifth_bits::<S>(&mut codes, words::<S>(tile, 4, 0));
    SubBlock { codes, d: halves::<S>(tile, 0), m: halves::<S>(tile, 2) }
});

format!(Q8_0, 32, 34, 32, 8, Some(7), |tile, _s, S| {
    let flip = S::splat_word(0x8080_8080);
    let mut codes = [flip; 8];
    for (w, code) in codes.iter_mut().enumerate() {
        *code = S::xor(words::<S>(tile, 2, w), flip);
    }
    SubBlock::symmetric(codes, halves::<S>(tile, 0))
});

format!(Q4_K, 256, 144, 32, 4, None, |tile, s, S| {
    let (d, m) = k_scale_min::<S>(tile, s);
    SubBlock { codes: k_nibbles::<S>(tile, 16, s), d, m }
});

format!(Q5_K, 256, 176, 32, 5, None, |tile, s, S| {
    let (d, m) = k_scale_min::<S>(tile, s);
    let mut codes = k_nibbles::<S>(tile, 48, s);
    for (w, code) in codes.iter_mut().enumerate() {
        let high = S::and(S::shr(words::<S>(tile, 16, w), s as u32), S::splat_word(0x0101_0101));
        *code = S::or(*code, S::shl(high, 4));
    }
    SubBlock { codes, d, m }
});

format!(Q6_K, 256, 210, 16, 6, Some(5), |tile, s, S| {
    let (half, g, word) = (s / 8, s % 8 / 2, s % 2 * 4);
    let mut codes = [S::splat_word(0); 8];
    for (w, code) in codes.iter_mut().enumerate().take(4) {
        let low = words::<S>(tile, 0, half * 16 + g % 2 * 8 + word + w);
        let low = S::and(S::shr(low, 4 * (g as u32 / 2)), S::splat_word(NIBBLES));
        let high = S::shr(words::<S>(tile, 128, half * 8 + word + w), 2 * g as u32);
        let high = S::and(high, S::splat_word(0x0303_0303));
        *code = S::or(low, S::shl(high, 4));
    }
    let scale = S::to_f32(S::load_i8(tile.add(LANES * (192 + s))));
    let d = S::mul(halves::<S>(tile, 208), scale);
    SubBlock::symmetric(codes, d)
});

/// Sub-blocks of F decoded beforehand, one after the other: codes, scales, minima. For many rows of activations.
pub struct Decoded<F>(PhantomData<F>);

// SAFETY: reads what `write` has written; the codes are F's.
unsafe impl<F: Format> Format for Decoded<F> {
    const BLOCK: usize = F::SUB;
    const BLOCK_BYTES: usize = F::SUB + if F::ZERO.is_none() { 8 } else { 4 };
    const SUB: usize = F::SUB;
    const BITS: u32 = F::BITS;
    const ZERO: Option<u32> = F::ZERO;
    const STREAMED: bool = false;
    type Codes<S: Simd> = InMemory;

    #[inline(always)]
    unsafe fn decode<S: Simd>(tile: *const u8, _: usize) -> SubBlock<S, InMemory> {
        // SAFETY: the caller's.
        unsafe {
            let codes = InMemory(tile);
            let d = S::load(tile.add(LANES * F::SUB).cast());
            match F::ZERO {
                Some(_) => SubBlock::symmetric(codes, d),
                None => SubBlock { codes, d, m: S::load(tile.add(LANES * (F::SUB + 4)).cast()) },
            }
        }
    }
}

impl<F: Format> Decoded<F> {
    /// Decodes `blocks` of F's blocks at `tile` to `out`.
    ///
    /// # Safety
    /// Needs the instruction set, the blocks, and room for `blocks * F::BLOCK / F::SUB` sub-blocks at `out`.
    #[inline(always)]
    pub unsafe fn write<S: Simd>(tile: *const u8, blocks: usize, mut out: *mut u8) {
        for block in 0..blocks {
            for s in 0..F::BLOCK / F::SUB {
                // SAFETY: the caller's.
                unsafe {
                    let sub = F::decode::<S>(tile.add(block * LANES * F::BLOCK_BYTES), s);
                    for w in 0..F::SUB / 4 {
                        S::store_words(out.add(LANES * 4 * w), sub.codes.word(w));
                    }
                    S::store(out.add(LANES * F::SUB).cast(), sub.d);
                    if F::ZERO.is_none() {
                        S::store(out.add(LANES * (F::SUB + 4)).cast(), sub.m);
                    }
                    out = out.add(LANES * Self::BLOCK_BYTES);
                }
            }
        }
    }
}
