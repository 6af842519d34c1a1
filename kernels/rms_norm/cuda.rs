//! The residual stream and its norms on a GPU: one launch between two layers.

#[cfg(test)]
mod cuda_tests;

use crate::{Arg, DevicePtr, Element, Gpu, GpuError, GpuTensor, Launch};

/// Kernels by the widest row that each takes: a block's threads hold it in registers, eight columns a thread and chunk.
const KERNELS: [(usize, u32, &str); 5] = [
    (1024, 128, "rms_norm_128x1"),
    (2048, 256, "rms_norm_256x1"),
    (4096, 512, "rms_norm_512x1"),
    (8192, 512, "rms_norm_512x2"),
    (16384, 512, "rms_norm_512x4"),
];

/// The widest row.
pub const MAX_COLS: usize = KERNELS[KERNELS.len() - 1].0;

/// `residual += x`, where `x` is `delta`, or `norm(delta) * post`, or nothing; then `out = norm(residual) * weight`.
///
/// Shapes: residual `[T, H]` f32, delta and out `[T, H]` bf16, post and weight `[1, H]` f32, `H` at most [`MAX_COLS`].
/// Panics otherwise. Which thread adds what depends on `H` alone, so a row's bits do not depend on other rows.
pub fn add_rms_norm(
    gpu: &Gpu,
    residual: GpuTensor,
    delta: Option<GpuTensor>,
    post: Option<&GpuTensor>,
    weight: &GpuTensor,
    eps: f32,
    out: GpuTensor,
) -> Result<(), GpuError> {
    let (rows, cols) = (out.rows(), out.cols());
    residual.expect("residual", Element::F32, rows, cols);
    weight.expect("weight", Element::F32, 1, cols);
    out.expect("out", Element::BF16, rows, cols);
    if let Some(delta) = delta {
        delta.expect("delta", Element::BF16, rows, cols);
    }
    if let Some(post) = post {
        assert!(delta.is_some(), "a norm of nothing");
        post.expect("post", Element::F32, 1, cols);
    }
    let Some((_, threads, name)) = KERNELS.into_iter().find(|(most, ..)| cols <= *most) else {
        panic!("{cols} columns, and at most {MAX_COLS}");
    };
    if rows == 0 {
        return Ok(());
    }
    let tensors = [Some(residual), delta, post.copied(), Some(*weight), Some(out)];
    let by8 = cols.is_multiple_of(8) && tensors.iter().flatten().all(aligned);
    let pointer = |t: Option<GpuTensor>| t.map_or(Arg::Ptr(DevicePtr::NULL), |t| t.arg());
    let [residual_arg, delta_arg, post_arg, weight_arg, out_arg] = tensors.map(pointer);
    let args = [
        residual_arg,
        delta_arg,
        post_arg,
        weight_arg,
        out_arg,
        Arg::U32(cols as u32),
        Arg::U32(residual.stride() as u32),
        Arg::U32(delta.map_or(0, |d| d.stride()) as u32),
        Arg::U32(out.stride() as u32),
        Arg::U32(by8.into()),
        Arg::F32(eps),
    ];
    gpu.launch(name, Launch { grid: [rows as u32, 1, 1], block: threads, shared: 0 }, &args)
}

/// Whether every eighth column of every row lies at a multiple of sixteen bytes.
fn aligned(t: &GpuTensor) -> bool {
    t.ptr().is_aligned(16) && (t.rows() == 1 || t.stride().is_multiple_of(8))
}
