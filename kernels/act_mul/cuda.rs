//! `out = act(gate) * up` on a GPU, for gates and ups that [`crate::linear::gate_up`] cannot take together.

#[cfg(test)]
mod cuda_tests;

use crate::{Arg, Element, Gpu, GpuError, GpuTensor, Launch};
use aieng_kernels::act_mul::Activation;

const THREADS: usize = 128;

/// `out = act(x[:, ..F]) * x[:, F..]`.
///
/// Shapes: x `[T, 2F]` bf16, out `[T, F]` bf16. Panics otherwise.
pub fn act_mul(gpu: &Gpu, x: GpuTensor, activation: Activation, out: GpuTensor) -> Result<(), GpuError> {
    let (rows, width) = (out.rows(), out.cols());
    x.expect("x", Element::BF16, rows, 2 * width);
    out.expect("out", Element::BF16, rows, width);
    let aligned = |t: GpuTensor| t.stride().is_multiple_of(8) && t.ptr().is_aligned(16);
    let by8 = width.is_multiple_of(8) && aligned(x) && aligned(out);
    let (name, each) = if by8 { ("act_mul_by8", 8) } else { ("act_mul_by1", 1) };
    let grid = [width.div_ceil(each * THREADS) as u32, rows as u32, 1];
    let args = [
        x.arg(),
        out.arg(),
        Arg::U32(width as u32),
        Arg::U32(x.stride() as u32),
        Arg::U32(out.stride() as u32),
        Arg::U32((activation == Activation::GeluTanh).into()),
    ];
    gpu.launch(name, Launch { grid, block: THREADS as u32, shared: 0 }, &args)
}
