//! `out[i] = x[indices[i]]`: the rows that logits are wanted of. (On the host this is a copy, and no operation.)

use crate::{Arg, Element, Gpu, GpuError, GpuTensor, Launch};

/// Gathers rows. Shapes: x bf16 `[T, K]`, indices u32 `[1, n]`, out bf16 `[n, K]`, end to end; K and the stride of x multiples of
/// 8. Panics otherwise. For an index that is no row of x nothing is written.
pub fn gather(gpu: &Gpu, x: GpuTensor, indices: GpuTensor, out: GpuTensor) -> Result<(), GpuError> {
    let (n, cols) = (indices.cols(), x.cols());
    x.expect("x", Element::BF16, x.rows(), cols);
    indices.expect("indices", Element::U32, 1, n);
    out.expect("out", Element::BF16, n, cols);
    assert!(cols.is_multiple_of(8) && x.stride().is_multiple_of(8) && out.stride() == cols, "{cols} columns");
    let config = Launch { grid: [n as u32, 1, 1], block: 128, shared: 0 };
    let (stride, rows) = (Arg::U32(x.stride() as u32), Arg::U32(x.rows() as u32));
    gpu.launch("gather_rows", config, &[x.arg(), stride, rows, indices.arg(), out.arg(), Arg::U32(cols as u32)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Matrix, gpus, rounded};

    #[test]
    fn rows_come_in_the_order_of_the_indices() {
        for gpu in gpus() {
            let values: Vec<f32> = (0..5 * 24).map(|i| i as f32 * 0.37).collect();
            let x = Matrix::with_gap(&gpu, Element::BF16, 5, 24, 16, &values);
            let (indices, out) = (Matrix::from_u32(&gpu, &[4, 0, 3]), Matrix::poisoned(&gpu, Element::BF16, 3, 24, 0));
            gather(&gpu, x.view(), indices.view(), out.view()).unwrap();
            let want: Vec<f32> = [4, 0, 3].into_iter().flat_map(|r| rounded(&values[r * 24..][..24])).collect();
            assert_eq!(out.read(), want);
        }
    }
}
