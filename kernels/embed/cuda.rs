//! `out[t] = scale * W[ids[t]]` on a GPU, from the layout that products use: a tied embedding is held once.

#[cfg(test)]
mod cuda_tests;

use crate::linear::GpuWeight;
use crate::{Arg, Element, Gpu, GpuError, GpuTensor, Launch};

/// Gathers and decodes rows. Shapes: ids u32 `[1, T]`, out `[T, w.cols()]` f32; panics otherwise, or if `w` has several
/// formats or is one of gate and up. An id outside the vocabulary gives zeros: so a step can be padded with `u32::MAX`.
pub fn embed(gpu: &Gpu, w: &GpuWeight, ids: GpuTensor, scale: f32, out: GpuTensor) -> Result<(), GpuError> {
    ids.expect("ids", Element::U32, 1, out.rows());
    out.expect("out", Element::F32, out.rows(), w.cols());
    let part = w.single_part();
    let config = Launch { grid: [out.rows() as u32, 1, 1], block: 128, shared: 0 };
    let args = [
        part.records.ptr().into(),
        ids.arg(),
        out.arg(),
        Arg::U32(part.outputs as u32),
        Arg::U32(w.cols() as u32),
        Arg::U32(out.stride() as u32),
        Arg::F32(scale),
    ];
    gpu.launch(part.format.kernels().embed, config, &args)
}
