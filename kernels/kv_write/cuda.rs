//! The paged KV cache in a device's memory. Keys and values are written by [`crate::rope`], which turns them.
//!
//! Layers lie one after the other. A layer is `[blocks][2][kv_heads][16][head_dim]`: the keys of all heads of a block, then
//! their values, row-major, as the instructions that load matrices want them. With q8 the 16 scales (f32) of a head's
//! rows follow its codes. New memory holds whatever was there: attention reads no slot that holds no token.

use crate::{Arg, DevicePtr, Element, Gpu, GpuBuffer, GpuError, GpuTensor, Launch};
use aieng_kernels::kv_write::KvShape;
use aieng_kernels::{KvCache, KvDType};

#[cfg(test)]
#[path = "cuda_tests.rs"]
pub(crate) mod tests;

/// What layers' beginnings are multiples of, so that 32 bits name them.
const LAYER_ALIGN: usize = 1024;

/// Keys and values of all layers.
#[derive(Debug)]
pub struct GpuKvCache {
    dtype: KvDType,
    shapes: Vec<KvShape>,
    blocks: usize,
    buffer: GpuBuffer,
    /// Where each layer begins, in bytes.
    offsets: Vec<usize>,
    /// `[layers, 2]`: the same in KiB, and the 16-byte words of a block.
    layers: GpuBuffer,
}

impl GpuKvCache {
    /// A cache of `blocks` blocks for `layers`. Panics for f32, which no kernel reads, and unless every head_dim is a
    /// multiple of 16.
    pub fn new(gpu: &Gpu, dtype: KvDType, layers: Vec<KvShape>, blocks: usize) -> Result<GpuKvCache, GpuError> {
        assert!(dtype != KvDType::F32, "a cache of f32 on a GPU");
        assert!(layers.iter().all(|l| l.head_dim.is_multiple_of(16)), "head_dim is no multiple of 16");
        let (mut offsets, mut table, mut bytes) = (Vec::new(), Vec::new(), 0usize);
        for layer in &layers {
            let block = KvCache::bytes_of_block(dtype, std::slice::from_ref(layer));
            offsets.push(bytes);
            table.extend([bytes / LAYER_ALIGN, block / 16].map(|x| x as u32));
            bytes = bytes.saturating_add(block.saturating_mul(blocks)).saturating_add(LAYER_ALIGN - 1);
            bytes -= bytes % LAYER_ALIGN;
        }
        let table: Vec<u8> = table.into_iter().flat_map(u32::to_le_bytes).collect();
        let (buffer, layers_table) = (gpu.alloc(bytes)?, gpu.from_bytes(&table)?);
        Ok(GpuKvCache { dtype, shapes: layers, blocks, buffer, offsets, layers: layers_table })
    }

    /// Element format.
    pub fn dtype(&self) -> KvDType {
        self.dtype
    }

    /// Blocks of each layer.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Bytes of all layers.
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// What layer `layer` stores for a token.
    pub fn shape(&self, layer: usize) -> KvShape {
        self.shapes[layer]
    }

    /// Where a layer begins.
    pub(crate) fn layer(&self, layer: usize) -> DevicePtr {
        self.buffer.ptr().offset(self.offsets[layer])
    }

    /// The element format as kernels take it (cache.cuh).
    pub(crate) fn format(&self) -> u32 {
        match self.dtype {
            KvDType::BF16 => 0,
            KvDType::F16 => 1,
            KvDType::Q8 => 2,
            KvDType::F32 => unreachable!("refused by new"),
        }
    }
}

/// Copies, for each of the first `count` rows (from, to) of `pairs`, what block `from` holds to block `to`, in all layers.
///
/// Shapes: pairs u32 `[n, 2]`, `count <= n`; blocks of the cache, and no block is both written and named a second time.
pub fn copy_blocks(gpu: &Gpu, pairs: GpuTensor, count: usize, cache: &GpuKvCache) -> Result<(), GpuError> {
    pairs.expect("pairs", Element::U32, pairs.rows(), 2);
    assert!(count <= pairs.rows() && pairs.stride() == 2, "{count} of {} pairs", pairs.rows());
    let config = Launch { grid: [count as u32, cache.shapes.len() as u32, 1], block: 256, shared: 0 };
    let args = [pairs.arg(), Arg::Ptr(cache.layers.ptr()), Arg::Ptr(cache.buffer.ptr())];
    gpu.launch("kv_write_copy_blocks", config, &args)
}
