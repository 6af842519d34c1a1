//! Products of whole numbers: `dots` of [`Simd`](super::Simd).
//!
//! Codes up to 7 bits go through `maddubs`, which adds two products in 16 bits: the fewer bits the codes have, the more such pairs are
//! added before they widen to 32. Codes of 8 bits would saturate, and multiply as 16 bits.

use super::{Avx2, Codes, W};
use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

/// The products of half H of the lanes: all rows of one half fit the registers, of both they do not.
///
/// # Safety
/// Needs AVX2, the groups of codes, and those of the R rows, each `stride` after the other, at `x`.
#[inline(always)]
pub unsafe fn half<const H: usize, const R: usize>(
    bits: u32,
    groups: Range<usize>,
    codes: &impl Codes<Avx2>,
    x: *const i8,
    stride: usize,
    sums: &mut [W; R],
) {
    // SAFETY: the caller's.
    unsafe {
        let mut parts = [_mm256_setzero_si256(); R];
        if bits == 8 {
            for g in groups {
                add_wide(codes.word(g)[H], x.add(4 * g), stride, &mut parts);
            }
            for (part, sum) in parts.into_iter().zip(sums) {
                sum[H] = _mm256_add_epi32(sum[H], _mm256_srai_epi32::<8>(part));
            }
            return;
        }
        // Groups whose sums fit 16 bits: products are up to 2^bits * 2^7, and come in pairs.
        let fit = 1 << (7 - bits);
        for g in groups.clone() {
            add_short(codes.word(g)[H], x.add(4 * g), stride, &mut parts);
            if (g + 1 - groups.start).is_multiple_of(fit) || g + 1 == groups.end {
                for (part, sum) in parts.iter_mut().zip(&mut *sums) {
                    sum[H] = _mm256_add_epi32(sum[H], _mm256_madd_epi16(*part, _mm256_set1_epi16(1)));
                    *part = _mm256_setzero_si256();
                }
            }
        }
    }
}

/// Adds the products of codes up to 7 bits with a word of each row to pairs of 16 bits.
///
/// # Safety
/// Needs AVX2, and a word at `x` and at each `stride` after it.
#[inline(always)]
unsafe fn add_short<const R: usize>(c: __m256i, x: *const i8, stride: usize, sums: &mut [__m256i; R]) {
    // SAFETY: the caller's.
    unsafe {
        if let Some(sums) = sums.as_mut_array::<4>() {
            return add_short_to_four(c, x, stride, sums);
        }
        for (r, sum) in sums.iter_mut().enumerate() {
            *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(c, splat_word(x.add(stride * r))));
        }
    }
}

/// Adds 256 times the products of codes of 8 bits with a word of each row. `maddubs` saturates, so bytes become halves of words:
/// codes as they are, activations as the upper byte.
///
/// # Safety
/// As [`add_short`].
#[inline(always)]
unsafe fn add_wide<const R: usize>(c: __m256i, x: *const i8, stride: usize, sums: &mut [__m256i; R]) {
    // SAFETY: the caller's.
    unsafe {
        let upper = _mm256_set1_epi16(!0xff);
        if let Some(sums) = sums.as_mut_array::<4>() {
            let (even, odd) = (_mm256_andnot_si256(upper, c), _mm256_srli_epi16::<8>(c));
            return add_wide_to_four([even, odd, upper], x, stride, sums);
        }
        for (r, sum) in sums.iter_mut().enumerate() {
            add_wide_to_one(c, upper, x.add(stride * r), sum);
        }
    }
}

/// The word at `p`, eight times.
///
/// # Safety
/// Needs AVX2, and the word.
#[inline(always)]
unsafe fn splat_word(p: *const i8) -> __m256i {
    // SAFETY: the caller's.
    unsafe { _mm256_set1_epi32(p.cast::<i32>().read_unaligned()) }
}

// Of the same in intrinsics the compiler puts each row's products after the other's, and keeps in memory what rows share: it takes
// half as long again.

