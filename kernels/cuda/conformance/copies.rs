//! cp.async, TMA.

use super::{Case, bytes, is_hopper, words};
use crate::testing::gpus;
use crate::{DevicePtr, Gpu};
use aieng_kernels::testing::Rng;

const THREADS: usize = 64;

pub fn cases(rng: &mut Rng) -> Vec<Case> {
    let x = words(rng, 5 * THREADS * 4);
    let one = &x[..THREADS * 4];
    let sixteens = |x: &[u32]| x.chunks(4).map(<[u32]>::to_vec).collect::<Vec<_>>();
    let mut turned = sixteens(one);
    turned.rotate_left(7);
    let some = |(t, x): (usize, Vec<u32>)| if t % 3 == 1 { vec![0; 4] } else { x };
    let holed = sixteens(one).into_iter().enumerate().flat_map(some).collect();
    let case = |kernel, input: &[u32], expected| Case {
        block: THREADS as u32,
        shared: 4 * input.len() as u32,
        ..Case::new(kernel, input.to_vec(), expected)
    };
    vec![
        case("conform_cp_async", one, turned.concat()),
        case("conform_cp_async_groups", &x, x.clone()),
        case("conform_cp_async_or_zero", one, holed),
    ]
}

/// The matrix behind a tensor map, in halves, and the box of a load.
const WIDTH: usize = 72;
const HEIGHT: usize = 40;
const BOX: [u32; 2] = [64, 16];
const ROW_BYTES: usize = 160;

#[test]
fn a_box_lands_swizzled_with_zeros_beyond_the_edge() {
    let mut rng = Rng::new(12);
    let x = words(&mut rng, HEIGHT * ROW_BYTES / 4);
    let half = |row: usize, column: usize| {
        let inside = row < HEIGHT && column < WIDTH;
        if inside { x[row * ROW_BYTES / 4 + column / 2] >> (column % 2 * 16) & 0xffff } else { 0 }
    };
    let second = [32, 30];
    let mut expected = vec![0; 1024];
    for (index, [left, top]) in [[0, 0], second].into_iter().enumerate() {
        for (row, pair) in (0..16).flat_map(|row| (0..32).map(move |pair| (row, pair))) {
            let word = half(top + row, left + 2 * pair) | half(top + row, left + 2 * pair + 1) << 16;
            // Of a row's eight groups of sixteen bytes, the one for group g stands at g xor row.
            expected[index * 512 + row * 32 + ((pair / 4) ^ (row % 8)) * 4 + pair % 4] = word;
        }
    }
    for gpu in gpus() {
        if !is_hopper(&gpu) {
            eprintln!("SKIPPED: TMA: {} lacks it", gpu.name());
            continue;
        }
        let matrix = gpu.from_bytes(&bytes(&x)).unwrap();
        let mut input = [second[0] as u32, second[1] as u32].to_vec();
        input.resize(32, 0);
        input.extend(tensor_map(&gpu, matrix.ptr()));
        let case = Case::new("conform_tma_load_2d", input, expected.clone());
        Case { block: 64, shared: 4096, ..case }.check(&gpu);
    }
}

/// The emulator's map of that matrix (`TensorMap` in emu/hopper.h), or the driver's.
fn tensor_map(gpu: &Gpu, matrix: DevicePtr) -> [u32; 32] {
    if gpu.name() != "emulated" {
        return drivers_tensor_map(matrix);
    }
    let mut map = [0; 32];
    let wide = [matrix.0, WIDTH as u64, HEIGHT as u64, ROW_BYTES as u64];
    for (to, from) in map.chunks_exact_mut(2).zip(wide) {
        to.copy_from_slice(&[from as u32, (from >> 32) as u32]);
    }
    map[8..12].copy_from_slice(&[BOX[0], BOX[1], 2, 1]);
    map
}

#[cfg(feature = "cuda")]
fn drivers_tensor_map(matrix: DevicePtr) -> [u32; 32] {
    use cudarc::driver::sys;
    let mut map = sys::CUtensorMap { opaque: [0; 16] };
    // SAFETY: the arrays have as many elements as the call reads: two dimensions, one stride.
    let status = unsafe {
        sys::cuTensorMapEncodeTiled(
            &mut map,
            sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT16,
            2,
            matrix.0 as *mut std::ffi::c_void,
            [WIDTH as u64, HEIGHT as u64].as_ptr(),
            [ROW_BYTES as u64].as_ptr(),
            BOX.as_ptr(),
            [1, 1].as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    status.result().unwrap();
    std::array::from_fn(|i| (map.opaque[i / 2] >> (i % 2 * 32)) as u32)
}

#[cfg(not(feature = "cuda"))]
fn drivers_tensor_map(_matrix: DevicePtr) -> [u32; 32] {
    unreachable!("a real device in a build without CUDA")
}
