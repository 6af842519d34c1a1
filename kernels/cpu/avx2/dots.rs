//! Products of whole numbers without VNNI: `dots` of [`Simd`].
//!
//! Codes up to 7 bits go through `maddubs`, which adds two products in 16 bits: the fewer bits the codes have, the more such pairs are
//! added before they widen to 32. Codes of 8 bits would saturate: four rows multiply with each half of their bits, which takes three
//! quarters of the instructions, and fewer, which share too little of the halving, as 16 bits.
//!
//! What counts is the number of instructions: where two threads share a core, as on most virtual machines, both want the decoder.

use super::{Codes, Simd, W};
use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

/// `dots` of [`Simd`].
///
/// # Safety
/// Needs AVX2, the groups of codes, and those of the R rows, each `stride` after the other, at `x`.
#[inline(always)]
pub unsafe fn add<S: Simd<W = W>, const R: usize>(
    bits: u32,
    groups: Range<usize>,
    codes: &impl Codes<S>,
    x: *const i8,
    stride: usize,
    sums: &mut [W; R],
) {
    // SAFETY: the caller's.
    unsafe {
        if let Some(sums) = sums.as_mut_array::<4>() {
            if bits < 8 {
                return add_to_four::<S, 1>(bits, groups, codes, x, stride, sums);
            }
            add_to_four::<S, 1>(4, groups.clone(), &Nibbles::<_, 0>(*codes), x, stride, sums);
            return add_to_four::<S, 16>(4, groups, &Nibbles::<_, 4>(*codes), x, stride, sums);
        }
        add_to_half::<S, 0, R>(bits, groups.clone(), codes, x, stride, sums);
        add_to_half::<S, 1, R>(bits, groups, codes, x, stride, sums);
    }
}

/// `add_high` of [`Simd`]: a function of its own, so that what is seldom needed takes no registers of its caller's.
/// Few words have high parts: one after the other.
///
/// # Safety
/// As [`add`], for the groups whose bits are set in `words`.
#[cold]
#[inline(never)]
#[target_feature(enable = "avx2")]
pub unsafe fn add_high<S: Simd<W = W>, const R: usize>(
    bits: u32,
    mut words: u16,
    codes: &impl Codes<S>,
    x: *const i8,
    stride: usize,
    sums: &mut [W; R],
) {
    // SAFETY: the caller's.
    unsafe {
        if bits < 8
            && let Some(sums) = sums.as_mut_array::<4>()
        {
            while words != 0 {
                let mut parts = [[_mm256_setzero_si256(); 2]; 4];
                for _ in 0..fitting(bits).min(words.count_ones() as usize) {
                    let g = words.trailing_zeros() as usize;
                    add_short_to_four::<0>(codes.word(g), x.add(4 * g), stride, &mut parts);
                    words &= words - 1;
                }
                widen(parts, 256, sums);
            }
            return;
        }
        let mut tops = [[_mm256_setzero_si256(); 2]; R];
        while words != 0 {
            let g = words.trailing_zeros() as usize;
            add::<S, R>(bits, g..g + 1, codes, x, stride, &mut tops);
            words &= words - 1;
        }
        for (sums, tops) in sums.iter_mut().zip(tops) {
            for (sum, top) in sums.iter_mut().zip(tops) {
                *sum = _mm256_add_epi32(*sum, _mm256_slli_epi32::<8>(top));
            }
        }
    }
}

/// Four bits of each code, those above the first SHIFT.
#[derive(Clone, Copy)]
struct Nibbles<C, const SHIFT: i32>(C);

impl<S: Simd<W = W>, C: Codes<S>, const SHIFT: i32> Codes<S> for Nibbles<C, SHIFT> {
    #[inline(always)]
    fn in_memory(&self) -> bool {
        false
    }

    #[inline(always)]
    unsafe fn word(&self, g: usize) -> W {
        // SAFETY: the caller's.
        unsafe { self.0.word(g).map(|word| _mm256_and_si256(_mm256_srli_epi32::<SHIFT>(word), _mm256_set1_epi8(15))) }
    }
}

/// [`add`] for four rows and codes up to 7 bits, times FACTOR: what is loaded of a row serves both halves of the lanes.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn add_to_four<S: Simd<W = W>, const FACTOR: i16>(
    bits: u32,
    groups: Range<usize>,
    codes: &impl Codes<S>,
    x: *const i8,
    stride: usize,
    sums: &mut [W; 4],
) {
    // SAFETY: the caller's.
    unsafe {
        let fit = fitting(bits);
        let x = x.add(4 * groups.start);
        let mut parts = [[_mm256_setzero_si256(); 2]; 4];
        // Unrolled by hand: the compiler leaves a loop round assembly as it is.
        macro_rules! groups {
            ($($i:literal)*) => { $(if $i < groups.len() {
                let codes = codes.word(groups.start + $i);
                if $i % fit == 0 {
                    parts = short_of_four::<{ 4 * $i }>(codes, x, stride);
                } else {
                    add_short_to_four::<{ 4 * $i }>(codes, x, stride, &mut parts);
                }
                if ($i + 1) % fit == 0 || $i + 1 == groups.len() {
                    widen(parts, FACTOR, sums);
                }
            })* };
        }
        groups!(0 1 2 3 4 5 6 7);
    }
}

