//! Decoders: how the codes of each quantised format come out of a tile, for any instruction set.
//!
//! Every format is brought to one of two forms with unsigned codes `u`: `w = d * u + m`, where `Σ w x = d Σ u x + m Σ x`,
//! or `w = d * (u - 2^z)`, where `Σ w x = d (Σ u x - 2^z Σ x)`. Sums with codes are sums of integers, and `Σ x` is known
//! for each block of activations. See [`super::weight`] for the tiles and [`crate::quant`] for the bits.

use crate::cpu::{Codes, LANES, Simd};
use std::marker::PhantomData;

/// A quantised format.
///
/// # Safety
/// Nothing is read but the `LANES * BLOCK_BYTES` bytes from `tile`; codes are below `2^BITS`.
pub unsafe trait Format: Copy + 'static {
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
    /// Whether blocks come from memory rather than from a cache.
    const STREAMED: bool = true;

    /// Word `g` of the codes of sub-block `s`, in the tile's block at `tile`: codes of 16 rows, four to a word.
    ///
    /// # Safety
    /// Needs the instruction set, a whole block at `tile`, `s < BLOCK / SUB`, and `g < SUB / 4`.
    unsafe fn word<S: Simd>(tile: *const u8, s: usize, g: usize) -> S::W;

    /// What the scales of a block's sub-blocks have in common, and what the minima have.
    ///
    /// # Safety
    /// Needs the instruction set, and a whole block at `tile`.
    unsafe fn factors<S: Simd>(tile: *const u8) -> Factors<S>;

    /// The sub-block's scales, of which `d` is the factor: the same, where a block is one sub-block.
    ///
    /// # Safety
    /// As [`Format::word`].
    #[inline(always)]
    unsafe fn scale<S: Simd>(_tile: *const u8, _s: usize, d: S::F) -> S::F {
        d
    }

    /// The sub-block's minima, of which `m` is the factor, likewise. They are 0 where codes have a zero.
    ///
    /// # Safety
    /// As [`Format::word`].
    #[inline(always)]
    unsafe fn min<S: Simd>(_tile: *const u8, _s: usize, m: S::F) -> S::F {
        m
    }
}

/// Factors of scales and of minima.
#[derive(Clone, Copy)]
pub struct Factors<S: Simd> {
    pub scale: S::F,
    pub min: S::F,
}

/// A sub-block of format F in a tile. Its words are decoded where they are asked for, so that they take no registers before.
#[derive(Clone, Copy)]
pub struct SubBlock<F> {
    /// The tile's block.
    tile: *const u8,
    /// Which sub-block of it.
    s: usize,
    format: PhantomData<F>,
}

impl<F: Format> SubBlock<F> {
    /// Sub-block `s` of the block at `tile`.
    ///
    /// # Safety
    /// Needs the block for as long as something is asked of it, and `s` below the sub-blocks of a block.
    #[inline(always)]
    pub unsafe fn new(tile: *const u8, s: usize) -> Self {
        SubBlock { tile, s, format: PhantomData }
    }

    /// See [`Format::factors`].
    ///
    /// # Safety
    /// Needs the instruction set, and the block.
    #[inline(always)]
    pub unsafe fn factors<S: Simd>(self) -> Factors<S> {
        // SAFETY: the caller's.
        unsafe { F::factors::<S>(self.tile) }
    }

    /// See [`Format::scale`].
    ///
    /// # Safety
    /// As [`SubBlock::factors`], which these are.
    #[inline(always)]
    pub unsafe fn scale<S: Simd>(self, factors: Factors<S>) -> S::F {
        // SAFETY: the caller's; `s` is `new`'s.
        unsafe { F::scale::<S>(self.tile, self.s, factors.scale) }
    }

    /// See [`Format::min`].
    ///
    /// # Safety
    /// As [`SubBlock::scale`].
    #[inline(always)]
    pub unsafe fn min<S: Simd>(self, factors: Factors<S>) -> S::F {
        // SAFETY: as above.
        unsafe { F::min::<S>(self.tile, self.s, factors.min) }
    }
}

impl<S: Simd, F: Format> Codes<S> for SubBlock<F> {
    #[inline(always)]
    fn in_memory(&self) -> bool {
        !F::STREAMED
    }

