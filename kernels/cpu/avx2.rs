//! Sixteen lanes in two registers: AVX2, FMA and F16C; with AVX-VNNI or without.

mod dots;
mod vnni;

use super::simd::{Codes, Kernel, Simd};
use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

/// AVX2; with `VNNI` products of bytes and their sums are one instruction.
#[derive(Debug, Clone, Copy)]
pub struct Avx2<const VNNI: bool>;

pub fn is_available() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("bmi2")
}

/// # Safety
/// Needs [`is_available`].
#[target_feature(enable = "avx2,fma,f16c,bmi2")]
pub unsafe fn enter<K: Kernel>(kernel: K) {
    kernel.run::<Avx2<false>>()
}

pub fn has_vnni() -> bool {
    is_available() && is_x86_feature_detected!("avxvnni")
}

/// # Safety
/// Needs [`has_vnni`].
#[target_feature(enable = "avx2,fma,f16c,bmi2,avxvnni")]
pub unsafe fn enter_vnni<K: Kernel>(kernel: K) {
    kernel.run::<Avx2<true>>()
}

/// Sum of eight lanes, halving: the same order as the other instruction sets.
///
/// # Safety
/// Needs AVX2.
#[inline(always)]
pub unsafe fn sum8(a: __m256) -> f32 {
    // SAFETY: the caller's.
    unsafe {
        let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
        let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
        _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)))
    }
}

/// `settled` of [`Simd`].
///
/// # Safety
/// Needs AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn settled([mut low, mut high]: F) -> F {
    // SAFETY: no instruction.
    unsafe { asm!("/* {0} {1} */", inout(ymm_reg) low, inout(ymm_reg) high, options(nomem, nostack, preserves_flags)) };
    [low, high]
}

type F = [__m256; 2];
type W = [__m256i; 2];

/// Applies an intrinsic to both halves.
macro_rules! both {
    ($f:ident, $a:expr) => {
        [$f($a[0]), $f($a[1])]
    };
    ($f:ident, $a:expr, $b:expr) => {
        [$f($a[0], $b[0]), $f($a[1], $b[1])]
    };
    ($f:ident, $a:expr, $b:expr, $c:expr) => {
        [$f($a[0], $b[0], $c[0]), $f($a[1], $b[1], $c[1])]
    };
}

