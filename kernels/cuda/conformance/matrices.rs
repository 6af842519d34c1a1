//! ldmatrix, mma.sync, wgmma: the PTX ISA's layouts. All numbers are small integers, so that sums are exact in any order.

use super::{Case, words};
use aieng_kernels::testing::Rng;
use half::{bf16, f16};

pub fn cases(rng: &mut Rng) -> Vec<Case> {
    let mut cases = loads(rng);
    cases.push(floats(rng, "conform_mma_bf16", |x| bf16::from_f32(x).to_bits()));
    cases.push(floats(rng, "conform_mma_f16", |x| f16::from_f32(x).to_bits()));
    cases.push(bytes(rng));
    cases.extend(
        [("conform_wgmma_n32", 32), ("conform_wgmma_n64", 64), ("conform_wgmma_n128", 128)]
            .map(|(kernel, columns)| warpgroup(rng, kernel, columns)),
    );
    cases
}

/// Lane `l` names the row that begins at input word `4 (5 l % 32)`; lane `l / 8`'s eight name matrix `l / 8`.
fn loads(rng: &mut Rng) -> Vec<Case> {
    let input = words(rng, 128);
    let halves: Vec<u32> = input.iter().flat_map(|w| [w & 0xffff, w >> 16]).collect();
    let element = |matrix: usize, row: usize, column: usize| {
        let lane = 8 * matrix + row;
        halves[8 * (5 * lane % 32) + column]
    };
    // Each lane holds the elements (l / 4, 2 (l % 4)) and the next, or, transposed, those across.
    let register = |l: usize, matrix: usize, transposed: bool| {
        let (row, column) = (l / 4, l % 4 * 2);
        match transposed {
            false => element(matrix, row, column) | element(matrix, row, column + 1) << 16,
            true => element(matrix, column, row) | element(matrix, column + 1, row) << 16,
        }
    };
    let case = |kernel, count: usize, transposed| {
        let registers = (0..32).flat_map(|l| (0..count).map(move |m| (l, m)));
        let expected = registers.map(|(l, m)| register(l, m, transposed)).collect();
        Case { shared: 32 * 48, ..Case::new(kernel, input.clone(), expected) }
    };
    vec![
        case("conform_ldmatrix_x4", 4, false),
        case("conform_ldmatrix_x4_trans", 4, true),
        case("conform_ldmatrix_x2", 2, false),
        case("conform_ldmatrix_x2_trans", 2, true),
    ]
}

fn small(rng: &mut Rng, n: usize) -> Vec<i32> {
    (0..n).map(|_| rng.below(17) as i32 - 8).collect()
}

/// Row and column of a lane's element `i` of C, in m16n8.
fn place_in_c(lane: usize, i: usize) -> (usize, usize) {
    let row = if i < 2 { lane / 4 } else { lane / 4 + 8 };
    (row, lane % 4 * 2 + i % 2)
}

/// m16n8k16: element `i` of a lane's eight of A and four of B.
fn floats(rng: &mut Rng, kernel: &'static str, encode: fn(f32) -> u16) -> Case {
    let (a, b, c) = (small(rng, 16 * 16), small(rng, 16 * 8), small(rng, 16 * 8));
    let pair = |x: [i32; 2]| u32::from(encode(x[0] as f32)) | u32::from(encode(x[1] as f32)) << 16;
    let (mut input, mut expected) = (Vec::new(), Vec::new());
    for lane in 0..32 {
        let (group, thread) = (lane / 4, lane % 4);
        let of_a = |i: usize| {
            let row = if i < 2 || (4..6).contains(&i) { group } else { group + 8 };
            let column = thread * 2 + i % 2 + if i < 4 { 0 } else { 8 };
            a[row * 16 + column]
        };
        let of_b = |i: usize| {
            let row = thread * 2 + i % 2 + if i < 2 { 0 } else { 8 };
            b[row * 8 + group]
        };
        input.extend((0..4).map(|r| pair([of_a(2 * r), of_a(2 * r + 1)])));
        input.extend((0..2).map(|r| pair([of_b(2 * r), of_b(2 * r + 1)])));
        for (row, column) in (0..4).map(|i| place_in_c(lane, i)) {
            input.push((c[row * 8 + column] as f32).to_bits());
            let product: i32 = (0..16).map(|k| a[row * 16 + k] * b[k * 8 + column]).sum();
            expected.push(((c[row * 8 + column] + product) as f32).to_bits());
        }
    }
    Case::new(kernel, input, expected)
}

/// m16n8k32 of bytes: element `i` of a lane's sixteen of A and eight of B.
fn bytes(rng: &mut Rng) -> Case {
    let mut any = |n: usize| (0..n).map(|_| rng.next() as i8).collect::<Vec<i8>>();
    let (a, b) = (any(16 * 32), any(32 * 8));
    let c = small(rng, 16 * 8);
    let four = |f: &dyn Fn(usize) -> i8, first: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| f(first + i) as u8));
    let (mut input, mut expected) = (Vec::new(), Vec::new());
    for lane in 0..32 {
        let (group, thread) = (lane / 4, lane % 4);
        let of_a = |i: usize| {
            let row = if i < 4 || (8..12).contains(&i) { group } else { group + 8 };
            let column = thread * 4 + i % 4 + if i < 8 { 0 } else { 16 };
            a[row * 32 + column]
        };
        let of_b = |i: usize| {
            let row = thread * 4 + i % 4 + if i < 4 { 0 } else { 16 };
            b[row * 8 + group]
        };
        input.extend((0..4).map(|r| four(&of_a, 4 * r)));
        input.extend((0..2).map(|r| four(&of_b, 4 * r)));
        for (row, column) in (0..4).map(|i| place_in_c(lane, i)) {
            input.push(c[row * 8 + column].cast_unsigned());
            let product = (0..32).map(|k| i32::from(a[row * 32 + k]) * i32::from(b[k * 8 + column]));
            expected.push((c[row * 8 + column] + product.sum::<i32>()).cast_unsigned());
        }
    }
    Case::new("conform_mma_s8", input, expected)
}

/// D = 1 + A B', with 64 columns of A and B: warp `w` has rows `16 w` on, laid out as m16n8's are, eight columns after eight.
fn warpgroup(rng: &mut Rng, kernel: &'static str, columns: usize) -> Case {
    const K: usize = 64;
    let (a, b) = (small(rng, 64 * K), small(rng, columns * K));
    let half = |x: &i32| u32::from(bf16::from_f32(*x as f32).to_bits());
    let input = [&a[..], &b[..]].concat().chunks(2).map(|x| half(&x[0]) | half(&x[1]) << 16).collect();
    let mut expected = Vec::new();
    for t in 0..128 {
        for i in 0..columns / 2 {
            let row = t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8;
            let column = i / 4 * 8 + t % 4 * 2 + i % 2;
            let product: i32 = (0..K).map(|k| a[row * K + k] * b[column * K + k]).sum();
            expected.push(((1 + product) as f32).to_bits());
        }
    }
    let shared = ((64 + columns) * K * 2) as u32;
    Case { block: 128, shared, hopper: true, ..Case::new(kernel, input, expected) }
}
