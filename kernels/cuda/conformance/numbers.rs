//! Bits and numbers of one lane.

use super::{Case, words};
use aieng_kernels::testing::Rng;
use half::{bf16, f16};

/// Floats whose rounding is delicate: ties, the ends of ranges, numbers below the normal ones.
const DELICATE: [f32; 20] = [
    0.0,
    -0.0,
    1.0,
    -1.0039063,   // halfway between two bf16
    1.0117188,    // the same, the even one above
    1.0004883,    // halfway between two f16
    -1.0014648,   // the same, the even one above
    65504.0,      // the greatest f16
    65519.996,    // the last that is rounded to it
    65520.0,      // the first that is not
    3.3895314e38, // the greatest bf16
    3.4028235e38, // rounded to infinity
    6.1035156e-5, // the least normal f16
    6.1e-5,       // below it
    5.9604645e-8, // the least f16
    2.9802322e-8, // half of it: a tie that goes to zero
    2.9802326e-8, // a little more
    -1e-40,       // below the normal f32
    f32::INFINITY,
    f32::NEG_INFINITY,
];

pub fn cases(rng: &mut Rng) -> Vec<Case> {
    let mut cases = bits(rng);
    cases.extend(conversions(rng));
    cases.extend(pairs(rng));
    cases.extend(approximations());
    cases
}

fn bits(rng: &mut Rng) -> Vec<Case> {
    let mut x = words(rng, 32);
    x[3] = 0;
    x[8] = 0x80000000;
    let fours = words(rng, 128);
    let at = |l: usize| x[l % 32];
    let lane = |kernel, f: &dyn Fn(usize) -> u32| Case::new(kernel, x.clone(), (0..32).map(f).collect());
    let logic = |f: fn(u32, u32, u32) -> u32| (0..32).map(move |l| f(at(l), at(l + 1), at(l + 2)));
    let tables = logic(|a, b, c| a & b | c).chain(logic(|a, b, c| a & b ^ c));
    // 0x1b: the bits 0, 1, 3 and 4 of the table, that is of (a, b, c) = 000, 001, 011 and 100.
    let tables = tables.chain(logic(|a, b, c| !a & !b & !c | !a & !b & c | !a & b & c | a & !b & !c));
    vec![
        lane("conform_byte_perm", &|l| permuted(at(l), at(l + 1), at(l + 2))),
        lane("conform_funnelshift_r", &|l| {
            let both = u64::from(at(l + 1)) << 32 | u64::from(at(l));
            (both >> ((l + 20) % 32)) as u32
        }),
        lane("conform_bit_counts", &|l| {
            let first = if at(l) == 0 { 0 } else { at(l).trailing_zeros() + 1 };
            at(l).count_ones() + 64 * first + 4096 * at(l).leading_zeros()
        }),
        Case::new("conform_lop3", x.clone(), tables.collect()),
        Case::new(
            "conform_load_streaming",
            fours.clone(),
            fours.chunks(4).flat_map(|x| [x[3], x[2], x[1], x[0]]).collect(),
        ),
    ]
}

fn permuted(x: u32, y: u32, selector: u32) -> u32 {
    let bytes = [x.to_le_bytes(), y.to_le_bytes()].concat();
    let pick = |i: u32| {
        let nibble = selector >> (4 * i) & 15;
        let byte = bytes[nibble as usize % 8];
        if nibble < 8 { byte } else { ((byte as i8) >> 7) as u8 }
    };
    u32::from_le_bytes([pick(0), pick(1), pick(2), pick(3)])
}

/// The delicate ones, and others of all magnitudes.
fn floats(rng: &mut Rng) -> Vec<f32> {
    let scale = |rng: &mut Rng| 2f32.powi(rng.below(60) as i32 - 30);
    let mut floats = DELICATE.to_vec();
    floats.extend((DELICATE.len()..32).map(|_| rng.float() * scale(rng)));
    floats
}

