//! Attention on the device: which kernel, how many blocks, how much shared memory.
//!
//! Two kernels do the same sums in the same order (attention.cu), so a row's bits do not tell which did it. `few` is for sequences
//! with few rows, as in decoding: its four warps share 16 rows, and pieces of the context are spread over blocks. `many` is
//! for chunks of prompts: each of its warps has 16 rows of its own, which all meet the same tiles. Each looks for its sequences
//! itself, by lengths in device memory; the grid follows from what the host knows beforehand.

use crate::kv_write::GpuKvCache;
use crate::{Arg, Element, Gpu, GpuBuffer, GpuError, GpuTensor, Launch};
use aieng_kernels::attention::AttentionParams;
use std::f32::consts::LOG2_E;

#[cfg(test)]
#[path = "cuda_tests.rs"]
mod tests;

/// Greatest head dimension.
pub const MAX_HEAD_DIM: usize = 256;

// As in attention.cuh.
const TILE: usize = 64;
const PIECE: usize = 256;
/// Rows of an mma.
const ROWS: usize = 16;

/// The sequences of a batch, as on the CPU; each array is u32 `[1, n]` in device memory. What is there is not checked: the
/// caller vouches that every block is the cache's and that tables hold as many as contexts need. A sequence whose context is
/// shorter than its rows, as none is, is padding.
#[derive(Debug, Clone, Copy)]
pub struct GpuSequences<'a> {
    /// At least `[1, sequences + 1]`, ascending from 0.
    pub cu_seqlens_q: GpuTensor<'a>,
    /// At least `[1, sequences]`.
    pub context_lens: GpuTensor<'a>,
    /// Block ids of all sequences, end to end.
    pub block_tables: GpuTensor<'a>,
    /// At least `[1, sequences + 1]`, ascending from 0.
    pub cu_blocks: GpuTensor<'a>,
    /// Sequences, padding included.
    pub sequences: usize,
    /// No sequence has more query rows.
    pub max_q_len: usize,
    /// No context is longer.
    pub max_context: usize,
}

/// Device memory for the sums of pieces that are on their way to the block that merges them. One serves any number of
/// launches of one stream. Where a batch needs more than there is, pieces are not spread, and no bit changes.
#[derive(Debug)]
pub struct Workspace {
    partials: GpuBuffer,
    /// Blocks that have come, for each row tile. Zero between launches.
    counters: GpuBuffer,
}

impl Workspace {
    /// Bytes that serve well on a large device: those of 16,384 pieces of four query heads of 128 elements.
    pub const BYTES: usize = 32 << 20;

    /// About `bytes` of the device's memory.
    pub fn new(gpu: &Gpu, bytes: usize) -> Result<Workspace, GpuError> {
        // There is no use for more counters than items, and hardly one for items of less than a KiB.
        let counters = gpu.from_bytes(&vec![0; (bytes / 1024).max(1) * size_of::<u32>()])?;
        Ok(Workspace { partials: gpu.alloc(bytes)?, counters })
    }

    /// Items of `rows` rows that there is room for.
    fn capacity(&self, rows: usize, dim: usize) -> usize {
        let item = rows * (dim + 2) * size_of::<f32>();
        (self.partials.len() / item).min(self.counters.len() / size_of::<u32>())
    }
}

/// A kernel, and the shape of its blocks (the template's arguments in attention.cu).
struct Shape {
    kernel: &'static str,
    dim: usize,
    row_warps: usize,
    col_warps: usize,
}

const fn shape(kernel: &'static str, dim: usize, row_warps: usize, col_warps: usize) -> Shape {
    Shape { kernel, dim, row_warps, col_warps }
}

/// For sequences with few rows, by ascending head dimension.
const FEW: [Shape; 5] = [
    shape("attention_few_32", 32, 1, 2),
    shape("attention_few_64", 64, 1, 4),
    shape("attention_few_96", 96, 1, 2),
    shape("attention_few_128", 128, 1, 4),
    shape("attention_few_256", 256, 1, 4),
];