    #[inline(always)]
    unsafe fn word(&self, g: usize) -> S::W {
        // SAFETY: the caller's; the block and `s` are `new`'s.
        unsafe { F::word::<S>(self.tile, self.s, g) }
    }
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

/// Group `g` of 32 nibbles in four words: the low ones first.
#[inline(always)]
unsafe fn nibbles<S: Simd>(tile: *const u8, offset: usize, g: usize) -> S::W {
    // SAFETY: the caller's.
    unsafe { S::and(S::shr(words::<S>(tile, offset, g % 4), 4 * (g as u32 / 4)), S::splat_word(NIBBLES)) }
}

/// Adds the fifth bits to group `g` of the codes: bit `4 g + j` of `high` belongs to its byte `j`. The product copies the group's
/// four bits to distances of 7, which puts bit `j` at the bottom of byte `j`.
#[inline(always)]
unsafe fn add_fifth_bits<S: Simd>(codes: S::W, high: S::W, g: usize) -> S::W {
    // SAFETY: the caller's.
    unsafe {
        let four = S::and(S::shr(high, 4 * g as u32), S::splat_word(15));
        let spread = S::and(S::mul_words(four, S::splat_word(0x0020_4081)), S::splat_word(0x0101_0101));
        S::or(codes, S::shl(spread, 4))
    }
}

/// Scales, or minima, of sub-block `s` of Q4_K and Q5_K without their common factor ([`crate::quant`]'s `k_scale_min`, sixteen rows
/// at once).
#[inline(always)]
unsafe fn k_six_bits<S: Simd>(tile: *const u8, s: usize, min: bool) -> S::F {
    // SAFETY: the caller's.
    unsafe {
        let byte = |i: usize| S::load_u8(tile.add(LANES * (4 + i)));
        let own = if min { s + 4 } else { s };
        S::to_f32(if s < 4 {
            S::and(byte(own), S::splat_word(63))
        } else {
            let both = byte(s + 4);
            let low = if min { S::shr(both, 4) } else { S::and(both, S::splat_word(15)) };
            S::or(low, S::shl(S::shr(byte(own - 4), 6), 4))
        })
    }
}

/// Group `g` of 32 nibbles of eight words: the low ones in even sub-blocks, the high ones in odd ones.
#[inline(always)]
unsafe fn k_nibbles<S: Simd>(tile: *const u8, offset: usize, s: usize, g: usize) -> S::W {
    // SAFETY: the caller's.
    unsafe {
        let both = words::<S>(tile, offset, s / 2 * 8 + g);
        S::and(S::shr(both, 4 * (s as u32 % 2)), S::splat_word(NIBBLES))
    }
}

/// A format of these sizes, with what [`Format`] asks for of sub-block `s` of the block at `tile`.
macro_rules! format {
    (
        $name:ident, $block:expr, $bytes:expr, $sub:expr, $bits:expr, $zero:expr, |$S:ident, $tile:ident, $s:ident, $g:ident|
        word: $word:expr, factors: ($d:expr, $m:expr)
        $(, scale: |$scale_d:ident| $scale:expr)? $(, min: |$min_m:ident| $min:expr)?
    ) => {
        #[allow(non_camel_case_types, reason = "the names that everybody uses")]
        #[derive(Clone, Copy)]
        pub struct $name;
        // SAFETY: offsets are those of the format's fields.
        #[allow(unused_variables, reason = "many blocks are one sub-block")]
        unsafe impl Format for $name {
            const BLOCK: usize = $block;
            const BLOCK_BYTES: usize = $bytes;
            const SUB: usize = $sub;
            const BITS: u32 = $bits;
            const ZERO: Option<u32> = $zero;
            #[inline(always)]
            unsafe fn word<$S: Simd>($tile: *const u8, $s: usize, $g: usize) -> $S::W {
                // SAFETY: the caller's.
                unsafe { $word }
            }
            #[inline(always)]
            unsafe fn factors<$S: Simd>($tile: *const u8) -> Factors<$S> {
                // SAFETY: the caller's.
                unsafe { Factors { scale: $d, min: $m } }
            }
            $(
                #[inline(always)]
                unsafe fn scale<$S: Simd>($tile: *const u8, $s: usize, $scale_d: $S::F) -> $S::F {
                    // SAFETY: the caller's.
                    unsafe { $scale }
                }
            )?
            $(
                #[inline(always)]
                unsafe fn min<$S: Simd>($tile: *const u8, $s: usize, $min_m: $S::F) -> $S::F {
                    // SAFETY: the caller's.
                    unsafe { $min }
                }
            )?
        }
    };
}

format!(Q4_0, 32, 18, 32, 4, Some(3), |S, tile, s, g|
    word: nibbles::<S>(tile, 2, g),
    factors: (halves::<S>(tile, 0), S::splat(0.0))
);

format!(Q4_1, 32, 20, 32, 4, None, |S, tile, s, g|
    word: nibbles::<S>(tile, 4, g),
    factors: (halves::<S>(tile, 0), halves::<S>(tile, 2))
);

format!(Q5_0, 32, 22, 32, 5, Some(4), |S, tile, s, g|
    word: add_fifth_bits::<S>(nibbles::<S>(tile, 6, g), words::<S>(tile, 2, 0), g),
    factors: (halves::<S>(tile, 0), S::splat(0.0))
);

format!(Q5_1, 32, 24, 32, 5, None, |S, tile, s, g|
    word: add_fifth_bits::<S>(nibbles::<S>(tile, 8, g), words::<S>(tile, 4, 0), g),
    factors: (halves::<S>(tile, 0), halves::<S>(tile, 2))
);

format!(Q8_0, 32, 34, 32, 8, Some(7), |S, tile, s, g|
    word: S::xor(words::<S>(tile, 2, g), S::splat_word(0x8080_8080)),
    factors: (halves::<S>(tile, 0), S::splat(0.0))
);

format!(Q4_K, 256, 144, 32, 4, None, |S, tile, s, g|
    word: k_nibbles::<S>(tile, 16, s, g),
    factors: (halves::<S>(tile, 0), halves::<S>(tile, 2)),
    scale: |d| S::mul(d, k_six_bits::<S>(tile, s, false)),
    min: |m| times::<S>(S::mul(m, k_six_bits::<S>(tile, s, true)), -1.0)
);

format!(Q5_K, 256, 176, 32, 5, None, |S, tile, s, g|
    word: {
        let high = S::and(S::shr(words::<S>(tile, 16, g), s as u32), S::splat_word(0x0101_0101));
        S::or(k_nibbles::<S>(tile, 48, s, g), S::shl(high, 4))
    },
    factors: (halves::<S>(tile, 0), halves::<S>(tile, 2)),
    scale: |d| S::mul(d, k_six_bits::<S>(tile, s, false)),
    min: |m| times::<S>(S::mul(m, k_six_bits::<S>(tile, s, true)), -1.0)
);

format!(Q6_K, 256, 210, 16, 6, Some(5), |S, tile, s, g|
    word: {
        let (half, quarter, word) = (s / 8, s % 8 / 2, s % 2 * 4 + g);
        let low = words::<S>(tile, 0, half * 16 + quarter % 2 * 8 + word);
        let low = S::and(S::shr(low, 4 * (quarter as u32 / 2)), S::splat_word(NIBBLES));
        let high = S::shr(words::<S>(tile, 128, half * 8 + word), 2 * quarter as u32);
        S::or(low, S::shl(S::and(high, S::splat_word(0x0303_0303)), 4))
    },
    factors: (halves::<S>(tile, 208), S::splat(0.0)),
    scale: |d| S::mul(d, S::to_f32(S::load_i8(tile.add(LANES * (192 + s)))))
);

/// Sub-blocks of F decoded beforehand, one after the other: codes, scales, minima. For many rows of activations.
#[derive(Clone, Copy)]
pub struct Decoded<F>(PhantomData<F>);

// SAFETY: reads what `write` has written; the codes are F's.
unsafe impl<F: Format> Format for Decoded<F> {
    const BLOCK: usize = F::SUB;
    const BLOCK_BYTES: usize = F::SUB + if F::ZERO.is_none() { 8 } else { 4 };
    const SUB: usize = F::SUB;
    const BITS: u32 = F::BITS;
    const ZERO: Option<u32> = F::ZERO;
    const STREAMED: bool = false;

