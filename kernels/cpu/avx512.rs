//! Sixteen lanes in one register: AVX-512 F, BW, DQ, VL and VNNI; with BF16 or without.

use super::simd::{Codes, Kernel, Simd};
use std::arch::x86_64::*;
use std::ops::Range;

/// AVX-512; with `BF16` products of bf16 pairs are one instruction.
#[derive(Debug, Clone, Copy)]
pub struct Avx512<const BF16: bool>;

pub fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("bmi2")
}

/// # Safety
/// Needs [`is_available`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c,bmi2")]
pub unsafe fn enter<K: Kernel>(kernel: K) {
    kernel.run::<Avx512<false>>()
}

pub fn has_bf16() -> bool {
    is_available() && is_x86_feature_detected!("avx512bf16")
}

/// # Safety
/// Needs [`has_bf16`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c,bmi2")]
pub unsafe fn enter_bf16<K: Kernel>(kernel: K) {
    kernel.run::<Avx512<true>>()
}

// SAFETY of all methods: the caller vouches for the instruction set (the trait's contract) and for the pointers.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one argument for all, above")]
unsafe impl<const BF16: bool> Simd for Avx512<BF16> {
    const ROWS: usize = 8;
    const TILES: usize = 2;
    const UNROLLED: bool = true;
    const SUMS: usize = 16;
    type F = __m512;
    type W = __m512i;

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: __m512) {
        unsafe { _mm512_storeu_ps(p, x) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, x: __m512) {
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x)) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> __m512 {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, x: __m512) {
        unsafe {
            if BF16 {
                return _mm256_storeu_si256(p.cast(), std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x)));
            }
            let bits = _mm512_castps_si512(x);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
            // Rounding could carry a NaN over into a number.
            let nan = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
            let bits = _mm512_mask_blend_epi32(_mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x), rounded, nan);
            _mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(bits)));
        }
    }
    #[inline(always)]
    unsafe fn dot_bf16(sum: __m512, a: __m512i, b: __m512i) -> __m512 {
        unsafe {
            if BF16 {
                let pairs = |x| std::mem::transmute::<__m512i, __m512bh>(x);
                return _mm512_dpbf16_ps(sum, pairs(a), pairs(b));
            }
            let first = |x| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x));
            let second = |x| _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(0xffff_0000u32 as i32)));
            _mm512_fmadd_ps(second(a), second(b), _mm512_fmadd_ps(first(a), first(b), sum))
        }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn abs(a: __m512) -> __m512 {
        unsafe { _mm512_abs_ps(a) }
    }
    #[inline(always)]
    unsafe fn round(a: __m512) -> __m512 {
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn scale_by_pow2(a: __m512, n: __m512) -> __m512 {
        unsafe { _mm512_scalef_ps(a, n) }
    }
    #[inline(always)]
    unsafe fn select_range(from: usize, to: usize, a: __m512, b: __m512) -> __m512 {
        let mask = ((1u32 << to) - (1u32 << from)) as u16;
        unsafe { _mm512_mask_blend_ps(mask, b, a) }
    }
    #[inline(always)]
    unsafe fn sum(a: __m512) -> f32 {
        unsafe {
            let a = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            super::avx2::sum8(a)
        }
    }
    #[inline(always)]
    unsafe fn max_lane(a: __m512) -> f32 {
        unsafe { _mm512_reduce_max_ps(a) }
    }
    #[inline(always)]
    unsafe fn max_of_each<const R: usize>(vectors: [__m512; R]) -> __m512 {
        unsafe {
            if R == 1 {
                return _mm512_set1_ps(Self::max_lane(vectors[0]));
            }
            let eight = greatest_quarters(greatest_of_four(&vectors, 0), greatest_of_four(&vectors, 4));
            if R <= 8 {
                return greatest_quarters(eight, eight);
            }
            greatest_quarters(eight, greatest_quarters(greatest_of_four(&vectors, 8), greatest_of_four(&vectors, 12)))
        }
    }

    #[inline(always)]
    unsafe fn splat_word(x: u32) -> __m512i {
        unsafe { _mm512_set1_epi32(x as i32) }
    }
    #[inline(always)]
    unsafe fn load_words(p: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_words(p: *mut u8, a: __m512i) {
        unsafe { _mm512_storeu_si512(p.cast(), a) }
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> __m512i {
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> __m512i {
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn and(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn xor(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_xor_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn shl(a: __m512i, n: u32) -> __m512i {
        unsafe { _mm512_sll_epi32(a, _mm_cvtsi32_si128(n as i32)) }
    }
    #[inline(always)]
    unsafe fn shr(a: __m512i, n: u32) -> __m512i {
        unsafe { _mm512_srl_epi32(a, _mm_cvtsi32_si128(n as i32)) }
    }
    #[inline(always)]
    unsafe fn mul_words(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_mullo_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn from_bits(a: __m512i) -> __m512 {
        unsafe { _mm512_castsi512_ps(a) }
    }
    #[inline(always)]
    unsafe fn to_bits(a: __m512) -> __m512i {
        unsafe { _mm512_castps_si512(a) }
    }
    #[inline(always)]
    unsafe fn to_f32(a: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(a) }
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, a: __m512) {
        unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a))) }
    }
    #[inline(always)]
    unsafe fn add_words(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn less_zero(a: __m512i, z: u32) -> __m512i {
        unsafe { _mm512_sub_epi8(a, _mm512_set1_epi8((1u8 << z) as i8)) }
    }
    #[inline(always)]
    unsafe fn pack_i8(a: [__m512; 4]) -> __m512i {
        unsafe {
            let first = _mm512_packs_epi32(_mm512_cvtps_epi32(a[0]), _mm512_cvtps_epi32(a[1]));
            let second = _mm512_packs_epi32(_mm512_cvtps_epi32(a[2]), _mm512_cvtps_epi32(a[3]));
            // Packing works on 128-bit quarters: the words are back in order.
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            _mm512_permutexvar_epi32(order, _mm512_packs_epi16(first, second))
        }
    }
    #[inline(always)]
    unsafe fn split_i8(a: [__m512; 4]) -> (__m512i, __m512i) {
        unsafe {
            let first = _mm512_packs_epi32(_mm512_cvtps_epi32(a[0]), _mm512_cvtps_epi32(a[1]));
            let second = _mm512_packs_epi32(_mm512_cvtps_epi32(a[2]), _mm512_cvtps_epi32(a[3]));
            // 128 more than the number is 256 times the high part, and the low part and 128.
            let (more, byte) = (_mm512_set1_epi16(128), _mm512_set1_epi16(0xff));
            let (first, second) = (_mm512_add_epi16(first, more), _mm512_add_epi16(second, more));
            let low = _mm512_packus_epi16(_mm512_and_si512(first, byte), _mm512_and_si512(second, byte));
            let low = _mm512_xor_si512(low, _mm512_set1_epi8(-128));
            let high = _mm512_packs_epi16(_mm512_srai_epi16::<8>(first), _mm512_srai_epi16::<8>(second));
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            (_mm512_permutexvar_epi32(order, low), _mm512_permutexvar_epi32(order, high))
        }
    }
    #[inline(always)]
    unsafe fn sums_i8(a: __m512i) -> [i32; 4] {
        unsafe { sums_of_quarters(_mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), a)) }
    }
    #[inline(always)]
    unsafe fn sums_of_split(low: __m512i, high: __m512i) -> [i32; 4] {
        unsafe {
            let ones = _mm512_set1_epi8(1);
            let fours = _mm512_dpbusd_epi32(_mm512_setzero_si512(), ones, high);
            sums_of_quarters(_mm512_dpbusd_epi32(_mm512_slli_epi32::<8>(fours), ones, low))
        }
    }
    #[inline(always)]
    unsafe fn words_set(a: __m512i) -> u16 {
        unsafe { _mm512_test_epi32_mask(a, a) }
    }
    #[inline(always)]
    unsafe fn dots<const R: usize>(
        _bits: u32,
        groups: Range<usize>,
        codes: impl Codes<Self>,
        x: *const i8,
        stride: usize,
        mut sums: [__m512i; R],
    ) -> [__m512i; R] {
        unsafe {
            // A product waits for the one before it in its chain: few rows get several chains each.
            let chains = if R == 1 {
                4
            } else if R == 2 {
                2
            } else {
                1
            };
            let mut others = [[_mm512_setzero_si512(); R]; 3];
            for g in groups {
                for r in 0..R {
                    let x = _mm512_set1_epi32(x.add(stride * r + 4 * g).cast::<i32>().read_unaligned());
                    let sum = if g % chains == 0 { &mut sums[r] } else { &mut others[g % chains - 1][r] };
                    *sum = _mm512_dpbusd_epi32(*sum, codes.word(g), x);
                }
            }
            for other in others.iter().take(chains - 1) {
                for r in 0..R {
                    sums[r] = _mm512_add_epi32(sums[r], other[r]);
                }
            }
            sums
        }
    }
    #[inline(always)]
    unsafe fn dots_of_tiles<const T: usize, const R: usize>(
        bits: u32,
        groups: Range<usize>,
        codes: [impl Codes<Self>; T],
        x: *const i8,
        stride: usize,
        mut sums: [[__m512i; R]; T],
    ) -> [[__m512i; R]; T] {
        unsafe {
            if T == 1 {
                sums[0] = Self::dots::<R>(bits, groups, codes[0], x, stride, sums[0]);
                return sums;
            }
            for g in groups {
                for r in 0..R {
                    let x = _mm512_set1_epi32(x.add(stride * r + 4 * g).cast::<i32>().read_unaligned());
                    for t in 0..T {
                        sums[t][r] = _mm512_dpbusd_epi32(sums[t][r], codes[t].word(g), x);
                    }
                }
            }
            sums
        }
    }
}

/// Of four vectors from `first` on (the last one again, where there are no more) the greatest lane of each 128-bit quarter, in that
/// quarter, in order.
///
/// # Safety
/// Needs the instruction set, as the one below.
#[inline(always)]
unsafe fn greatest_of_four<const R: usize>(vectors: &[__m512; R], first: usize) -> __m512 {
    let at = |i: usize| (first + i).min(R - 1);
    // SAFETY: the caller's.
    unsafe {
        let (a, b, c, d) = (vectors[at(0)], vectors[at(1)], vectors[at(2)], vectors[at(3)]);
        let ab = _mm512_castps_pd(_mm512_max_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
        let cd = _mm512_castps_pd(_mm512_max_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d)));
        let (low, high) = (_mm512_unpacklo_pd(ab, cd), _mm512_unpackhi_pd(ab, cd));
        _mm512_max_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high))
    }
}

/// The greater of the quarters 0 and 1 of a, of its quarters 2 and 3, and of b's.
///
/// # Safety
/// As above.
#[inline(always)]
unsafe fn greatest_quarters(a: __m512, b: __m512) -> __m512 {
    // SAFETY: the caller's.
    unsafe { _mm512_max_ps(_mm512_shuffle_f32x4::<0b10_00_10_00>(a, b), _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b)) }
}

/// Sums of each 128-bit quarter's words.
///
/// # Safety
/// As above.
#[inline(always)]
unsafe fn sums_of_quarters(words: __m512i) -> [i32; 4] {
    // SAFETY: the caller's.
    unsafe {
        let pairs = _mm512_add_epi32(words, _mm512_shuffle_epi32::<0b10_11_00_01>(words));
        let sums = _mm512_add_epi32(pairs, _mm512_shuffle_epi32::<0b01_00_11_10>(pairs));
        let first = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
        std::mem::transmute(_mm512_castsi512_si128(_mm512_permutexvar_epi32(first, sums)))
    }
}
