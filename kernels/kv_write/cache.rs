//! The KV cache's memory.
//!
//! The cache of a layer is a pool of blocks of 16 tokens. Token `t` of block `b` is slot `16 b + t`. A layer holds the
//! keys of its first head in all blocks, that head's values in all blocks, and so on with each head: attention reads a
//! head's keys, then its values, and so does it in order where a sequence's blocks follow each other. Within a head and
//! block, keys are stored `[head_dim][16]` and values `[16][head_dim]`: the scores of a block's 16 tokens then fill one
//! vector without crossing lanes, and a value's elements are contiguous for the weighted sum. With [`KvDType::BF16`] two
//! rows of each are interleaved, as products of bf16 pairs want them: keys are `[head_dim / 2][16][2]` and values
//! `[8][head_dim][2]`. With [`KvDType::Q8`] the 16 scales of a head's tokens follow its codes in each block, whose content
//! so follows from its own tokens alone.

use crate::cpu::LANES;
use crate::linear::OutOfMemory;
use crate::{AlignedBuffer, BLOCK_TOKENS};
use std::ops::Range;

/// Element format of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvDType {
    /// 32-bit floats.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    BF16,
    /// 8-bit codes, with an f32 scale for each token's key and each token's value in each head: `x = code * scale`.
    Q8,
}

impl KvDType {
    /// All of them, the largest first.
    pub const ALL: [KvDType; 4] = [KvDType::F32, KvDType::F16, KvDType::BF16, KvDType::Q8];

    /// The name that options and reports use: "f32", "f16", "bf16", "q8".
    pub fn name(self) -> &'static str {
        match self {
            KvDType::F32 => "f32",
            KvDType::F16 => "f16",
            KvDType::BF16 => "bf16",
            KvDType::Q8 => "q8",
        }
    }

    /// Rows that are interleaved: keys of neighbouring dimensions, values of neighbouring tokens.
    pub(crate) fn pairing(self) -> usize {
        if self == KvDType::BF16 { 2 } else { 1 }
    }

    /// Place of element `d` of token `token`'s key among the elements of its head in a block.
    pub(crate) fn key_index(self, d: usize, token: usize) -> usize {
        interleaved(d, token, BLOCK_TOKENS, self.pairing())
    }

    /// Place of element `d` of token `token`'s value among the elements of its head in a block.
    pub(crate) fn value_index(self, d: usize, token: usize, head_dim: usize) -> usize {
        interleaved(token, d, head_dim, self.pairing())
    }

    /// Bytes of an element, and of the scales of a head's 16 keys (or values).
    fn bytes(self) -> (usize, usize) {
        match self {
            KvDType::F32 => (4, 0),
            KvDType::F16 | KvDType::BF16 => (2, 0),
            KvDType::Q8 => (1, BLOCK_TOKENS * size_of::<f32>()),
        }
    }
}

/// Place of column `col` of row `row` where `pairing` rows of `cols` columns are interleaved.
#[inline(always)]
pub(super) fn interleaved(row: usize, col: usize, cols: usize, pairing: usize) -> usize {
    (row / pairing * cols + col) * pairing + row % pairing
}

/// What one layer stores for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// KV heads.
    pub heads: usize,
    /// Elements of a head's key, and of its value.
    pub head_dim: usize,
}

/// Keys and values of all layers. Memory is taken from the system as blocks are first written.
#[derive(Debug)]
pub struct KvCache {
    dtype: KvDType,
    layers: Vec<KvShape>,
    blocks: usize,
    buffer: AlignedBuffer,
    /// Where each layer begins, in bytes.
    offsets: Vec<usize>,
}

impl KvCache {
    /// A cache of `blocks` blocks for `layers`; panics unless every head_dim is a multiple of 16.
    pub fn new(dtype: KvDType, layers: Vec<KvShape>, blocks: usize) -> Result<KvCache, OutOfMemory> {
        assert!(layers.iter().all(|l| l.head_dim.is_multiple_of(LANES)), "head_dim is no multiple of {LANES}");
        let mut offsets = Vec::with_capacity(layers.len());
        let mut bytes = 0usize;
        for layer in &layers {
            offsets.push(bytes);
            let block = layer.heads.saturating_mul(2).saturating_mul(head_bytes(*layer, dtype));
            bytes = bytes.saturating_add(block.saturating_mul(blocks));
        }
        let buffer = AlignedBuffer::new(bytes).ok_or(OutOfMemory { bytes })?;
        Ok(KvCache { dtype, layers, blocks, buffer, offsets })
    }

    /// Bytes of a block in all layers together.
    pub fn bytes_of_block(dtype: KvDType, layers: &[KvShape]) -> usize {
        let of_layer = |l: &KvShape| l.heads.saturating_mul(2).saturating_mul(head_bytes(*l, dtype));
        layers.iter().fold(0, |sum, layer| sum.saturating_add(of_layer(layer)))
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
        self.buffer.as_slice().len()
    }

    /// What layer `layer` stores for a token.
    pub fn shape(&self, layer: usize) -> KvShape {
        self.layers[layer]
    }

    /// Copies what block `from` holds to block `to`, in all layers. Panics for a block outside the cache.
    pub fn copy_block(&mut self, from: u32, to: u32) {
        let (from, to) = (from as usize, to as usize);
        assert!(from < self.blocks && to < self.blocks, "a block outside the cache's {}", self.blocks);
        for layer in 0..self.layers.len() {
            let Layout { blocks, head_bytes } = self.layout(layer);
            for side in self.layer_mut(layer).chunks_exact_mut(blocks * head_bytes) {
                side.copy_within(from * head_bytes..(from + 1) * head_bytes, to * head_bytes);
            }
        }
    }

    /// Bytes of a block of layer `layer`.
    pub fn block_bytes(&self, layer: usize) -> usize {
        2 * self.layers[layer].heads * head_bytes(self.layers[layer], self.dtype)
    }

    fn layer_range(&self, layer: usize) -> Range<usize> {
        self.offsets[layer]..self.offsets[layer] + self.block_bytes(layer) * self.blocks
    }

    /// The bytes of layer `layer`.
    pub(crate) fn layer(&self, layer: usize) -> &[u8] {
        &self.buffer.as_slice()[self.layer_range(layer)]
    }

    pub(super) fn layer_mut(&mut self, layer: usize) -> &mut [u8] {
        let range = self.layer_range(layer);
        &mut self.buffer.as_mut_slice()[range]
    }

    /// Where a layer's heads lie.
    pub(crate) fn layout(&self, layer: usize) -> Layout {
        Layout { blocks: self.blocks, head_bytes: head_bytes(self.layers[layer], self.dtype) }
    }
}

/// Bytes of one head's keys, or values, in one block.
fn head_bytes(shape: KvShape, dtype: KvDType) -> usize {
    let (element, scales) = dtype.bytes();
    shape.head_dim.saturating_mul(BLOCK_TOKENS * element).saturating_add(scales)
}

/// Where the heads of a layer's blocks lie, in bytes from the layer's beginning.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    blocks: usize,
    head_bytes: usize,
}

impl Layout {
    /// A head's keys in a block.
    #[inline(always)]
    pub(crate) fn keys_at(self, block: usize, head: usize) -> usize {
        (2 * head * self.blocks + block) * self.head_bytes
    }

    /// A head's values in a block.
    #[inline(always)]
    pub(crate) fn values_at(self, block: usize, head: usize) -> usize {
        self.keys_at(self.blocks + block, head)
    }
}
