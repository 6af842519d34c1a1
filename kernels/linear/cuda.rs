//! `y = x Wᵀ + b` on a GPU: x bf16, W in any format, sums in f32.
//!
//! Weights are the left operand of `mma.m16n8k16`: codes become whole numbers in bf16, exactly, the unit sums their products
//! with x over a block, and that times the block's scale is added in f32. So x is taken as it is, and W as the file has it.
//!
//! A norm is part of the products on both sides of it: that before adds to the residual stream and weighs the sum, that behind
//! multiplies its own sums by the norm's factor (rms_norm/cuda.rs).
//!
//! K is cut into segments, by its length alone; each is summed in ascending order, and they are added in order. All kernels
//! do that, so which of them computes a row does not show in its bits.

mod cuda_pack;
#[cfg(test)]
mod cuda_tests;
mod cuda_weight;

pub(crate) use cuda_pack::Format;
pub use cuda_weight::{GpuWeight, Int4Rows};

use crate::rms_norm::Weighed;
use crate::{Arg, DevicePtr, Element, Gpu, GpuBuffer, GpuError, GpuTensor, Launch};
use aieng_kernels::act_mul::Activation;
use cuda_pack::TILE;
use cuda_weight::Part;

/// Which kernel computes; the bits are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    /// Up to 8 rows of x a block: reads W at the memory's speed.
    Few1,
    /// Up to 32.
    Few4,
    /// Tiles of 64 rows of x by 128 of W.
    Many1,
    /// Of 128 by 128.
    Many2,
}

/// Rows of W in a tile of [`Path::Many1`] and [`Path::Many2`].
const MANY_TILE: usize = 128;
/// Blocks that keep a large device busy: about half its multiprocessors.
const BUSY_BLOCKS: usize = 64;

impl Path {
    /// From the one that needs most shared memory to the one that every device can launch.
    const ALL: [Path; 4] = [Path::Many2, Path::Many1, Path::Few4, Path::Few1];

    /// The one that suits so many rows of x, or else the next for which a block of this device has the memory.
    fn of(gpu: &Gpu, part: &Part, cols: usize, rows: usize) -> Path {
        let most = gpu.properties().block_shared_bytes;
        let fits = |path: &Path| path.launch(part.format, part.tiles, cols, rows).1.shared as usize <= most;
        let suited = Path::suited(rows, part.tiles * TILE);
        let mut paths = Path::ALL.into_iter().skip_while(|path| *path != suited);
        paths.find(fits).unwrap_or(Path::Few1)
    }

    /// `outputs` counts the rows of W.
    fn suited(rows: usize, outputs: usize) -> Path {
        let busy = |tokens| outputs.div_ceil(MANY_TILE) * rows.div_ceil(tokens) >= BUSY_BLOCKS;
        match rows {
            0..=8 => Path::Few1,
            9..=32 => Path::Few4,
            // Few4 reads W again for each 32 rows of x; what is left of tiles of 128 would be idle.
            65.. if busy(128) || rows > 512 => Path::Many2,
            _ if busy(64) || rows > 256 => Path::Many1,
            _ => Path::Few4,
        }
    }

    /// Kernel and threads for `rows` rows of x. Numbers are those of few.cuh, many.cuh and linear.cu.
    fn launch(self, format: Format, w_tiles: usize, cols: usize, rows: usize) -> (&'static str, Launch) {
        let stage = format.stage_cols() / format.cols() * format.record_bytes();
        let segments = cols.div_ceil(256).clamp(1, 8);
        let kernels = format.kernels();
        let (name, tiles, tokens, threads, shared) = match self {
            Path::Few1 => (kernels.few1, 1, 8, 32 * segments, 3 * stage * segments),
            Path::Few4 => (kernels.few4, 2, 32, 32 * segments, 2 * 2 * stage * segments),
            Path::Many1 => (kernels.many1, MANY_TILE / TILE, 64, 128, Path::many_shared(format, stage, 64)),
            Path::Many2 => (kernels.many2, MANY_TILE / TILE, 128, 256, Path::many_shared(format, stage, 128)),
        };
        let grid = [w_tiles.div_ceil(tiles) as u32, rows.div_ceil(tokens) as u32, 1];
        // Behind all else, a norm's factor for each row.
        let shared = shared + tokens * size_of::<f32>();
        (name, Launch { grid, block: threads as u32, shared: shared as u32 })
    }