// SAFETY of all methods: the caller vouches for the instruction set (the trait's contract) and for the pointers.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one argument for all, above")]
unsafe impl<const VNNI: bool> Simd for Avx2<VNNI> {
    const ROWS: usize = 4;
    const SUMS: usize = 6;
    type F = F;
    type W = W;

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> F {
        unsafe { [_mm256_set1_ps(x); 2] }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: F) {
        unsafe {
            _mm256_storeu_ps(p, x[0]);
            _mm256_storeu_ps(p.add(8), x[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> F {
        unsafe { [_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(8).cast()))] }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, x: F) {
        unsafe {
            _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[0]));
            _mm_storeu_si128(p.add(8).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[1]));
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> F {
        unsafe {
            let wide = [
                _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())),
                _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(8).cast())),
            ];
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide[0])),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide[1])),
            ]
        }
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        unsafe { both!(_mm256_add_ps, a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        unsafe { both!(_mm256_sub_ps, a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        unsafe { both!(_mm256_mul_ps, a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        unsafe { both!(_mm256_div_ps, a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        unsafe { both!(_mm256_fmadd_ps, a, b, c) }
    }
    #[inline(always)]
    unsafe fn settled(a: F) -> F {
        unsafe { settled(a) }
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        unsafe { both!(_mm256_max_ps, a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        unsafe { both!(_mm256_min_ps, a, b) }
    }
    #[inline(always)]
    unsafe fn abs(a: F) -> F {
        unsafe {
            let sign = [_mm256_set1_ps(-0.0); 2];
            both!(_mm256_andnot_ps, sign, a)
        }
    }
    #[inline(always)]
    unsafe fn round(a: F) -> F {
        unsafe {
            [
                _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a[0]),
                _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a[1]),
            ]
        }
    }
    #[inline(always)]
    unsafe fn scale_by_pow2(a: F, n: F) -> F {
        unsafe {
            let bias = [_mm256_set1_epi32(127); 2];
            let e = both!(_mm256_add_epi32, both!(_mm256_cvtps_epi32, n), bias);
            let pow2 = [
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(e[0])),
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(e[1])),
            ];
            both!(_mm256_mul_ps, a, pow2)
        }
    }
    #[inline(always)]
    unsafe fn select_range(from: usize, to: usize, a: F, b: F) -> F {
        unsafe {
            let index = [_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15)];
            let not_before = [_mm256_set1_epi32(from as i32 - 1); 2];
            let end = [_mm256_set1_epi32(to as i32); 2];
            let mask = both!(
                _mm256_and_si256,
                both!(_mm256_cmpgt_epi32, index, not_before),
                both!(_mm256_cmpgt_epi32, end, index)
            );
            both!(_mm256_blendv_ps, b, a, both!(_mm256_castsi256_ps, mask))
        }
    }
    #[inline(always)]
    unsafe fn sum(a: F) -> f32 {
        unsafe { sum8(_mm256_add_ps(a[0], a[1])) }
    }
    #[inline(always)]
    unsafe fn max_lane(a: F) -> f32 {
        unsafe {
            let a = _mm256_max_ps(a[0], a[1]);
            let a = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_max_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)))
        }
    }

    #[inline(always)]
    unsafe fn splat_word(x: u32) -> W {
        unsafe { [_mm256_set1_epi32(x as i32); 2] }
    }
    #[inline(always)]
    unsafe fn load_words(p: *const u8) -> W {
        unsafe { [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())] }
    }
    #[inline(always)]
    unsafe fn store_words(p: *mut u8, a: W) {
        unsafe {
            _mm256_storeu_si256(p.cast(), a[0]);
            _mm256_storeu_si256(p.add(32).cast(), a[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> W {
        unsafe {
            [_mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast())), _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.add(8).cast()))]
        }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> W {
        unsafe {
            [_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast())), _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.add(8).cast()))]
        }
    }
    #[inline(always)]
    unsafe fn and(a: W, b: W) -> W {
        unsafe { both!(_mm256_and_si256, a, b) }
    }
    #[inline(always)]
    unsafe fn or(a: W, b: W) -> W {
        unsafe { both!(_mm256_or_si256, a, b) }
    }
    #[inline(always)]
    unsafe fn xor(a: W, b: W) -> W {
        unsafe { both!(_mm256_xor_si256, a, b) }
    }
    #[inline(always)]
    unsafe fn shl(a: W, n: u32) -> W {
        unsafe {
            let n = [_mm_cvtsi32_si128(n as i32); 2];
            both!(_mm256_sll_epi32, a, n)
        }
    }
    #[inline(always)]
    unsafe fn shr(a: W, n: u32) -> W {
        unsafe {
            let n = [_mm_cvtsi32_si128(n as i32); 2];
            both!(_mm256_srl_epi32, a, n)
        }
    }
    #[inline(always)]
    unsafe fn mul_words(a: W, b: W) -> W {
        unsafe { both!(_mm256_mullo_epi32, a, b) }
    }
    #[inline(always)]
    unsafe fn from_bits(a: W) -> F {
        unsafe { both!(_mm256_castsi256_ps, a) }
    }
    #[inline(always)]
    unsafe fn to_bits(a: F) -> W {
        unsafe { both!(_mm256_castps_si256, a) }
    }
    #[inline(always)]
    unsafe fn to_f32(a: W) -> F {
        unsafe { both!(_mm256_cvtepi32_ps, a) }
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, a: F) {
        unsafe {
            let words = both!(_mm256_cvtps_epi32, a);
            // Packing works on 128-bit halves; the permutation puts the eight groups of four back in order.
            let shorts = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(words[0], words[1]));
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(shorts), _mm256_extracti128_si256::<1>(shorts));
            _mm_storeu_si128(p.cast(), bytes);
        }
    }
    #[inline(always)]
    unsafe fn add_words(a: W, b: W) -> W {
        unsafe { both!(_mm256_add_epi32, a, b) }
    }
    #[inline(always)]
    unsafe fn pack_i8(a: [F; 4]) -> W {
        unsafe {
            let mut halves = [_mm256_setzero_si256(); 2];
            for (h, half) in halves.iter_mut().enumerate() {
                let [w, x] = [both!(_mm256_cvtps_epi32, a[2 * h]), both!(_mm256_cvtps_epi32, a[2 * h + 1])];
                let bytes = _mm256_packs_epi16(_mm256_packs_epi32(w[0], w[1]), _mm256_packs_epi32(x[0], x[1]));
                // Packing works on 128-bit halves: the words are back in order.
                *half = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
            }
            halves
        }
    }
    #[inline(always)]
    unsafe fn split_i8(a: [F; 4]) -> (W, W) {
        unsafe {
            let (mut low, mut high) = ([_mm256_setzero_si256(); 2], [_mm256_setzero_si256(); 2]);
            for h in 0..2 {
                let [w, x] = [both!(_mm256_cvtps_epi32, a[2 * h]), both!(_mm256_cvtps_epi32, a[2 * h + 1])];
                // 128 more than the number is 256 times the high part, and the low part and 128.
                let (more, byte) = (_mm256_set1_epi16(128), _mm256_set1_epi16(0xff));
                let first = _mm256_add_epi16(_mm256_packs_epi32(w[0], w[1]), more);
                let second = _mm256_add_epi16(_mm256_packs_epi32(x[0], x[1]), more);
                let bytes = _mm256_packus_epi16(_mm256_and_si256(first, byte), _mm256_and_si256(second, byte));
                let bytes = _mm256_xor_si256(bytes, _mm256_set1_epi8(-128));
                let tops = _mm256_packs_epi16(_mm256_srai_epi16::<8>(first), _mm256_srai_epi16::<8>(second));
                let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
                low[h] = _mm256_permutevar8x32_epi32(bytes, order);
                high[h] = _mm256_permutevar8x32_epi32(tops, order);
            }
            (low, high)
        }
    }
    #[inline(always)]
    unsafe fn sums_i8(a: W) -> [i32; 4] {
        let mut sums = [0; 4];
        for h in 0..2 {
            unsafe {
                // As unsigned bytes each is 128 too much.
                let bytes = _mm256_xor_si256(a[h], _mm256_set1_epi8(-128));
                let eights = _mm256_sad_epu8(bytes, _mm256_setzero_si256());
                let both = _mm256_add_epi64(eights, _mm256_unpackhi_epi64(eights, eights));
                sums[2 * h] = _mm_cvtsi128_si32(_mm256_castsi256_si128(both)) - 16 * 128;
                sums[2 * h + 1] = _mm_cvtsi128_si32(_mm256_extracti128_si256::<1>(both)) - 16 * 128;
            }
        }
        sums
    }
    #[inline(always)]
    unsafe fn words_set(a: W) -> u16 {
        unsafe {
            let zeros = both!(_mm256_cmpeq_epi32, a, [_mm256_setzero_si256(); 2]);
            let zeros = both!(_mm256_movemask_ps, both!(_mm256_castsi256_ps, zeros));
            !(zeros[0] | zeros[1] << 8) as u16
        }
    }
    #[inline(always)]
    unsafe fn dots<const R: usize>(
        bits: u32,
        groups: Range<usize>,
        codes: impl Codes<Self>,
        x: *const i8,
        stride: usize,
        mut sums: [W; R],
    ) -> [W; R] {
        unsafe {
            if VNNI {
                vnni::add::<_, R>(groups, &codes, x, stride, &mut sums);
            } else {
                dots::add::<_, R>(bits, groups, &codes, x, stride, &mut sums);
            }
            sums
        }
    }
    #[inline(always)]
    unsafe fn add_high<const T: usize, const R: usize>(
        bits: u32,
        _groups: usize,
        words: u16,
        codes: [impl Codes<Self>; T],
        x: *const i8,
        stride: usize,
        mut sums: [[W; R]; T],
    ) -> [[W; R]; T] {
        for t in 0..T {
            // Copies: what has an address lies in memory all the time.
            let (codes, mut copy) = (codes[t], sums[t]);
            unsafe {
                if VNNI {
                    vnni::add_high::<_, R>(words, &codes, x, stride, &mut copy);
                } else {
                    dots::add_high::<_, R>(bits, words, &codes, x, stride, &mut copy);
                }
            }
            sums[t] = copy;
        }
        sums
    }
}