/// [`add_short`] for four rows.
///
/// # Safety
/// As there.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_short_to_four(c: __m256i, x: *const i8, stride: usize, sums: &mut [__m256i; 4]) {
    #[rustfmt::skip] // A line is an instruction.
    macro_rules! row {
        ($x:literal, $sum:literal) => { concat!(
            "vpbroadcastd {t}, dword ptr [", $x, "]\n",
            "vpmaddubsw {t}, {c}, {t}\n",
            "vpaddw ", $sum, ", ", $sum, ", {t}\n",
        ) };
    }
    let [s0, s1, s2, s3] = sums;
    // SAFETY: the caller's.
    unsafe {
        asm!(
            row!("{x}", "{s0}"), row!("{x} + {stride}", "{s1}"), row!("{x} + 2 * {stride}", "{s2}"), row!("{x3}", "{s3}"),
            x = in(reg) x, stride = in(reg) stride, x3 = in(reg) x.add(3 * stride), c = in(ymm_reg) c,
            s0 = inout(ymm_reg) *s0, s1 = inout(ymm_reg) *s1, s2 = inout(ymm_reg) *s2, s3 = inout(ymm_reg) *s3,
            t = out(ymm_reg) _,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
}

/// [`add_wide`] for four rows: codes of even and odd bytes, and the upper bytes' mask.
///
/// # Safety
/// As there.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_wide_to_four(codes: [__m256i; 3], x: *const i8, stride: usize, sums: &mut [__m256i; 4]) {
    #[rustfmt::skip] // A line is an instruction.
    macro_rules! row {
        ($x:literal, $sum:literal) => { concat!(
            "vpbroadcastd {t}, dword ptr [", $x, "]\n",
            "vpsllw {u}, {t}, 8\n",
            "vpand {t}, {t}, {upper}\n",
            "vpmaddwd {u}, {u}, {even}\n",
            "vpmaddwd {t}, {t}, {odd}\n",
            "vpaddd ", $sum, ", ", $sum, ", {u}\n",
            "vpaddd ", $sum, ", ", $sum, ", {t}\n",
        ) };
    }
    let ([even, odd, upper], [s0, s1, s2, s3]) = (codes, sums);
    // SAFETY: the caller's.
    unsafe {
        asm!(
            row!("{x}", "{s0}"), row!("{x} + {stride}", "{s1}"), row!("{x} + 2 * {stride}", "{s2}"), row!("{x3}", "{s3}"),
            x = in(reg) x, stride = in(reg) stride, x3 = in(reg) x.add(3 * stride),
            even = in(ymm_reg) even, odd = in(ymm_reg) odd, upper = in(ymm_reg) upper,
            s0 = inout(ymm_reg) *s0, s1 = inout(ymm_reg) *s1, s2 = inout(ymm_reg) *s2, s3 = inout(ymm_reg) *s3,
            t = out(ymm_reg) _, u = out(ymm_reg) _,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
}

/// [`add_wide`] for one row, and the upper bytes' mask. (The compiler would keep the halves of all codes for their products with high
/// parts of the activations, which are seldom needed: a store for each load.)
///
/// # Safety
/// As there.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_wide_to_one(c: __m256i, upper: __m256i, x: *const i8, sum: &mut __m256i) {
    // SAFETY: the caller's.
    unsafe {
        asm!(
            "vpbroadcastd {t}, dword ptr [{x}]",
            "vpandn {half}, {upper}, {c}",
            "vpsllw {u}, {t}, 8",
            "vpmaddwd {u}, {u}, {half}",
            "vpsrlw {half}, {c}, 8",
            "vpand {t}, {t}, {upper}",
            "vpmaddwd {t}, {t}, {half}",
            "vpaddd {sum}, {sum}, {u}",
            "vpaddd {sum}, {sum}, {t}",
            x = in(reg) x, c = in(ymm_reg) c, upper = in(ymm_reg) upper, sum = inout(ymm_reg) *sum,
            t = out(ymm_reg) _, u = out(ymm_reg) _, half = out(ymm_reg) _,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
}