/// For all others.
const MANY: [Shape; 5] = [
    shape("attention_many_32", 32, 8, 1),
    shape("attention_many_64", 64, 8, 1),
    shape("attention_many_96", 96, 8, 1),
    shape("attention_many_128", 128, 8, 1),
    shape("attention_many_256", 256, 4, 2),
];

/// Whether the device's blocks have the shared memory for heads of so many elements.
pub fn fits(gpu: &Gpu, head_dim: usize) -> bool {
    let most = gpu.properties().block_shared_bytes;
    head_dim <= MAX_HEAD_DIM && [&FEW, &MANY].iter().all(|shapes| Shape::of(*shapes, head_dim).shared() <= most)
}

impl Shape {
    fn of(shapes: &'static [Shape], dim: usize) -> &'static Shape {
        shapes.iter().find(|shape| dim <= shape.dim).expect("head_dim was checked")
    }

    fn rows(&self) -> usize {
        self.row_warps * ROWS
    }

    /// Dynamic shared memory: two tiles, what the warps of a row exchange, a word for the block (Shape in attention.cuh).
    fn shared(&self) -> usize {
        let tiles = 2 * 2 * TILE * (2 * self.dim + 16);
        let exchange = self.rows() * (2 * TILE + 16) + self.rows() * self.col_warps * size_of::<f32>();
        tiles + if self.col_warps > 1 { exchange } else { 0 } + 16
    }

    /// Blocks that a multiprocessor has at a time: as shared memory allows, and registers.
    fn resident(&self, gpu: &Gpu) -> usize {
        let threads = 32 * self.row_warps * self.col_warps;
        (gpu.properties().shared_bytes / (self.shared() + 1024)).clamp(1, (512 / threads).max(1))
    }
}

/// Attention of one layer, with the formula of [`aieng_kernels::attention()`]. Keys, values, queries and weights are bf16 when they are
/// multiplied; keys and values of other formats are rounded to it.
///
/// Shapes: q and out bf16 `[T, heads * head_dim]`, T at least the rows of all sequences. Rows of padding are left alone.
/// Panics for shapes that do not fit, and for a head_dim above [`MAX_HEAD_DIM`].
#[allow(clippy::too_many_arguments, reason = "what the launch takes")]
pub fn attention(
    gpu: &Gpu,
    q: GpuTensor,
    cache: &GpuKvCache,
    layer: usize,
    sequences: &GpuSequences,
    params: AttentionParams,
    workspace: &Workspace,
    out: GpuTensor,
) -> Result<(), GpuError> {
    check(&q, cache, layer, sequences, params, &out);
    let call = Call { gpu, q, cache, layer, sequences, params, workspace, out };
    let kv = cache.shape(layer);
    let group = params.heads / kv.heads;
    let (few, most) = (ROWS.max(group), sequences.max_q_len * group);
    let alone = most > few && sequences.sequences == 1;
    if !alone {
        let shape = Shape::of(&FEW, kv.head_dim);
        let blocks = gpu.properties().multiprocessors * shape.resident(gpu);
        call.launch(shape, 0..most.min(few), usize::MAX, |items| items.min(blocks))?;
    }
    if most > few {
        let shape = Shape::of(&MANY, kv.head_dim);
        let least = if alone { 0 } else { few };
        let busy = gpu.properties().multiprocessors;
        // A block for each row tile, the longest first; fewer tiles than multiprocessors are worth being split.
        let tiles = call.row_tiles(shape) * kv.heads;
        call.launch(shape, least..most, busy, |items| items.min(tiles.max(busy)))?;
    }
    Ok(())
}

fn check(
    q: &GpuTensor,
    cache: &GpuKvCache,
    layer: usize,
    sequences: &GpuSequences,
    params: AttentionParams,
    out: &GpuTensor,
) {
    let kv = cache.shape(layer);
    assert!(kv.head_dim <= MAX_HEAD_DIM, "head_dim {} above {MAX_HEAD_DIM}", kv.head_dim);
    assert!(kv.heads > 0 && params.heads.is_multiple_of(kv.heads), "{} heads, {} of KV", params.heads, kv.heads);
    q.expect("q", Element::BF16, q.rows(), params.heads * kv.head_dim);
    out.expect("out", Element::BF16, q.rows(), q.cols());
    assert!(q.stride().is_multiple_of(2) && out.stride().is_multiple_of(2), "strides of q and out");
    assert!(params.scale > 0.0 && params.softcap.is_none_or(|cap| cap > 0.0), "scale and softcap");
    assert!(params.window != Some(0), "a window of nothing");
    let at_least = |what: &str, x: &GpuTensor, n: usize| {
        assert!((x.element(), x.rows()) == (Element::U32, 1) && x.cols() >= n, "{what}: fewer than {n} integers");
    };
    at_least("cu_seqlens_q", &sequences.cu_seqlens_q, sequences.sequences + 1);
    at_least("context_lens", &sequences.context_lens, sequences.sequences);
    at_least("block_tables", &sequences.block_tables, 0);
    at_least("cu_blocks", &sequences.cu_blocks, sequences.sequences + 1);
}

/// All that attention was called with.
struct Call<'a> {
    gpu: &'a Gpu,
    q: GpuTensor<'a>,
    cache: &'a GpuKvCache,
    layer: usize,
    sequences: &'a GpuSequences<'a>,
    params: AttentionParams,
    workspace: &'a Workspace,
    out: GpuTensor<'a>,
}

