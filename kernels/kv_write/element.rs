//! The element formats of the cache, as kernels read and write them.

use crate::cpu::{LANES, Simd};

/// An element format. With `SCALED`, elements are codes that a scale turns into numbers.
#[allow(clippy::missing_safety_doc, reason = "one contract: the instruction set, and sixteen elements at each pointer")]
pub(crate) trait KvElement {
    /// An element as it is stored.
    type Bits: Copy + Default;
    /// Whether each token's key and value has a scale; the 16 of a block follow its elements.
    const SCALED: bool = false;

    unsafe fn load<S: Simd>(p: *const Self::Bits) -> S::F;

    unsafe fn store<S: Simd>(p: *mut Self::Bits, x: S::F);
}

/// 32-bit floats.
pub(crate) struct KvF32;

impl KvElement for KvF32 {
    type Bits = f32;

    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const f32) -> S::F {
        // SAFETY: the caller's.
        unsafe { S::load(p) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(p: *mut f32, x: S::F) {
        // SAFETY: the caller's.
        unsafe { S::store(p, x) }
    }
}

/// IEEE half precision.
pub(crate) struct KvF16;

impl KvElement for KvF16 {
    type Bits = u16;

    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u16) -> S::F {
        // SAFETY: the caller's.
        unsafe { S::load_f16(p) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(p: *mut u16, x: S::F) {
        // SAFETY: the caller's.
        unsafe { S::store_f16(p, x) }
    }
}

/// The upper half of an f32.
pub(crate) struct KvBf16;

impl KvElement for KvBf16 {
    type Bits = u16;

    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u16) -> S::F {
        // SAFETY: the caller's.
        unsafe { S::load_bf16(p) }
    }

    /// To the nearest, ties to even. Lane by lane, which the compiler turns into vectors.
    #[inline(always)]
    unsafe fn store<S: Simd>(p: *mut u16, x: S::F) {
        let mut lanes = [0.0f32; LANES];
        // SAFETY: the caller's.
        unsafe {
            S::store(lanes.as_mut_ptr(), x);
            for (i, lane) in lanes.iter().enumerate() {
                let bits = lane.to_bits();
                let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
                // Rounding could carry a NaN over into a number.
                *p.add(i) = if lane.is_nan() { (bits >> 16) | 0x40 } else { rounded } as u16;
            }
        }
    }
}

/// Signed bytes with scales.
pub(crate) struct KvQ8;

impl KvElement for KvQ8 {
    type Bits = i8;
    const SCALED: bool = true;

    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const i8) -> S::F {
        // SAFETY: the caller's.
        unsafe { S::to_f32(S::load_i8(p.cast())) }
    }

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
