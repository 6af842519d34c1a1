//! Shuffles, votes, match, reduce, barriers, atomics.

use super::{Case, words};
use aieng_kernels::testing::Rng;
use std::array::from_fn;

const ODD_MASK: u32 = 1 << 1 | 1 << 2 | 1 << 5 | 1 << 7 | 1 << 11 | 1 << 30;

pub fn cases(rng: &mut Rng) -> Vec<Case> {
    let mut cases = shuffles(rng);
    cases.extend(votes(rng));
    cases.extend(barriers(rng));
    cases
}

/// A kernel whose lane `l` gets `f(x, l)`.
fn warp(kernel: &'static str, x: [u32; 32], f: impl Fn(&[u32; 32], usize) -> u32) -> Case {
    Case::new(kernel, x.to_vec(), (0..32).map(|l| f(&x, l)).collect())
}

fn shuffles(rng: &mut Rng) -> Vec<Case> {
    let x: [u32; 32] = from_fn(|_| rng.next() as u32);
    let small = |x: &[u32; 32]| x.map(|x| (x % 1000) as f32);
    vec![
        warp("conform_shfl", x, |x, l| x[(7 * l + 3) % 32]),
        warp("conform_shfl_wraps", x, |x, l| x[(l + 64 - 40) % 32]),
        warp("conform_shfl_width8", x, |x, l| x[l / 8 * 8 + 3 * l % 8]),
        warp("conform_shfl_xor", x, |x, l| x[l ^ 21]),
        // Out of reach are only the segments behind.
        warp("conform_shfl_xor_width8", x, |x, l| if (l ^ 12) / 8 > l / 8 { x[l] } else { x[l ^ 12] }),
        warp("conform_shfl_down", x, |x, l| if l + 3 < 32 { x[l + 3] } else { x[l] }),
        warp("conform_shfl_down_width16", x, |x, l| if l % 16 + 5 < 16 { x[l + 5] } else { x[l] }),
        warp("conform_shfl_up", x, |x, l| if l >= 3 { x[l - 3] } else { x[l] }),
        warp("conform_shfl_up_width8", x, |x, l| if l % 8 >= 3 { x[l - 3] } else { x[l] }),
        warp("conform_shfl_float", x, |x, l| x[l ^ 16]),
        warp("conform_warp_sum", x, |x, _| small(x).iter().sum::<f32>().to_bits()),
        warp("conform_warp_max", x, |x, _| small(x).iter().fold(0.0f32, |m, x| m.max(*x)).to_bits()),
        warp("conform_shfl_odd_mask", x, |x, l| match l {
            30 => x[1],
            l if ODD_MASK >> l & 1 == 1 => x[30],
            _ => 0,
        }),
        warp("conform_shfl_two_masks", x, |x, l| if l % 2 == 1 { x[l ^ 2] } else { x[l ^ 4] }),
    ]
}

fn votes(rng: &mut Rng) -> Vec<Case> {
    let x: [u32; 32] = from_fn(|_| rng.next() as u32);
    let lanes = |holds: &dyn Fn(usize) -> bool| (0..32).filter(|l| holds(*l)).map(|l| 1u32 << l).sum::<u32>();
    let in_mask = |l: usize| ODD_MASK >> l & 1 == 1;
    vec![
        warp("conform_ballot", x, |x, _| lanes(&|l| x[l] % 2 == 1)),
        warp("conform_ballot_odd_mask", x, |x, l| if in_mask(l) { lanes(&|l| in_mask(l) && x[l] % 2 == 1) } else { 0 }),
        warp("conform_any_all", x, |_, _| 1 + 4),
        warp("conform_match_any", x, |x, l| lanes(&|m| x[m] % 5 == x[l] % 5)),
        warp("conform_match_any_odd_mask", x, |x, l| match in_mask(l) {
            true => lanes(&|m| in_mask(m) && x[m] % 2 == x[l] % 2),
            false => 0,
        }),
        warp("conform_reduce_add", x, |x, _| x.iter().fold(0, |s, x| s.wrapping_add(*x))),
        warp("conform_reduce_max", x, |x, _| *x.iter().max().unwrap()),
        warp("conform_reduce_max_signed", x, |x, _| x.map(u32::cast_signed).into_iter().max().unwrap().cast_unsigned()),
        warp("conform_reduce_min_signed", x, |x, _| x.map(u32::cast_signed).into_iter().min().unwrap().cast_unsigned()),
        warp("conform_reduce_min_odd_mask", x, |x, l| match in_mask(l) {
            true => (0..32).filter(|l| in_mask(*l)).map(|l| x[l]).min().unwrap(),
            false => 0,
        }),
    ]
}

fn barriers(rng: &mut Rng) -> Vec<Case> {
    let x = words(rng, 256);
    let neighbours = |round: usize, t: usize| x[(t + 33 + round) % 256].wrapping_add(round as u32);
    let exchanged = (0..3).flat_map(|round| (0..256).map(move |t| neighbours(round, t))).collect();
    let produced = (1..=6).flat_map(|round| x[..64].iter().rev().map(move |x| x.wrapping_mul(round))).collect();
    let turned = (0..32).map(|l| x[(31 - l + 5) % 32]).collect();
    let filled = (0..7).flat_map(|round| (32..128).map(move |t| (t, round)));
    let filled = filled.map(|(t, round)| x[(t + 9) % 32].wrapping_add(round)).collect();
    vec![
        Case { block: 256, ..Case::new("conform_syncthreads", x.clone(), exchanged) },
        Case::new("conform_syncwarp", x[..32].to_vec(), turned),
        Case { block: 128, ..Case::new("conform_named_barriers", x[..64].to_vec(), produced) },
        Case { block: 128, hopper: true, ..Case::new("conform_mbarriers", x[..32].to_vec(), filled) },
        atomics(&x),
        last_block(&x),
    ]
}

fn atomics(x: &[u32]) -> Case {
    let n = x.len() as u32;
    let signed = |x: &u32| x.cast_signed();
    let mut expected = vec![
        n,
        *x.iter().max().unwrap(),
        0,
        x.iter().map(signed).max().unwrap().max(0).cast_unsigned(),
        x.iter().map(signed).min().unwrap().min(0).cast_unsigned(),
        n % 7,
        77,
        0,
        1,
    ];
    expected.extend(vec![1; x.len()]);
    Case { grid: 4, block: n / 4, ..Case::new("conform_atomics", x.to_vec(), expected) }
}

fn last_block(x: &[u32]) -> Case {
    let sum = |x: &[u32]| x.iter().fold(0u32, |s, x| s.wrapping_add(*x));
    let mut expected = vec![0, sum(x)];
    expected.extend(x.chunks(32).map(sum));
    Case { grid: x.len() as u32 / 32, block: 64, ..Case::new("conform_last_block", x.to_vec(), expected) }
}