    /// Rings of x and of W, and sums.
    fn many_shared(format: Format, stage: usize, tokens: usize) -> usize {
        let (x_ring, step) = (4, 64);
        let w_ring = (x_ring - 1usize).div_ceil(format.stage_cols() / step) + 1;
        let sums = if format.has_minima() { 2 * 2 * 4 * tokens } else { 0 };
        x_ring * step * 2 * tokens + w_ring * MANY_TILE / TILE * stage + sums
    }
}

/// What a kernel makes of its sums (tile.cuh has the same numbers).
#[derive(Debug, Clone, Copy)]
enum Output {
    Bf16 = 0,
    F32 = 1,
    Stream = 2,
    Silu = 3,
    Gelu = 4,
}

/// What a product reads.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// Rows as they are.
    Plain(GpuTensor<'a>),
    /// Rows that it is to norm, and the norm's epsilon.
    Normed(Weighed<'a>, f32),
}

impl<'a> From<GpuTensor<'a>> for Input<'a> {
    fn from(x: GpuTensor<'a>) -> Input<'a> {
        Input::Plain(x)
    }
}

impl<'a> Input<'a> {
    fn x(&self) -> GpuTensor<'a> {
        match self {
            Input::Plain(x) => *x,
            Input::Normed(x, _) => x.x(),
        }
    }

    /// Negative: no norm.
    fn eps(&self) -> f32 {
        match self {
            Input::Plain(_) => -1.0,
            Input::Normed(_, eps) => *eps,
        }
    }
}

/// Where a product goes.
#[derive(Debug, Clone, Copy)]
struct Target<'a> {
    y: GpuTensor<'a>,
    output: Output,
    /// With [`Output::Stream`]: the next norm's weight, and its rows.
    next: Option<(GpuTensor<'a>, Weighed<'a>)>,
}

/// `y = x Wᵀ + b`.
///
/// Shapes: x `[T, w.cols()]` bf16, its rows at multiples of 16 bytes; y `[T, w.rows()]` bf16 or f32. Panics otherwise.
pub fn linear<'a>(gpu: &Gpu, x: impl Into<Input<'a>>, w: &GpuWeight, y: GpuTensor) -> Result<(), GpuError> {
    linear_by(gpu, x.into(), w, y, |part| Path::of(gpu, part, w.cols, y.rows()))
}

fn linear_by(gpu: &Gpu, x: Input, w: &GpuWeight, y: GpuTensor, path: impl Fn(&Part) -> Path) -> Result<(), GpuError> {
    assert!(!w.gated, "a weight of gate and up");
    let output = match y.element() {
        Element::BF16 => Output::Bf16,
        Element::F32 => Output::F32,
        element => panic!("y is {element:?}"),
    };
    y.expect("y", y.element(), x.x().rows(), w.rows());
    let mut first = 0;
    for part in &w.parts {
        let y = y.columns(first..first + part.outputs);
        launch(gpu, x, w, part, Target { y, output, next: None }, path(part))?;
        first += part.outputs;
    }
    Ok(())
}