impl Call<'_> {
    /// Row tiles of a KV head that the batch has at most.
    fn row_tiles(&self, shape: &Shape) -> usize {
        let group = self.params.heads / self.cache.shape(self.layer).heads;
        let each = (self.sequences.max_q_len * group).div_ceil(shape.rows()) * self.sequences.sequences;
        each.min(self.q.rows() * group / shape.rows() + self.sequences.sequences)
    }

    /// Starts `shape`'s kernel for the sequences with more than `rows.start` and at most `rows.end` rows a KV head. Pieces
    /// are spread where there are fewer than `split_below` row tiles; `blocks` says how many blocks go through so many items.
    fn launch(
        &self,
        shape: &Shape,
        rows: std::ops::Range<usize>,
        split_below: usize,
        blocks: impl Fn(usize) -> usize,
    ) -> Result<(), GpuError> {
        let (sequences, params) = (self.sequences, self.params);
        let kv = self.cache.shape(self.layer);
        let partial_rows = rows.end.clamp(1, shape.rows());
        let capacity = self.workspace.capacity(partial_rows, shape.dim);
        let items = self.row_tiles(shape) * kv.heads * sequences.max_context.div_ceil(PIECE);
        let (factor, softcap, bend) = match params.softcap {
            None => (params.scale * LOG2_E, 0.0, 0.0),
            Some(cap) => (LOG2_E, cap, 2.0 * LOG2_E * params.scale / cap),
        };
        let number = |n: usize| Arg::U32(u32::try_from(n).unwrap_or(u32::MAX));
        let args = [
            self.q.arg(),
            number(self.q.stride()),
            Arg::Ptr(self.cache.layer(self.layer)),
            Arg::U32(self.cache.format()),
            number(kv.head_dim),
            number(kv.heads),
            number(params.heads / kv.heads),
            Arg::U32(params.window.unwrap_or(u32::MAX)),
            Arg::F32(factor),
            Arg::F32(softcap),
            Arg::F32(bend),
            sequences.cu_seqlens_q.arg(),
            sequences.context_lens.arg(),
            sequences.block_tables.arg(),
            sequences.cu_blocks.arg(),
            number(sequences.sequences),
            number(rows.start),
            number(rows.end),
            number(split_below),
            Arg::Ptr(self.workspace.partials.ptr()),
            Arg::Ptr(self.workspace.counters.ptr()),
            number(capacity),
            number(partial_rows),
            self.out.arg(),
            number(self.out.stride()),
        ];
        let config = Launch {
            grid: [u32::try_from(blocks(items)).unwrap_or(u32::MAX), 1, 1],
            block: 32 * (shape.row_warps * shape.col_warps) as u32,
            shared: shape.shared() as u32,
        };
        self.gpu.launch(shape.kernel, config, &args)
    }
}
