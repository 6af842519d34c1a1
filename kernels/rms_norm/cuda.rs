//! The residual stream and its norms on a GPU.
//!
//! A norm is `x * weight` times a factor, which is the same for the whole row, and so may be taken after the product that
//! follows: then what adds to the stream can write `x * weight` and the squares of the columns that it has, and nobody has
//! to wait for a row's end. Such rows ([`Weighed`]) are what products take ([`crate::linear::Input`]) and what
//! [`crate::linear::add_linear`] makes.

#[cfg(test)]
mod cuda_tests;

use crate::{Arg, DevicePtr, Element, Gpu, GpuError, GpuTensor, Launch};
use std::ops::Range;

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

/// Rows `x * weight` in bf16 on their way into a norm. Behind each lie the sums of squares of x, f32, one for 16 columns.
#[derive(Debug, Clone, Copy)]
pub struct Weighed<'a> {
    all: GpuTensor<'a>,
    cols: usize,
}

impl<'a> Weighed<'a> {
    /// Elements of bf16 that a row of `cols` columns takes with its squares.
    pub const fn stride(cols: usize) -> usize {
        (cols + 2 * cols.div_ceil(16)).next_multiple_of(8)
    }

    /// Rows of `cols` columns in `all`, which is `[T, Weighed::stride(cols)]` bf16. Panics otherwise.
    pub fn new(all: GpuTensor<'a>, cols: usize) -> Weighed<'a> {
        all.expect("weighed rows", Element::BF16, all.rows(), Weighed::stride(cols));
        Weighed { all, cols }
    }

    /// Rows and squares, to be copied.
    pub fn all(&self) -> GpuTensor<'a> {
        self.all
    }

    /// Some of the rows.
    pub fn row_range(&self, range: Range<usize>) -> Weighed<'a> {
        Weighed { all: self.all.row_range(range), cols: self.cols }
    }

    /// Without the squares: `[T, cols]`.
    pub fn x(&self) -> GpuTensor<'a> {
        self.all.columns(0..self.cols)
    }
}

/// `residual += norm(delta) * post`, if there are these (in this order); then `out = residual * weight`.
///
/// Shapes: residual `[T, H]` f32, delta `[T, H]` bf16, out `[T, H]`, post and weight `[1, H]` f32, `H` a multiple of 32, at most
/// [`MAX_COLS`]; all rows at multiples of 16 bytes. Panics otherwise. Which thread adds what depends on `H` alone, so a
/// row's bits do not depend on other rows.
pub fn add_rms_norm(
    gpu: &Gpu,
    residual: GpuTensor,
    delta: Option<(GpuTensor, GpuTensor)>,
    weight: GpuTensor,
    eps: f32,
    out: Weighed,
) -> Result<(), GpuError> {
    let out = out.x();
    let (rows, cols) = (out.rows(), out.cols());
    residual.expect("residual", Element::F32, rows, cols);
    weight.expect("weight", Element::F32, 1, cols);
    if let Some((delta, post)) = delta {
        delta.expect("delta", Element::BF16, rows, cols);
        post.expect("post", Element::F32, 1, cols);
    }
    let (delta, post) = delta.unzip();
    let Some((_, threads, name)) = KERNELS.into_iter().find(|(most, ..)| cols <= *most) else {
        panic!("{cols} columns, and at most {MAX_COLS}");
    };
    let all = [Some(residual), delta, post, Some(weight), Some(out)];
    assert!(cols.is_multiple_of(32) && all.iter().flatten().all(aligned), "{cols} columns, or a row's alignment");
    let [residual_arg, delta_arg, post_arg, weight_arg, out_arg] =
        all.map(|t| t.map_or(Arg::Ptr(DevicePtr::NULL), |t| t.arg()));
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
        Arg::F32(eps),
    ];
    gpu.launch(name, Launch { grid: [rows as u32, 1, 1], block: threads, shared: 0 }, &args)
}

/// Whether every eighth column of every row lies at a multiple of sixteen bytes.
fn aligned(t: &GpuTensor) -> bool {
    t.ptr().is_aligned(16) && (t.rows() == 1 || (t.stride() * t.element().bytes()).is_multiple_of(16))
}
