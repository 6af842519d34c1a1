use super::*;
use crate::testing::{Matrix, gpus};
use aieng_kernels::DType;
use aieng_kernels::linear::Source;
use aieng_kernels::quant::dequantize_row;
use aieng_kernels::testing::{Rng, random_source};
use half::bf16;

/// Row `id` as the file has it, times the scale; zeros, if there is no such row.
fn expected(source: &Source, id: u32, cols: usize, scale: f32) -> Vec<f32> {
    let mut row = vec![0.0; cols];
    let bytes = source.dtype.row_bytes(cols);
    if let Some(bytes) = source.bytes.as_slice().get(id as usize * bytes..).and_then(|rest| rest.get(..bytes)) {
        dequantize_row(source.dtype, bytes, &mut row);
    }
    if source.dtype.is_float() {
        row.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
    }
    row.iter().map(|x| x * scale).collect()
}

#[test]
fn rows_are_those_of_the_file() {
    let (rows, cols) = (37, 1280);
    let ids = [0u32, 36, 15, 16, 31, u32::MAX, 7, 8, 37];
    for dtype in DType::ALL {
        let source = random_source(&mut Rng::new(1), dtype, rows, cols);
        for gpu in gpus() {
            let w = GpuWeight::new(&gpu, cols, std::slice::from_ref(&source), None).unwrap();
            let out = Matrix::poisoned(&gpu, Element::F32, ids.len(), cols, 5);
            embed(&gpu, &w, Matrix::from_u32(&gpu, &ids).view(), 3.0, out.view()).unwrap();
            for (id, got) in ids.iter().zip(out.read().chunks(cols)) {
                let want = expected(&source, *id, cols, 3.0);
                for (c, (got, want)) in got.iter().zip(&want).enumerate() {
                    // Formats with minima round once here, twice there.
                    let close = (got - want).abs() <= 1e-6;
                    assert!(close, "{} row {id} column {c}: {got}, expected {want}; {}", dtype.name(), gpu.name());
                }
            }
        }
    }
}