/// `residual += x Wᵀ + b`, then `next = residual * weight` for the norm that follows.
///
/// Shapes: x `[T, w.cols()]` bf16, its rows at multiples of 16 bytes; residual `[T, w.rows()]` f32, weight `[1, w.rows()]` f32,
/// next `[T, w.rows()]`. Panics otherwise, or if `w` has several formats or its rows are no whole tiles of 16.
pub fn add_linear(
    gpu: &Gpu,
    x: GpuTensor,
    w: &GpuWeight,
    residual: GpuTensor,
    weight: GpuTensor,
    next: Weighed,
) -> Result<(), GpuError> {
    add_linear_by(gpu, x, w, residual, (weight, next), Path::of(gpu, w.single_part(), w.cols, x.rows()))
}

fn add_linear_by(
    gpu: &Gpu,
    x: GpuTensor,
    w: &GpuWeight,
    residual: GpuTensor,
    next: (GpuTensor, Weighed),
    path: Path,
) -> Result<(), GpuError> {
    let (part, rows, cols) = (w.single_part(), x.rows(), w.rows());
    assert!(cols.is_multiple_of(TILE), "{cols} columns of the stream");
    residual.expect("residual", Element::F32, rows, cols);
    next.0.expect("weight", Element::F32, 1, cols);
    next.1.x().expect("next", Element::BF16, rows, cols);
    let target = Target { y: residual, output: Output::Stream, next: Some(next) };
    launch(gpu, Input::Plain(x), w, part, target, path)
}

/// `out = act(x Gᵀ) * (x Uᵀ)` for a weight of gate G and up U ([`GpuWeight::gate_up`]), in one launch.
///
/// Shapes: x `[T, w.cols()]` bf16, its rows at multiples of 16 bytes; out `[T, w.rows()]` bf16. Panics otherwise.
pub fn gate_up<'a>(
    gpu: &Gpu,
    x: impl Into<Input<'a>>,
    w: &GpuWeight,
    activation: Activation,
    out: GpuTensor,
) -> Result<(), GpuError> {
    gate_up_by(gpu, x.into(), w, activation, out, Path::of(gpu, &w.parts[0], w.cols, out.rows()))
}

fn gate_up_by(
    gpu: &Gpu,
    x: Input,
    w: &GpuWeight,
    activation: Activation,
    out: GpuTensor,
    path: Path,
) -> Result<(), GpuError> {
    assert!(w.gated, "no weight of gate and up");
    out.expect("out", Element::BF16, x.x().rows(), w.rows());
    let output = match activation {
        Activation::Silu => Output::Silu,
        Activation::GeluTanh => Output::Gelu,
    };
    launch(gpu, x, w, &w.parts[0], Target { y: out, output, next: None }, path)
}

fn launch(gpu: &Gpu, input: Input, w: &GpuWeight, part: &Part, to: Target, path: Path) -> Result<(), GpuError> {
    let x = input.x();
    x.expect("x", Element::BF16, x.rows(), w.cols);
    assert!(x.stride().is_multiple_of(8) && x.ptr().is_aligned(16), "rows of x are not at multiples of 16 bytes");
    assert!(u32::try_from(x.rows() * x.stride()).is_ok(), "[{}, {}] of x", x.rows(), x.stride());
    let bias = part.bias.as_ref().map_or(DevicePtr::NULL, GpuBuffer::ptr);
    let number = |n: usize| Arg::U32(u32::try_from(n).expect("a matrix's side"));
    let args = [
        part.records.ptr().into(),
        bias.into(),
        x.arg(),
        to.y.arg(),
        number(x.rows()),
        number(w.cols),
        number(part.outputs),
        number(x.stride()),
        number(to.y.stride()),
        Arg::U32(to.output as u32),
        Arg::F32(input.eps()),
        to.next.map_or(DevicePtr::NULL, |(weight, _)| weight.ptr()).into(),
        to.next.map_or(DevicePtr::NULL, |(_, next)| next.x().ptr()).into(),
        number(to.next.map_or(0, |(_, next)| next.x().stride())),
    ];
    let (name, config) = path.launch(part.format, part.tiles, w.cols, x.rows());
    gpu.launch(name, config, &args)
}