    #[inline(always)]
    unsafe fn word<S: Simd>(tile: *const u8, _: usize, g: usize) -> S::W {
        // SAFETY: the caller's.
        unsafe { S::load_words(tile.add(4 * LANES * g)) }
    }

    #[inline(always)]
    unsafe fn factors<S: Simd>(tile: *const u8) -> Factors<S> {
        let value = |i: usize| tile.wrapping_add(LANES * (F::SUB + 4 * i)).cast();
        // SAFETY: the caller's.
        unsafe {
            Factors { scale: S::load(value(0)), min: if F::ZERO.is_none() { S::load(value(1)) } else { S::splat(0.0) } }
        }
    }
}

impl<F: Format> Decoded<F> {
    /// Writes the factors of the sub-block at `out`.
    ///
    /// # Safety
    /// Needs the instruction set, and the sub-block.
    #[inline(always)]
    pub unsafe fn write_factors<S: Simd>(out: *mut u8, factors: Factors<S>) {
        // SAFETY: the caller's.
        unsafe {
            S::store(out.add(LANES * F::SUB).cast(), factors.scale);
            if F::ZERO.is_none() {
                S::store(out.add(LANES * (F::SUB + 4)).cast(), factors.min);
            }
        }
    }

    /// Decodes `blocks` of F's blocks at `tile` to `out`; SIGNED: codes that have a zero less that zero, as signed bytes.
    ///
    /// # Safety
    /// Needs the instruction set, the blocks, and room for `blocks * F::BLOCK / F::SUB` sub-blocks at `out`.
    #[inline(always)]
    pub unsafe fn write<S: Simd, const SIGNED: bool>(tile: *const u8, blocks: usize, mut out: *mut u8) {
        for block in 0..blocks {
            let tile = tile.wrapping_add(block * LANES * F::BLOCK_BYTES);
            // SAFETY: the caller's.
            let factors = unsafe { F::factors::<S>(tile) };
            for s in 0..F::BLOCK / F::SUB {
                // SAFETY: the caller's.
                unsafe {
                    let sub = SubBlock::<F>::new(tile, s);
                    for g in 0..F::SUB / 4 {
                        let mut word = Codes::<S>::word(&sub, g);
                        if let (true, Some(z)) = (SIGNED, F::ZERO) {
                            word = S::less_zero(word, z);
                        }
                        S::store_words(out.add(LANES * 4 * g), word);
                    }
                    let (scale, min) = (sub.scale::<S>(factors), sub.min::<S>(factors));
                    Self::write_factors::<S>(out, Factors { scale, min });
                    out = out.add(LANES * Self::BLOCK_BYTES);
                }
            }
        }
    }
}