/// Adds pairs of 16 bits, times a factor, to sums of 32.
///
/// # Safety
/// Needs AVX2.
#[inline(always)]
unsafe fn widen<const R: usize>(parts: [W; R], factor: i16, sums: &mut [W; R]) {
    for (parts, sums) in parts.into_iter().zip(sums) {
        for (part, sum) in parts.into_iter().zip(sums) {
            // SAFETY: the caller's.
            *sum = unsafe { _mm256_add_epi32(*sum, _mm256_madd_epi16(part, _mm256_set1_epi16(factor))) };
        }
    }
}

/// Half H of the lanes of [`add`]: all rows of one half fit the registers, of both they do not.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn add_to_half<S: Simd<W = W>, const H: usize, const R: usize>(
    bits: u32,
    groups: Range<usize>,
    codes: &impl Codes<S>,
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
        let fit = fitting(bits);
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

/// Groups whose sums fit 16 bits: products are up to 2^bits * 2^7, and come in pairs.
fn fitting(bits: u32) -> usize {
    1 << (7 - bits)
}

/// Adds the products of codes up to 7 bits with a word of each row to pairs of 16 bits.
///
/// # Safety
/// Needs AVX2, and a word at `x` and at each `stride` after it.
#[inline(always)]
unsafe fn add_short<const R: usize>(c: __m256i, x: *const i8, stride: usize, sums: &mut [__m256i; R]) {
    // SAFETY: the caller's.
    unsafe {
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

/// [`add_short`] for four rows and both halves; the words of the rows are OFFSET after `x`.
///
/// # Safety
/// As there.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_short_to_four<const OFFSET: usize>(c: W, x: *const i8, stride: usize, sums: &mut [W; 4]) {
    #[rustfmt::skip] // A line is an instruction.
    macro_rules! row {
        ($x:literal, $low:literal, $high:literal) => { concat!(
            "vpbroadcastd {t}, dword ptr [", $x, " + {offset}]\n",
            "vpmaddubsw {u}, {c}, {t}\n",
            "vpmaddubsw {t}, {d}, {t}\n",
            "vpaddw ", $low, ", ", $low, ", {u}\n",
            "vpaddw ", $high, ", ", $high, ", {t}\n",
        ) };
    }
    let [[a0, b0], [a1, b1], [a2, b2], [a3, b3]] = sums;
    // SAFETY: the caller's.
    unsafe {
        asm!(
            row!("{x}", "{a0}", "{b0}"), row!("{x} + {stride}", "{a1}", "{b1}"),
            row!("{x} + 2 * {stride}", "{a2}", "{b2}"), row!("{x3}", "{a3}", "{b3}"),
            x = in(reg) x, stride = in(reg) stride, x3 = in(reg) x.add(3 * stride), c = in(ymm_reg) c[0], d = in(ymm_reg) c[1],
            a0 = inout(ymm_reg) *a0, a1 = inout(ymm_reg) *a1, a2 = inout(ymm_reg) *a2, a3 = inout(ymm_reg) *a3,
            b0 = inout(ymm_reg) *b0, b1 = inout(ymm_reg) *b1, b2 = inout(ymm_reg) *b2, b3 = inout(ymm_reg) *b3,
            t = out(ymm_reg) _, u = out(ymm_reg) _, offset = const OFFSET,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
}

/// The first products, to which [`add_short_to_four`] adds.
///
/// # Safety
/// As there.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn short_of_four<const OFFSET: usize>(c: W, x: *const i8, stride: usize) -> [W; 4] {
    #[rustfmt::skip] // A line is an instruction.
    macro_rules! row {
        ($x:literal, $low:literal, $high:literal) => { concat!(
            "vpbroadcastd ", $high, ", dword ptr [", $x, " + {offset}]\n",
            "vpmaddubsw ", $low, ", {c}, ", $high, "\n",
            "vpmaddubsw ", $high, ", {d}, ", $high, "\n",
        ) };
    }
    let (a0, a1, a2, a3, b0, b1, b2, b3);
    // SAFETY: the caller's.
    unsafe {
        asm!(
            row!("{x}", "{a0}", "{b0}"), row!("{x} + {stride}", "{a1}", "{b1}"),
            row!("{x} + 2 * {stride}", "{a2}", "{b2}"), row!("{x3}", "{a3}", "{b3}"),
            x = in(reg) x, stride = in(reg) stride, x3 = in(reg) x.add(3 * stride), c = in(ymm_reg) c[0], d = in(ymm_reg) c[1],
            a0 = out(ymm_reg) a0, a1 = out(ymm_reg) a1, a2 = out(ymm_reg) a2, a3 = out(ymm_reg) a3,
            b0 = out(ymm_reg) b0, b1 = out(ymm_reg) b1, b2 = out(ymm_reg) b2, b3 = out(ymm_reg) b3,
            offset = const OFFSET,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    [[a0, b0], [a1, b1], [a2, b2], [a3, b3]]
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
