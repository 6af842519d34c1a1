//! Sixteen lanes: what every kernel is written in. One algorithm, one implementation of [`Simd`] per instruction set.

use std::ops::Range;

/// Lanes of a vector: f32, i32 or four bytes each.
pub const LANES: usize = 16;

/// A kernel's parameters. `run` is its body; it and all it calls must be `#[inline(always)]`, so that it is compiled
/// with the instruction set of the function it is inlined into. Closures cannot be: one that contains vector
/// instructions turns each of them into a call (20 times slower).
pub trait Kernel {
    /// Whether it computes with bf16. If not, AVX-512 with BF16 runs what is compiled for AVX-512.
    const BF16: bool = true;
    /// Whether it multiplies bytes. If not, AVX-VNNI runs what is compiled for AVX2.
    const INT8: bool = false;

    /// Runs the kernel.
    fn run<S: Simd>(self);
}

/// Operations on sixteen lanes. `F` holds f32; `W` holds 32-bit words: i32, u32 or four packed bytes, as the operation
/// says.
///
/// # Safety
/// Every method needs the instruction set of the implementing type. Methods with pointers read or write sixteen
/// elements there, of any alignment.
#[allow(clippy::missing_safety_doc, reason = "one contract, stated above")]
pub unsafe trait Simd: Copy + 'static {
    /// Rows of activations that a matrix kernel packs as one group, and whose sums with a tile it holds in registers.
    const ROWS: usize;
    /// Tiles whose sums with `ROWS / TILES` rows it holds in registers instead, for many rows: what it loads of the activations
    /// then serves more products.
    const TILES: usize = 1;
    /// Whether a matrix kernel for several rows unrolls a K-quant's block of weights, as that for one row does everywhere: shifts and
    /// offsets are then constants. AVX-512 saves up to half of the instructions (Q6_K times 4 rows), AVX2 takes 40% longer.
    const UNROLLED: bool = false;
    /// Vectors of sums that an attention kernel holds in registers, beside what it adds to them.
    const SUMS: usize;
    /// Sixteen f32.
    type F: Copy;
    /// Sixteen 32-bit words.
    type W: Copy;

    /// Asks for the cache line at `p`, which may be any address.
    unsafe fn prefetch(p: *const u8);
    unsafe fn splat(x: f32) -> Self::F;
    unsafe fn load(p: *const f32) -> Self::F;
    unsafe fn store(p: *mut f32, x: Self::F);
    unsafe fn load_f16(p: *const u16) -> Self::F;
    unsafe fn store_f16(p: *mut u16, x: Self::F);
    unsafe fn load_bf16(p: *const u16) -> Self::F;
    /// To the nearest, ties to even.
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, x: Self::F) {
        let mut lanes = [0.0f32; LANES];
        // SAFETY: the caller's.
        unsafe {
            Self::store(lanes.as_mut_ptr(), x);
            for (i, lane) in lanes.iter().enumerate() {
                let bits = lane.to_bits();
                let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
                // Rounding could carry a NaN over into a number.
                *p.add(i) = if lane.is_nan() { (bits >> 16) | 0x40 } else { rounded } as u16;
            }
        }
    }
    /// `sum + a₀ b₀ + a₁ b₁`, where each word of `a` and `b` holds two bf16, the first in its lower half.
    #[inline(always)]
    unsafe fn dot_bf16(sum: Self::F, a: Self::W, b: Self::W) -> Self::F {
        // SAFETY: the caller's.
        unsafe {
            let upper = Self::splat_word(0xffff_0000);
            let first = Self::fma(Self::from_bits(Self::shl(a, 16)), Self::from_bits(Self::shl(b, 16)), sum);
            Self::fma(Self::from_bits(Self::and(a, upper)), Self::from_bits(Self::and(b, upper)), first)
        }
    }
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once except in [`super::Portable`].
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a`, which is computed here: else the compiler may put that off to where it is used, past branches, and keep in memory what
    /// it is computed from.
    #[inline(always)]
    unsafe fn settled(a: Self::F) -> Self::F {
        a
    }
    /// The greater; `b` where either is NaN.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// The smaller; `b` where either is NaN.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn abs(a: Self::F) -> Self::F;
    /// To the nearest whole number, ties to even.
    unsafe fn round(a: Self::F) -> Self::F;
    /// `a * 2^n` for whole `n` from -126 to 127.
    unsafe fn scale_by_pow2(a: Self::F, n: Self::F) -> Self::F;
    /// Lanes `from..to` of `a`, the others of `b`.
    unsafe fn select_range(from: usize, to: usize, a: Self::F, b: Self::F) -> Self::F;
    /// Sum of all lanes, in one fixed order.
    unsafe fn sum(a: Self::F) -> f32;
    /// Greatest lane.
    unsafe fn max_lane(a: Self::F) -> f32;
    /// Greatest lane of each of up to 16 vectors, in the lane of the vector's number; other lanes hold some number.
    #[inline(always)]
    unsafe fn max_of_each<const R: usize>(vectors: [Self::F; R]) -> Self::F {
        // SAFETY: the caller's.
        unsafe {
            if R == 1 {
                return Self::splat(Self::max_lane(vectors[0]));
            }
            let mut lanes = [0.0; LANES];
            for r in 0..R {
                lanes[r] = Self::max_lane(vectors[r]);
            }
            Self::load(lanes.as_ptr())
        }
    }

    unsafe fn splat_word(x: u32) -> Self::W;
    /// 64 bytes.
    unsafe fn load_words(p: *const u8) -> Self::W;
    /// 64 bytes.
    unsafe fn store_words(p: *mut u8, a: Self::W);
    /// 16 bytes, each zero-extended to a word.
    unsafe fn load_u8(p: *const u8) -> Self::W;
    /// 16 bytes, each sign-extended to a word.
    unsafe fn load_i8(p: *const u8) -> Self::W;
    unsafe fn and(a: Self::W, b: Self::W) -> Self::W;
    unsafe fn or(a: Self::W, b: Self::W) -> Self::W;
    unsafe fn xor(a: Self::W, b: Self::W) -> Self::W;
    unsafe fn shl(a: Self::W, n: u32) -> Self::W;
    unsafe fn shr(a: Self::W, n: u32) -> Self::W;
    /// Low 32 bits of the product.
    unsafe fn mul_words(a: Self::W, b: Self::W) -> Self::W;
    /// Words as the f32 that they are the bits of.
    unsafe fn from_bits(a: Self::W) -> Self::F;
    /// The bits of f32.
    unsafe fn to_bits(a: Self::F) -> Self::W;
    /// Signed words to f32.
    unsafe fn to_f32(a: Self::W) -> Self::F;
    /// f32 holding whole numbers from -128 to 127, to signed bytes.
    unsafe fn store_i8(p: *mut i8, a: Self::F);
    unsafe fn add_words(a: Self::W, b: Self::W) -> Self::W;
    /// Unsigned bytes below `2^(z + 1)` less `2^z`: signed bytes.
    #[inline(always)]
    unsafe fn less_zero(a: Self::W, z: u32) -> Self::W {
        // What is added to a byte does not make it overflow, and 128 goes with its highest bit.
        // SAFETY: the caller's.
        unsafe {
            let sum = Self::add_words(a, Self::splat_word((128 - (1 << z)) * 0x0101_0101));
            Self::xor(sum, Self::splat_word(0x8080_8080))
        }
    }
    /// f32 that round to whole numbers from -128 to 127, ties to even: as 64 signed bytes.
    unsafe fn pack_i8(a: [Self::F; 4]) -> Self::W;
    /// f32 that round to whole numbers from -32639 to 32639, ties to even: as `low + 256 high`, both 64 signed bytes.
    unsafe fn split_i8(a: [Self::F; 4]) -> (Self::W, Self::W);
    /// Exact sums of the first 16 signed bytes, of the next 16, and so on.
    unsafe fn sums_i8(a: Self::W) -> [i32; 4];
    /// The same of `low + 256 high`.
    #[inline(always)]
    unsafe fn sums_of_split(low: Self::W, high: Self::W) -> [i32; 4] {
        // SAFETY: the caller's.
        let (low, high) = unsafe { (Self::sums_i8(low), Self::sums_i8(high)) };
        std::array::from_fn(|i| low[i] + 256 * high[i])
    }
    /// A bit for each word that is not zero, the first at the bottom.
    unsafe fn words_set(a: Self::W) -> u16;
    /// To each lane of `sums[r]` the exact sum over `g` in `groups` and `j < 4` of the unsigned bytes `codes[g].j`, below
    /// `2^bits`, times the signed bytes `x[stride r + 4 g + j]`. There are at most 8 groups.
    unsafe fn dots<const R: usize>(
        bits: u32,
        groups: Range<usize>,
        codes: impl Codes<Self>,
        x: *const i8,
        stride: usize,
        sums: [Self::W; R],
    ) -> [Self::W; R];
    /// The same for the codes of T tiles, all with the same `x`.
    #[inline(always)]
    unsafe fn dots_of_tiles<const T: usize, const R: usize>(
        bits: u32,
        groups: Range<usize>,
        codes: [impl Codes<Self>; T],
        x: *const i8,
        stride: usize,
        mut sums: [[Self::W; R]; T],
    ) -> [[Self::W; R]; T] {
        for t in 0..T {
            // SAFETY: the caller's.
            sums[t] = unsafe { Self::dots::<R>(bits, groups.clone(), codes[t], x, stride, sums[t]) };
        }
        sums
    }
    /// Adds 256 times the products of those of the first `groups` groups whose bits are set in `words`; `x` is zero in the others.
    #[inline(always)]
    unsafe fn add_high<const T: usize, const R: usize>(
        bits: u32,
        groups: usize,
        mut words: u16,
        codes: [impl Codes<Self>; T],
        x: *const i8,
        stride: usize,
        mut sums: [[Self::W; R]; T],
    ) -> [[Self::W; R]; T] {
        // SAFETY: the caller's.
        unsafe {
            let mut tops = [[Self::splat_word(0); R]; T];
            if codes[0].in_memory() {
                while words != 0 {
                    let g = words.trailing_zeros() as usize;
                    tops = Self::dots_of_tiles::<T, R>(bits, g..g + 1, codes, x, stride, tops);
                    words &= words - 1;
                }
            } else {
                // To decode words by their numbers takes longer than to decode all.
                tops = Self::dots_of_tiles::<T, R>(bits, 0..groups, codes, x, stride, tops);
            }
            for (sums, tops) in sums.iter_mut().zip(tops) {
                for (sum, top) in sums.iter_mut().zip(tops) {
                    *sum = Self::add_words(*sum, Self::shl(top, 8));
                }
            }
            sums
        }
    }
}

/// Words of codes, four to a lane. Each is made where it is asked for, and takes no registers before.
pub trait Codes<S: Simd>: Copy {
    /// Whether words only have to be loaded.
    fn in_memory(&self) -> bool;
    /// # Safety
    /// Needs the instruction set; `g` is below 8.
    unsafe fn word(&self, g: usize) -> S::W;
}

/// e^x, within 2 units in the last place; 0 is never returned (the smallest result is about 1e-38).
///
/// Range reduction to r = x - n ln 2 and a polynomial of degree 6 (Cephes' expf).
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
pub unsafe fn exp<S: Simd>(x: S::F) -> S::F {
    // SAFETY: the caller's.
    unsafe {
        let x = S::min(S::splat(88.37), S::max(S::splat(-87.33), x));
        let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        let r = S::fma(n, S::splat(-0.693_359_4), x);
        let r = S::fma(n, S::splat(2.121_944_4e-4), r);
        let mut p = S::splat(1.987_569_1e-4);
        for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5, 1.0, 1.0] {
            p = S::fma(p, r, S::splat(c));
        }
        S::scale_by_pow2(p, n)
    }
}

/// 2^x for x below 127, within 2 units in the last place; exactly 0 up to -127, exactly 1 for 0.
///
/// # Safety
/// As [`Simd`].
#[allow(clippy::approx_constant, reason = "the best coefficient is not quite ln 2")]
#[inline(always)]
pub unsafe fn exp2<S: Simd>(x: S::F) -> S::F {
    // The greatest relative error is 1.1e-7.
    // SAFETY: the caller's.
    unsafe { exp2_by::<S, _>(x, [1.326_472e-3, 9.671_513e-3, 5.550_733_6e-2, 2.402_224_2e-1, 6.931_47e-1]) }
}

/// The same within 1.1e-4, for what will be rounded to bf16, by up to 2e-3.
///
/// # Safety
/// As [`Simd`].
#[allow(clippy::approx_constant, reason = "the best coefficient is not quite ln 2")]
#[inline(always)]
pub unsafe fn exp2_for_bf16<S: Simd>(x: S::F) -> S::F {
    // SAFETY: the caller's.
    unsafe { exp2_by::<S, _>(x, [5.500_893_3e-2, 2.422_109_7e-1, 6.932_829e-1]) }
}

/// 2^x with a polynomial of the fraction whose coefficients are these, from the highest one, and 1: minimax of relative error. That
/// to round and to scale is to add bits spares those units that multiply: in AVX-512 the instructions that do it take two cycles
/// of theirs.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
unsafe fn exp2_by<S: Simd, const N: usize>(x: S::F, coefficients: [f32; N]) -> S::F {
    // A number's lowest bits are the whole number that was added to it.
    const ROUND: f32 = 12_582_912.0;
    // SAFETY: the caller's.
    unsafe {
        let x = S::max(S::splat(-127.0), x);
        let rounded = S::add(x, S::splat(ROUND));
        let f = S::sub(x, S::sub(rounded, S::splat(ROUND)));
        let mut p = S::splat(coefficients[0]);
        for c in &coefficients[1..] {
            p = S::fma(p, f, S::splat(*c));
        }
        p = S::fma(p, f, S::splat(1.0));
        // 1 has exponent 127, so that at -127 no bit is left.
        S::from_bits(S::add_words(S::to_bits(p), S::shl(S::to_bits(rounded), 23)))
    }
}

/// 1 / (1 + e^-x).
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
pub unsafe fn sigmoid<S: Simd>(x: S::F) -> S::F {
    // SAFETY: the caller's.
    unsafe {
        let e = exp::<S>(S::sub(S::splat(0.0), x));
        S::div(S::splat(1.0), S::add(S::splat(1.0), e))
    }
}

/// `p`, but the compiler cannot know: what was loaded from it is loaded again, and takes no register meanwhile.
#[inline(always)]
pub fn opaque<T>(mut p: *const T) -> *const T {
    // SAFETY: no instruction.
    unsafe { std::arch::asm!("/* {p} */", p = inout(reg) p, options(readonly, nostack, preserves_flags)) };
    p
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Isa;

    struct Exp2<'a> {
        x: &'a [f32; LANES],
        exact: &'a mut [f32; LANES],
        for_bf16: &'a mut [f32; LANES],
    }

    impl Kernel for Exp2<'_> {
        #[inline(always)]
        fn run<S: Simd>(self) {
            // SAFETY: Isa::run vouches for the instruction set.
            unsafe {
                let x = S::load(self.x.as_ptr());
                S::store(self.exact.as_mut_ptr(), exp2::<S>(x));
                S::store(self.for_bf16.as_mut_ptr(), exp2_for_bf16::<S>(x));
            }
        }
    }

    struct Splits<'a> {
        x: &'a [[f32; LANES]; 4],
        parts: &'a mut [[i8; 64]; 2],
        sums: &'a mut [i32; 4],
    }

    impl Kernel for Splits<'_> {
        #[inline(always)]
        fn run<S: Simd>(self) {
            // SAFETY: Isa::run vouches for the instruction set.
            unsafe {
                let x = self.x;
                let codes =
                    [S::load(x[0].as_ptr()), S::load(x[1].as_ptr()), S::load(x[2].as_ptr()), S::load(x[3].as_ptr())];
                let (low, high) = S::split_i8(codes);
                S::store_words(self.parts[0].as_mut_ptr().cast(), low);
                S::store_words(self.parts[1].as_mut_ptr().cast(), high);
                *self.sums = S::sums_of_split(low, high);
            }
        }
    }

    #[test]
    fn whole_numbers_are_split_into_bytes() {
        const MOST: i32 = 127 * 257;
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            // Each between two whole numbers, half the time as far from both.
            for first in (-2 * MOST..2 * MOST).step_by(64) {
                let x: [[f32; LANES]; 4] = std::array::from_fn(|q| {
                    std::array::from_fn(|i| (first + (LANES * q + i) as i32).min(2 * MOST) as f32 / 2.0)
                });
                let (mut parts, mut sums) = ([[0; 64]; 2], [0; 4]);
                isa.run(Splits { x: &x, parts: &mut parts, sums: &mut sums });
                let whole: Vec<i32> = x.iter().flatten().map(|x| x.round_ties_even() as i32).collect();
                let split: Vec<i32> = (0..64).map(|i| i32::from(parts[0][i]) + 256 * i32::from(parts[1][i])).collect();
                assert_eq!(split, whole, "{}", isa.name());
                assert_eq!(
                    sums.to_vec(),
                    whole.chunks(16).map(|q| q.iter().sum()).collect::<Vec<i32>>(),
                    "{}",
                    isa.name()
                );
            }
        }
    }

    struct MaxOfEach<'a, const R: usize>(&'a [[f32; LANES]; R], &'a mut [f32; LANES]);

    impl<const R: usize> Kernel for MaxOfEach<'_, R> {
        #[inline(always)]
        fn run<S: Simd>(self) {
            // SAFETY: Isa::run vouches for the instruction set.
            unsafe {
                let mut vectors = [S::splat(0.0); R];
                for (vector, values) in vectors.iter_mut().zip(self.0) {
                    *vector = S::load(values.as_ptr());
                }
                S::store(self.1.as_mut_ptr(), S::max_of_each(vectors));
            }
        }
    }

    fn check_max_of_each<const R: usize>() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            for greatest in 0..LANES {
                let of = |r: usize, i: usize| {
                    if i == (greatest + 3 * r) % LANES { r as f32 } else { -((i + r) as f32) - 1.0 }
                };
                let vectors: [[f32; LANES]; R] = std::array::from_fn(|r| std::array::from_fn(|i| of(r, i)));
                let mut max = [f32::NAN; LANES];
                isa.run(MaxOfEach(&vectors, &mut max));
                assert_eq!(max[..R], std::array::from_fn::<f32, R, _>(|r| r as f32), "{}, of {R}", isa.name());
            }
        }
    }

    #[test]
    fn max_of_each_is_in_the_vectors_order() {
        check_max_of_each::<1>();
        check_max_of_each::<3>();
        check_max_of_each::<6>();
        check_max_of_each::<8>();
        check_max_of_each::<16>();
    }

    /// The greatest score must weigh exactly 1, and what is masked exactly 0.
    #[test]
    fn exp2_is_exact_at_its_ends_and_close_between() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let of = |x: [f32; LANES]| {
                let (mut exact, mut for_bf16) = ([f32::NAN; LANES], [f32::NAN; LANES]);
                isa.run(Exp2 { x: &x, exact: &mut exact, for_bf16: &mut for_bf16 });
                [(exact, 2.5e-7), (for_bf16, 1.1e-4)]
            };
            let ends = std::array::from_fn(|i| [0.0, -127.0, -128.5, f32::MIN, f32::NEG_INFINITY, f32::NAN][i.min(5)]);
            for (ends, _) in of(ends) {
                assert_eq!(ends[..5].iter().map(|x| x.to_bits()).collect::<Vec<_>>(), [1f32.to_bits(), 0, 0, 0, 0]);
                assert!(ends[5].is_nan());
            }
            for step in 0..8000 {
                let x = std::array::from_fn(|i| -126.0 + step as f32 / 63.0 + i as f32 / 1021.0);
                for (got, bound) in of(x) {
                    for (x, y) in x.into_iter().zip(got) {
                        let want = f64::from(x).exp2();
                        assert!(
                            (f64::from(y) - want).abs() <= bound * want,
                            "{}: 2^{x} is {y}, not {want}",
                            isa.name()
                        );
                    }
                }
            }
        }
    }
}
