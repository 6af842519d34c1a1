//! The KV cache's memory, and writing new keys and values into it.
//!
//! The cache of a layer is a pool of blocks of 16 tokens. Token `t` of block `b` is slot `16 b + t`. Within a block and a
//! KV head, keys are stored `[head_dim][16]` and values `[16][head_dim]`: the scores of a block's 16 tokens then fill one
//! vector without crossing lanes, and a value's elements are contiguous for the weighted sum.

#[cfg(test)]
mod tests;

use crate::cpu::{Kernel, LANES, Portable, Simd, SyncMutPtr};
use crate::linear::OutOfMemory;
use crate::{AlignedBuffer, BLOCK_TOKENS, DType, Device, Tensor};
use std::ops::Range;

/// Keys and values of all layers, in F32 or F16. Memory is taken from the system as blocks are first written.
#[derive(Debug)]
pub struct KvCache {
    dtype: DType,
    layers: Vec<KvShape>,
    blocks: usize,
    buffer: AlignedBuffer,
    /// Where each layer begins, in elements.
    offsets: Vec<usize>,
}

/// What one layer stores for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// KV heads.
    pub heads: usize,
    /// Elements of a head's key, and of its value.
    pub head_dim: usize,
}

impl KvShape {
    /// Elements of one head's keys, or values, in one block.
    fn head_block(self) -> usize {
        self.head_dim * BLOCK_TOKENS
    }

    /// Elements of keys and values in one block.
    fn block(self) -> usize {
        2 * self.heads * self.head_block()
    }
}

impl KvCache {
    /// A cache of `blocks` blocks for `layers`; panics unless `dtype` is F32 or F16 and head_dim a multiple of 16.
    pub fn new(dtype: DType, layers: Vec<KvShape>, blocks: usize) -> Result<KvCache, OutOfMemory> {
        assert!(matches!(dtype, DType::F32 | DType::F16), "KV cache of {}", dtype.name());
        assert!(layers.iter().all(|l| l.head_dim.is_multiple_of(LANES)), "head_dim is no multiple of {LANES}");
        let mut offsets = Vec::with_capacity(layers.len());
        let mut elements = 0usize;
        for layer in &layers {
            offsets.push(elements);
            elements = elements.saturating_add(layer.block().saturating_mul(blocks));
        }
        let bytes = elements.saturating_mul(dtype.block_bytes());
        let buffer = AlignedBuffer::new(bytes).ok_or(OutOfMemory { bytes })?;
        Ok(KvCache { dtype, layers, blocks, buffer, offsets })
    }

    /// Element format.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Blocks of each layer.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Bytes of all layers.
    pub fn bytes(&self) -> usize {
        self.buffer.as_slice().len()
    }

    /// What layer `layer` stores for a token.
    pub fn shape(&self, layer: usize) -> KvShape {
        self.layers[layer]
    }

    /// The bytes of layer `layer`.
    fn layer_bytes(&self, layer: usize) -> Range<usize> {
        let start = self.offsets[layer] * self.dtype.block_bytes();
        start..start + self.layers[layer].block() * self.blocks * self.dtype.block_bytes()
    }

    /// Element offset of a head's keys in block `block` of layer `layer`, from the layer's beginning; the values of all
    /// heads follow the keys of all heads.
    pub(crate) fn keys_at(shape: KvShape, block: usize, head: usize) -> usize {
        block * shape.block() + head * shape.head_block()
    }

    /// As [`KvCache::keys_at`], for values.
    pub(crate) fn values_at(shape: KvShape, block: usize, head: usize) -> usize {
        KvCache::keys_at(shape, block, shape.heads + head)
    }

    /// Copies what block `from` holds to block `to`, in all layers. Panics for a block outside the cache.
    pub fn copy_block(&mut self, from: u32, to: u32) {
        let (from, to) = (from as usize, to as usize);
        assert!(from < self.blocks && to < self.blocks, "a block outside the cache's {}", self.blocks);
        for layer in 0..self.layers.len() {
            let bytes = self.layers[layer].block() * self.dtype.block_bytes();
            let start = self.layer_bytes(layer).start;
            let source = start + from * bytes..start + (from + 1) * bytes;
            self.buffer.as_mut_slice().copy_within(source, start + to * bytes);
        }
    }

    /// A layer's elements.
    pub(crate) fn layer(&self, layer: usize) -> &[u8] {
        &self.buffer.as_slice()[self.layer_bytes(layer)]
    }
}

