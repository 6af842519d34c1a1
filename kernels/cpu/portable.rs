//! Sixteen lanes in plain Rust: for machines without AVX2, and to check the others.

use super::simd::{Codes, LANES, Simd};
use half::{bf16, f16};
use std::ops::Range;

/// Plain Rust.
#[derive(Debug, Clone, Copy)]
pub struct Portable;

type F = [f32; LANES];
type W = [u32; LANES];

#[inline(always)]
fn map2<A: Copy, B: Copy, R: Copy + Default>(a: [A; LANES], b: [B; LANES], f: impl Fn(A, B) -> R) -> [R; LANES] {
    let mut r = [R::default(); LANES];
    for i in 0..LANES {
        r[i] = f(a[i], b[i]);
    }
    r
}

#[inline(always)]
fn map<A: Copy, R: Copy + Default>(a: [A; LANES], f: impl Fn(A) -> R) -> [R; LANES] {
    map2(a, a, |x, _| f(x))
}

// SAFETY: needs no instruction set beyond the target's; pointers are used as the contract says.
unsafe impl Simd for Portable {
    const ROWS: usize = 4;
    const SUMS: usize = 6;
    type F = F;
    type W = W;

    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
    #[inline(always)]
    unsafe fn splat(x: f32) -> F {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        // SAFETY: the caller's; an array has its element's layout, and the read may be unaligned.
        unsafe { p.cast::<F>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: F) {
        // SAFETY: as in `load`.
        unsafe { p.cast::<F>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> F {
        // SAFETY: as in `load`.
        map(unsafe { p.cast::<[u16; LANES]>().read_unaligned() }, |h| f16::from_bits(h).to_f32())
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, x: F) {
        // SAFETY: as in `load`.
        unsafe { p.cast::<[u16; LANES]>().write_unaligned(map(x, |x| f16::from_f32(x).to_bits())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> F {
        // SAFETY: as in `load`.
        map(unsafe { p.cast::<[u16; LANES]>().read_unaligned() }, |h| bf16::from_bits(h).to_f32())
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        map2(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        map2(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        map2(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        map2(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        // f32::mul_add would call a library function for each lane where the target lacks the instruction.
        let mut r = c;
        for i in 0..LANES {
            r[i] += a[i] * b[i];
        }
        r
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        map2(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        map2(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn abs(a: F) -> F {
        map(a, f32::abs)
    }
    #[inline(always)]
    unsafe fn round(a: F) -> F {
        map(a, f32::round_ties_even)
    }
    #[inline(always)]
    unsafe fn scale_by_pow2(a: F, n: F) -> F {
        map2(a, n, |a, n| a * f32::from_bits(((n as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn select_range(from: usize, to: usize, a: F, b: F) -> F {
        let mut r = b;
        for i in 0..LANES {
            if from <= i && i < to {
                r[i] = a[i];
            }
        }
        r
    }
    #[inline(always)]
    unsafe fn sum(mut a: F) -> f32 {
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                a[i] += a[i + half];
            }
            half /= 2;
        }
        a[0]
    }
    #[inline(always)]
    unsafe fn max_lane(a: F) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, |m, x| if m > x { m } else { x })
    }

    #[inline(always)]
    unsafe fn splat_word(x: u32) -> W {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load_words(p: *const u8) -> W {
        // SAFETY: as in `load`.
        map(unsafe { p.cast::<[[u8; 4]; LANES]>().read_unaligned() }, u32::from_le_bytes)
    }
    #[inline(always)]
    unsafe fn store_words(p: *mut u8, a: W) {
        // SAFETY: as in `load`.
        unsafe { p.cast::<[[u8; 4]; LANES]>().write_unaligned(map(a, u32::to_le_bytes)) }
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> W {
        // SAFETY: as in `load`.
        map(unsafe { p.cast::<[u8; LANES]>().read_unaligned() }, u32::from)
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> W {
        // SAFETY: as in `load`.
        map(unsafe { p.cast::<[i8; LANES]>().read_unaligned() }, |x| i32::from(x) as u32)
    }
    #[inline(always)]
    unsafe fn and(a: W, b: W) -> W {
        map2(a, b, |a, b| a & b)
    }
    #[inline(always)]
    unsafe fn or(a: W, b: W) -> W {
        map2(a, b, |a, b| a | b)
    }
    #[inline(always)]
    unsafe fn xor(a: W, b: W) -> W {
        map2(a, b, |a, b| a ^ b)
    }
    #[inline(always)]
    unsafe fn shl(a: W, n: u32) -> W {
        map(a, |a| a << n)
    }
    #[inline(always)]
    unsafe fn shr(a: W, n: u32) -> W {
        map(a, |a| a >> n)
    }
    #[inline(always)]
    unsafe fn mul_words(a: W, b: W) -> W {
        map2(a, b, u32::wrapping_mul)
    }
    #[inline(always)]
    unsafe fn from_bits(a: W) -> F {
        map(a, f32::from_bits)
    }
    #[inline(always)]
    unsafe fn to_bits(a: F) -> W {
        map(a, f32::to_bits)
    }
    #[inline(always)]
    unsafe fn to_f32(a: W) -> F {
        map(a, |a| a as i32 as f32)
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, a: F) {
        // SAFETY: as in `load`.
        unsafe { p.cast::<[i8; LANES]>().write_unaligned(map(a, |x| x as i8)) }
    }
    #[inline(always)]
    unsafe fn add_words(a: W, b: W) -> W {
        map2(a, b, u32::wrapping_add)
    }
    #[inline(always)]
    unsafe fn pack_i8(a: [F; 4]) -> W {
        std::array::from_fn(|w| {
            u32::from_le_bytes(std::array::from_fn(|i| a[w / 4][w % 4 * 4 + i].round_ties_even() as i8 as u8))
        })
    }
    #[inline(always)]
    unsafe fn split_i8(a: [F; 4]) -> (W, W) {
        let more = |w: usize, i: usize| a[w / 4][w % 4 * 4 + i].round_ties_even() as i32 + 128;
        let words = |byte: &dyn Fn(i32) -> u8| -> W {
            std::array::from_fn(|w| u32::from_le_bytes(std::array::from_fn(|i| byte(more(w, i)))))
        };
        (words(&|more| more as u8 ^ 128), words(&|more| (more >> 8) as u8))
    }
    #[inline(always)]
    unsafe fn sums_i8(a: W) -> [i32; 4] {
        std::array::from_fn(|q| {
            a[4 * q..4 * q + 4].iter().flat_map(|w| w.to_le_bytes()).map(|b| i32::from(b as i8)).sum()
        })
    }
    #[inline(always)]
    unsafe fn words_set(a: W) -> u16 {
        a.iter().enumerate().fold(0, |set, (i, w)| set | u16::from(*w != 0) << i)
    }
    #[inline(always)]
    unsafe fn dots<const R: usize>(
        _bits: u32,
        groups: Range<usize>,
        codes: impl Codes<Self>,
        x: *const i8,
        stride: usize,
        mut sums: [W; R],
    ) -> [W; R] {
        for g in groups {
            // SAFETY: the caller's.
            let codes = unsafe { codes.word(g) };
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the caller's: 4 * R * groups bytes are there.
                let x = unsafe { x.add(stride * r + 4 * g).cast::<[i8; 4]>().read_unaligned() };
                for i in 0..LANES {
                    let c = codes[i].to_le_bytes();
                    let dot: i32 = (0..4).map(|j| i32::from(c[j]) * i32::from(x[j])).sum();
                    sums[i] = sums[i].wrapping_add(dot as u32);
                }
            }
        }
        sums
    }
}