fn conversions(rng: &mut Rng) -> Vec<Case> {
    let x = floats(rng);
    let x_bits: Vec<u32> = x.iter().map(|x| x.to_bits()).collect();
    let halves: Vec<u32> = [0, 1, 0x3ff, 0x400, 0x7bff, 0x7c00, 0x8000, 0x8001, 0xfc00, 0x3c01]
        .into_iter()
        .chain((10..32).map(|_| rng.next() as u32 & 0xbbff)) // no NaN among them
        .collect();
    let to_bf16 = |x: f32| u32::from(bf16::from_f32(x).to_bits());
    let to_f16 = |x: f32| u32::from(f16::from_f32(x).to_bits());
    let lane = |kernel, f: &dyn Fn(usize) -> u32| Case::new(kernel, x_bits.clone(), (0..32).map(f).collect());
    let from = |kernel, f: fn(u16) -> f32| {
        Case::new(kernel, halves.clone(), halves.iter().map(|x| f(*x as u16).to_bits()).collect())
    };
    vec![
        lane("conform_to_bf16", &|l| to_bf16(x[l])),
        lane("conform_to_f16", &|l| to_f16(x[l])),
        lane("conform_pack_bf16", &|l| to_bf16(x[l]) | to_bf16(x[l ^ 1]) << 16),
        lane("conform_pack_f16", &|l| to_f16(x[l]) | to_f16(x[l ^ 1]) << 16),
        from("conform_from_bf16", |x| bf16::from_bits(x).to_f32()),
        from("conform_from_f16", |x| f16::from_bits(x).to_f32()),
    ]
}

/// The nearest bf16, or the even one of two.
fn nearest_bf16(x: f64) -> u32 {
    let guess = bf16::from_f32(x as f32).to_bits();
    let distance = |bits: u16| (f64::from(bf16::from_bits(bits).to_f32()) - x).abs();
    let better = |a: u16, b: u16| match distance(a).total_cmp(&distance(b)) {
        std::cmp::Ordering::Less => a,
        std::cmp::Ordering::Equal if a.is_multiple_of(2) => a,
        _ => b,
    };
    let beside = if guess & 0x7fff == 0 { guess + 1 } else { guess - 1 };
    u32::from(better(guess, better(guess + 1, beside)))
}

fn pairs(rng: &mut Rng) -> Vec<Case> {
    let half = |rng: &mut Rng| bf16::from_f32(rng.float() * 2f32.powi(rng.below(24) as i32 - 12));
    let mut pair = |_| u32::from(half(rng).to_bits()) | u32::from(half(rng).to_bits()) << 16;
    let x: Vec<u32> = (0..96).map(&mut pair).collect();
    let part = |word: u32, high: bool| bf16::from_bits((word >> if high { 16 } else { 0 }) as u16);
    // In f64 products of bf16 are exact, and their sums over this range of exponents too.
    let both = |f: &dyn Fn(bool) -> f64| [false, true].map(|high| nearest_bf16(f(high)));
    let join = |[low, high]: [u32; 2]| low | high << 16;
    let value = |i: usize, high| f64::from(part(x[i], high).to_f32());
    let fused = |l: usize| join(both(&|high| value(l, high) * value(32 + l, high) + value(64 + l, high)));
    let difference = |l: usize| join(both(&|high| value(l, high) - value(32 + l, high)));
    let halves = |l: usize| (part(x[l], false).to_f32() + 2.0 * part(x[l], true).to_f32()).to_bits();
    vec![
        Case::new("conform_bf16x2_fma", x.clone(), (0..32).map(fused).collect()),
        Case::new("conform_bf16x2_sub", x.clone(), (0..32).map(difference).collect()),
        Case::new("conform_bf16_halves", x.clone(), (0..32).map(halves).collect()),
    ]
}

/// Whether two floats are as near as the approximations promise: 2^-10.5 of the value at worst (tanh).
fn near(got: u32, expected: u32) -> bool {
    let (got, expected) = (f32::from_bits(got), f32::from_bits(expected));
    (got - expected).abs() <= expected.abs() * 7e-4
}

/// As above, for one that is good to some units in the last place.
fn very_near(got: u32, expected: u32) -> bool {
    let (got, expected) = (f32::from_bits(got), f32::from_bits(expected));
    (got - expected).abs() <= expected.abs() * 4e-7
}

fn approximations() -> Vec<Case> {
    let x: Vec<f32> = (0..32).map(|l| (l as f32 - 16.0) * 0.37).collect();
    let case = |kernel, f: fn(f32) -> f32, accepts| Case {
        accepts,
        ..Case::new(kernel, x.iter().map(|x| x.to_bits()).collect(), x.iter().map(|x| f(*x).to_bits()).collect())
    };
    vec![case("conform_exp2_approx", f32::exp2, very_near), case("conform_tanh_approx", f32::tanh, near)]
}