/// Writes keys and values of T tokens of layer `layer` into their slots.
///
/// Shapes: k and v `[T, heads * head_dim]`, slots `[T]`, all different, each below `16 * blocks`. Panics otherwise, except
/// for slots that are not different, of which one is written.
pub fn kv_write(device: &Device, k: Tensor, v: Tensor, slots: &[u32], cache: &mut KvCache, layer: usize) {
    let shape = cache.layers[layer];
    let cols = shape.heads * shape.head_dim;
    assert_eq!((k.rows(), k.cols()), (slots.len(), cols), "shape of k");
    assert_eq!((v.rows(), v.cols()), (slots.len(), cols), "shape of v");
    let most = cache.blocks * BLOCK_TOKENS;
    assert!(slots.iter().all(|s| (*s as usize) < most), "a slot outside the cache's {most}");
    let (dtype, bytes) = (cache.dtype, cache.layer_bytes(layer));
    let out = SyncMutPtr(cache.buffer.as_mut_slice()[bytes].as_mut_ptr());
    let write = Write { k, v, slots, shape, dtype, out };
    match device {
        Device::Reference => write.run::<Portable>(),
        // One thread: a token's keys are strided 2-byte stores, and neighbouring tokens share cache lines.
        Device::Cpu(cpu) => cpu.isa().run(write),
    }
}

/// A copy with at most one rounding, so one body serves every device.
struct Write<'a> {
    k: Tensor<'a>,
    v: Tensor<'a>,
    slots: &'a [u32],
    shape: KvShape,
    dtype: DType,
    out: SyncMutPtr<u8>,
}

impl Kernel for Write<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        // SAFETY: the cache's elements are of `dtype`, and aligned; Isa::run vouches for the instruction set.
        unsafe {
            match self.dtype {
                DType::F32 => self.write::<KvF32, S>(),
                _ => self.write::<KvF16, S>(),
            }
        }
    }
}

impl Write<'_> {
    /// # Safety
    /// E is the cache's element type; needs the instruction set.
    #[inline(always)]
    unsafe fn write<E: KvElement, S: Simd>(&self) {
        let dim = self.shape.head_dim;
        let out: *mut E::Bits = self.out.get().cast();
        for (t, slot) in self.slots.iter().enumerate() {
            let (block, token) = (*slot as usize / BLOCK_TOKENS, *slot as usize % BLOCK_TOKENS);
            for head in 0..self.shape.heads {
                let (k, v) = (&self.k.row(t)[head * dim..][..dim], &self.v.row(t)[head * dim..][..dim]);
                // SAFETY: slots were checked, so the block lies in the layer; head_dim is a multiple of 16.
                unsafe {
                    let keys = out.add(KvCache::keys_at(self.shape, block, head) + token);
                    let values = out.add(KvCache::values_at(self.shape, block, head) + token * dim);
                    for d in (0..dim).step_by(LANES) {
                        E::store::<S>(values.add(d), S::load(v.as_ptr().add(d)));
                        let mut lanes = [E::Bits::default(); LANES];
                        E::store::<S>(lanes.as_mut_ptr(), S::load(k.as_ptr().add(d)));
                        for (i, lane) in lanes.iter().enumerate() {
                            *keys.add((d + i) * BLOCK_TOKENS) = *lane;
                        }
                    }
                }
            }
        }
    }
}

/// An element format of the cache.
pub(crate) trait KvElement {
    /// An element as it is stored.
    type Bits: Copy + Default;

    /// # Safety
    /// Needs the instruction set, and sixteen elements at `p`.
    unsafe fn load<S: Simd>(p: *const Self::Bits) -> S::F;

    /// # Safety
    /// As `load`.
    unsafe fn store<S: Simd>(p: *mut Self::Bits, x: S::F);
}

macro_rules! kv_element {
    ($name:ident, $bits:ty, $load:ident, $store:ident) => {
        pub(crate) struct $name;
        impl KvElement for $name {
            type Bits = $bits;
            #[inline(always)]
            unsafe fn load<S: Simd>(p: *const $bits) -> S::F {
                // SAFETY: the caller's.
                unsafe { S::$load(p) }
            }
            #[inline(always)]
            unsafe fn store<S: Simd>(p: *mut $bits, x: S::F) {
                // SAFETY: the caller's.
                unsafe { S::$store(p, x) }
            }
        }
    };
}
kv_element!(KvF32, f32, load, store);
kv_element!(KvF16, u16, load_f16, store_f16);
