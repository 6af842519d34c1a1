//! Writing new keys and values into the KV cache, whose memory is [`KvCache`].

mod cache;
mod element;
#[cfg(test)]
mod tests;

pub(crate) use cache::Layout;
pub use cache::{KvCache, KvDType, KvShape};
pub(crate) use element::{KvBf16, KvElement, KvF16, KvF32, KvQ8};

use crate::cpu::{Kernel, LANES, Portable, Simd, SyncMutPtr};
use crate::{BLOCK_TOKENS, Device, Tensor};
use cache::interleaved;
use element::scale_of;
use half::{bf16, f16};
use std::ops::Range;

/// Writes keys and values of T tokens of layer `layer` into their slots.
///
/// Shapes: k and v `[T, heads * head_dim]`, slots `[T]`, all different, each below `16 * blocks`. Panics otherwise, except
/// for slots that are not different, of which one is written.
pub fn kv_write(device: &Device, k: Tensor, v: Tensor, slots: &[u32], cache: &mut KvCache, layer: usize) {
    let shape = cache.shape(layer);
    let cols = shape.heads * shape.head_dim;
    assert_eq!((k.rows(), k.cols()), (slots.len(), cols), "shape of k");
    assert_eq!((v.rows(), v.cols()), (slots.len(), cols), "shape of v");
    let most = cache.blocks() * BLOCK_TOKENS;
    assert!(slots.iter().all(|s| (*s as usize) < most), "a slot outside the cache's {most}");
    let (dtype, layout) = (cache.dtype(), cache.layout(layer));
    let out = SyncMutPtr(cache.layer_mut(layer).as_mut_ptr());
    let write = Write { k, v, slots, shape, layout, dtype, out, tokens: 0..slots.len() };
    match device {
        Device::Reference => write.run::<Portable>(),
        // Two threads may write to one cache line, where a block's tokens are shared out, but never to one byte.
        Device::Cpu(cpu) => cpu.parallel(slots.len(), GRAIN, |tokens| Write { tokens, ..write.clone() }),
    }
}

/// Tokens for which another thread is worth its while.
const GRAIN: usize = 8;

/// A copy with at most one rounding, so one body serves every device.
#[derive(Clone)]
struct Write<'a> {
    k: Tensor<'a>,
    v: Tensor<'a>,
    slots: &'a [u32],
    shape: KvShape,
    layout: Layout,
    dtype: KvDType,
    out: SyncMutPtr<u8>,
    tokens: Range<usize>,
}

