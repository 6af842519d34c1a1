//! Products of whole numbers by AVX-VNNI: `dots` of [`Simd`].

use super::{Codes, Simd, W};
use std::arch::x86_64::*;
use std::ops::Range;

/// `dots` of [`Simd`].
///
/// # Safety
/// Needs AVX-VNNI, the groups of codes, and those of the R rows, each `stride` after the other, at `x`.
#[inline(always)]
pub unsafe fn add<S: Simd<W = W>, const R: usize>(
    groups: Range<usize>,
    codes: &impl Codes<S>,
    x: *const i8,
    stride: usize,
    sums: &mut [W; R],
) {
    for g in groups {
        // SAFETY: the caller's.
        unsafe {
            let codes = codes.word(g);
            for (r, sums) in sums.iter_mut().enumerate() {
                let x = _mm256_set1_epi32(x.add(stride * r + 4 * g).cast::<i32>().read_unaligned());
                for (sum, codes) in sums.iter_mut().zip(codes) {
                    *sum = _mm256_dpbusd_avx_epi32(*sum, codes, x);
                }
            }
        }
    }
}

/// `add_high` of [`Simd`]: a function of its own, so that what is seldom needed takes no registers of its caller's.
///
/// # Safety
/// As [`add`], for the groups whose bits are set in `words`.
#[cold]
#[inline(never)]
#[target_feature(enable = "avx2,avxvnni")]
pub unsafe fn add_high<S: Simd<W = W>, const R: usize>(
    mut words: u16,
    codes: &impl Codes<S>,
    x: *const i8,
    stride: usize,
    sums: &mut [W; R],
) {
    let mut tops = [[_mm256_setzero_si256(); 2]; R];
    while words != 0 {
        let g = words.trailing_zeros() as usize;
        // SAFETY: the caller's.
        unsafe { add::<S, R>(g..g + 1, codes, x, stride, &mut tops) };
        words &= words - 1;
    }
    for (sums, tops) in sums.iter_mut().zip(tops) {
        for (sum, top) in sums.iter_mut().zip(tops) {
            *sum = _mm256_add_epi32(*sum, _mm256_slli_epi32::<8>(top));
        }
    }
}
