//! The element formats of the cache, as kernels read and write them.

use crate::cpu::{LANES, Simd, exp2, exp2_for_bf16};
use std::ops::Range;

/// An element format. With `SCALED`, elements are codes that a scale turns into numbers.
#[allow(clippy::missing_safety_doc, reason = "one contract: the instruction set, and room for what is read or written")]
pub(crate) trait KvElement {
    /// An element as it is stored.
    type Bits: Copy + Default;
    /// Whether each token's key and value has a scale; the 16 of a block follow its elements.
    const SCALED: bool = false;
    /// Elements that a product takes at once: [`KvDType::pairing`](super::KvDType::pairing).
    const PAIRING: usize = 1;
    /// Sixteen lanes of `PAIRING` elements.
    type Vector<S: Simd>: Copy;

    /// The elements at `p`, `PAIRING` for each lane.
    unsafe fn load<S: Simd>(p: *const Self::Bits) -> Self::Vector<S>;

    /// `sum` plus the products of a lane's elements with those that `word` holds, as [`KvElement::store_words`] writes them.
    unsafe fn fma<S: Simd>(v: Self::Vector<S>, word: u32, sum: S::F) -> S::F;

    /// Of two elements in a lane the one that `second` says, the other as zero.
    unsafe fn one_of_pair<S: Simd>(v: Self::Vector<S>, _second: bool) -> Self::Vector<S> {
        v
    }

    /// Writes sixteen elements side by side.
    unsafe fn store<S: Simd>(p: *mut Self::Bits, x: S::F);

    /// Writes what products take in place of elements: `16 / PAIRING` words.
    #[inline(always)]
    unsafe fn store_words<S: Simd>(p: *mut u32, x: S::F) {
        // SAFETY: the caller's.
        unsafe { S::store(p.cast(), x) }
    }

    /// 2^x for `x <= 0`, as closely as products take it.
    #[inline(always)]
    unsafe fn exp2<S: Simd>(x: S::F) -> S::F {
        // SAFETY: the caller's.
        unsafe { exp2::<S>(x) }
    }

    /// The sum, in each lane some of it, of what [`KvElement::store_words`] made of vectors `blocks` of those from `words` on, if
    /// it rounds; else `exact`. May write zeros beside them, so that there are whole vectors of words.
    #[inline(always)]
    unsafe fn sum_words<S: Simd>(_words: *mut u32, _blocks: Range<usize>, exact: S::F) -> S::F {
        exact
    }
}

/// The part of a format whose products are those of f32.
macro_rules! products_in_f32 {
    ($bits:ty, |$p:ident, $S:ident| $load:expr) => {
        type Bits = $bits;
        type Vector<S: Simd> = S::F;

        #[inline(always)]
        unsafe fn load<$S: Simd>($p: *const $bits) -> $S::F {
            // SAFETY: the caller's.
            unsafe { $load }
        }

        #[inline(always)]
        unsafe fn fma<S: Simd>(v: S::F, word: u32, sum: S::F) -> S::F {
            // SAFETY: the caller's.
            unsafe { S::fma(v, S::splat(f32::from_bits(word)), sum) }
        }
    };
}

/// 32-bit floats.
pub(crate) struct KvF32;

impl KvElement for KvF32 {
    products_in_f32!(f32, |p, S| S::load(p));

    #[inline(always)]
    unsafe fn store<S: Simd>(p: *mut f32, x: S::F) {
        // SAFETY: the caller's.
        unsafe { S::store(p, x) }
    }
}

/// IEEE half precision.
pub(crate) struct KvF16;

impl KvElement for KvF16 {
    products_in_f32!(u16, |p, S| S::load_f16(p));

    #[inline(always)]
    unsafe fn store<S: Simd>(p: *mut u16, x: S::F) {
        // SAFETY: the caller's.
        unsafe { S::store_f16(p, x) }
    }
}

/// The upper half of an f32. Queries and weights meet it as bf16 too, two at once.
pub(crate) struct KvBf16;

impl KvElement for KvBf16 {
    type Bits = u16;
    type Vector<S: Simd> = S::W;
    const PAIRING: usize = 2;

    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u16) -> S::W {
        // SAFETY: the caller's.
        unsafe { S::load_words(p.cast()) }
    }

    #[inline(always)]
    unsafe fn fma<S: Simd>(v: S::W, word: u32, sum: S::F) -> S::F {
        // SAFETY: the caller's.
        unsafe { S::dot_bf16(sum, v, S::splat_word(word)) }
    }

    #[inline(always)]
    unsafe fn one_of_pair<S: Simd>(v: S::W, second: bool) -> S::W {
        // SAFETY: the caller's.
        unsafe { S::and(v, S::splat_word(if second { 0xffff_0000 } else { 0xffff })) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(p: *mut u16, x: S::F) {
        // SAFETY: the caller's.
        unsafe { S::store_bf16(p, x) }
    }

    #[inline(always)]
    unsafe fn store_words<S: Simd>(p: *mut u32, x: S::F) {
        // SAFETY: the caller's.
        unsafe { S::store_bf16(p.cast(), x) }
    }

    #[inline(always)]
    unsafe fn exp2<S: Simd>(x: S::F) -> S::F {
        // SAFETY: the caller's.
        unsafe { exp2_for_bf16::<S>(x) }
    }

    #[inline(always)]
    unsafe fn sum_words<S: Simd>(words: *mut u32, blocks: Range<usize>, _exact: S::F) -> S::F {
        /// 1 and 1.
        const ONES: u32 = 0x3f80_3f80;
        // SAFETY: the caller's.
        unsafe {
            let block = |b: usize| words.wrapping_add(b * LANES / 2);
            if blocks.start % 2 == 1 {
                S::store_bf16(block(blocks.start - 1).cast(), S::splat(0.0));
            }
            if blocks.end % 2 == 1 {
                S::store_bf16(block(blocks.end).cast(), S::splat(0.0));
            }
            let mut sum = S::splat(0.0);
            for pair in blocks.start / 2..blocks.end.div_ceil(2) {
                sum = S::dot_bf16(sum, S::load_words(block(2 * pair).cast()), S::splat_word(ONES));
            }
            sum
        }
    }
}

/// Signed bytes with scales.
pub(crate) struct KvQ8;

impl KvElement for KvQ8 {
    products_in_f32!(i8, |p, S| S::to_f32(S::load_i8(p.cast())));
    const SCALED: bool = true;

    /// Of numbers from -127 to 127.
    #[inline(always)]
    unsafe fn store<S: Simd>(p: *mut i8, x: S::F) {
        // SAFETY: the caller's.
        unsafe { S::store_i8(p, S::round(x)) }
    }
}

/// The scale that brings `x`, `dim` numbers, to codes from -127 to 127, and its inverse. What is no finite number makes
/// the scale NaN, so that it is not lost.
///
/// # Safety
/// Needs the instruction set; `dim` is a multiple of 16.
#[inline(always)]
pub(super) unsafe fn scale_of<S: Simd>(x: *const f32, dim: usize) -> (f32, f32) {
    // SAFETY: the caller's.
    unsafe {
        let (mut max, mut bad) = (S::splat(0.0), S::splat(0.0));
        for d in (0..dim).step_by(LANES) {
            let x = S::load(x.add(d));
            max = S::max(max, S::abs(x));
            bad = S::fma(x, S::splat(0.0), bad);
        }
        let max = S::max_lane(max);
        (max / 127.0 + S::sum(bad), if max > 0.0 { 127.0 / max } else { 0.0 })
    }
}