impl Kernel for Write<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        // SAFETY: the cache's elements are of `dtype`, and aligned; Isa::run vouches for the instruction set.
        unsafe {
            match self.dtype {
                KvDType::F32 => self.write::<KvF32, S>(),
                KvDType::F16 => self.write::<KvF16, S>(),
                KvDType::BF16 => self.write::<KvBf16, S>(),
                KvDType::Q8 => self.write::<KvQ8, S>(),
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
        let place = |t: usize| (self.slots[t] as usize / BLOCK_TOKENS, self.slots[t] as usize % BLOCK_TOKENS);
        for t in self.tokens.clone() {
            let (block, token) = place(t);
            let next = place((t + 1).min(self.tokens.end - 1));
            if next.0 != block {
                // SAFETY: as below.
                unsafe { self.prefetch::<E, S>(next.0, next.1) }
            }
            for head in 0..self.shape.heads {
                let (k, v) = (&self.k.row(t)[head * dim..][..dim], &self.v.row(t)[head * dim..][..dim]);
                // SAFETY: slots were checked, so the block lies in the layer; head_dim is a multiple of 16.
                unsafe {
                    let keys: *mut E::Bits = self.out.get().add(self.layout.keys_at(block, head)).cast();
                    let values: *mut E::Bits = self.out.get().add(self.layout.values_at(block, head)).cast();
                    let mut inverse = [1.0; 2];
                    if E::SCALED {
                        for (i, (codes, x)) in [(keys, k), (values, v)].into_iter().enumerate() {
                            let scale;
                            (scale, inverse[i]) = scale_of::<S>(x.as_ptr(), dim);
                            *codes.add(dim * BLOCK_TOKENS).cast::<f32>().add(token) = scale;
                        }
                    }
                    self.write_token::<E, S>(keys, values, token, k, v, inverse);
                }
            }
        }
    }

    /// Asks for the lines that a token's keys and values will be written to: one for every `PAIRING` elements of a key. Where each
    /// token of a step is another sequence's, they come from memory.
    ///
    /// # Safety
    /// As [`Write::write`].
    #[inline(always)]
    unsafe fn prefetch<E: KvElement, S: Simd>(&self, block: usize, token: usize) {
        let dim = self.shape.head_dim;
        for head in 0..self.shape.heads {
            // SAFETY: the caller's; the block lies in the layer.
            unsafe {
                let keys: *const E::Bits = self.out.get().add(self.layout.keys_at(block, head)).cast();
                for d in (0..dim).step_by(E::PAIRING) {
                    S::prefetch(keys.add(interleaved(d, token, BLOCK_TOKENS, E::PAIRING)).cast());
                }
                let values: *const E::Bits = self.out.get().add(self.layout.values_at(block, head)).cast();
                for d in (0..dim).step_by(LANES) {
                    S::prefetch(values.add(interleaved(token, d, dim, E::PAIRING)).cast());
                }
            }
        }
    }

    /// Writes a token's key and value, each multiplied by its inverse scale.
    ///
    /// # Safety
    /// As [`Write::write`]; the pointers are those of the block's first elements.
    #[inline(always)]
    unsafe fn write_token<E: KvElement, S: Simd>(
        &self,
        keys: *mut E::Bits,
        values: *mut E::Bits,
        token: usize,
        k: &[f32],
        v: &[f32],
        inverse: [f32; 2],
    ) {
        let dim = self.shape.head_dim;
        // SAFETY: the caller's.
        unsafe {
            for d in (0..dim).step_by(LANES) {
                let (mut k, mut v) = (S::load(k.as_ptr().add(d)), S::load(v.as_ptr().add(d)));
                if E::SCALED {
                    (k, v) = (S::mul(k, S::splat(inverse[0])), S::mul(v, S::splat(inverse[1])));
                }
                let mut lanes = [[E::Bits::default(); LANES]; 2];
                E::store::<S>(lanes[0].as_mut_ptr(), k);
                E::store::<S>(lanes[1].as_mut_ptr(), v);
                // A pair of a key's elements is written at once.
                for i in (0..LANES).step_by(E::PAIRING) {
                    let pair = keys.add(interleaved(d + i, token, BLOCK_TOKENS, E::PAIRING));
                    pair.copy_from_nonoverlapping(lanes[0].as_ptr().add(i), E::PAIRING);
                }
                for (i, value) in lanes[1].into_iter().enumerate() {
                    *values.add(interleaved(token, d + i, dim, E::PAIRING)) = value;
                }
            }
        }
    }
}

/// Element `index` of the head whose keys or values begin at byte `start` of layer `layer`, for token `token` of the block:
/// scalar, for the oracle.
pub(crate) fn read(cache: &KvCache, layer: usize, start: usize, index: usize, token: usize) -> f64 {
    let head = &cache.layer(layer)[start..];
    let scales = cache.shape(layer).head_dim * BLOCK_TOKENS;
    match cache.dtype() {
        KvDType::F32 => f64::from(bytemuck::pod_read_unaligned::<f32>(&head[4 * index..][..4])),
        KvDType::F16 => bytemuck::pod_read_unaligned::<f16>(&head[2 * index..][..2]).to_f64(),
        KvDType::BF16 => bytemuck::pod_read_unaligned::<bf16>(&head[2 * index..][..2]).to_f64(),
        KvDType::Q8 => {
            let scale = bytemuck::pod_read_unaligned::<f32>(&head[scales + 4 * token..][..4]);
            f64::from(head[index] as i8) * f64::from(scale)
        }
    }
}
