//! A step's integers on their way to the device: one piece of memory, one upload.
//!
//! Each array has a place of its own that never changes, so that recorded launches find it; block tables, whose length
//! varies most, stand last, and what lies behind them is not uploaded.

use super::super::Limits;
use crate::batch::Batch;
use crate::{Error, Result};
use aieng_cuda::rope::NO_SLOT;
use aieng_cuda::{Element, Gpu, GpuBuffer, GpuTensor, PinnedBuffer};
use aieng_kernels::BLOCK_TOKENS;
use std::ops::Range;

/// Places of the arrays, in integers from the beginning.
#[derive(Debug, Clone, Copy)]
struct Places {
    token_ids: usize,
    positions: usize,
    slots: usize,
    logits_indices: usize,
    copies: usize,
    cu_seqlens_q: usize,
    context_lens: usize,
    cu_blocks: usize,
    block_tables: usize,
    end: usize,
}

impl Places {
    /// For so many tokens and sequences, and `tables` entries of block tables.
    fn new(tokens: usize, sequences: usize, tables: usize) -> Places {
        let mut end = 0;
        // Vector loads want 16 bytes.
        let mut take = |n: usize| {
            let place = end;
            end += n.next_multiple_of(4);
            place
        };
        let [token_ids, positions, slots, logits_indices] = [(); 4].map(|()| take(tokens));
        let copies = take(2 * sequences);
        let (cu_seqlens_q, context_lens, cu_blocks) = (take(sequences + 1), take(sequences), take(sequences + 1));
        let block_tables = take(tables);
        let end = block_tables + tables;
        Places {
            token_ids,
            positions,
            slots,
            logits_indices,
            copies,
            cu_seqlens_q,
            context_lens,
            cu_blocks,
            block_tables,
            end,
        }
    }
}

/// Pinned memory, and its image on the device.
#[derive(Debug)]
pub(super) struct Staging {
    host: PinnedBuffer,
    device: GpuBuffer,
    places: Places,
    /// Room for this many tokens and sequences.
    tokens: usize,
    sequences: usize,
}

impl Staging {
    pub(super) fn new(gpu: &Gpu, tokens: usize, limits: Limits, blocks: usize) -> Result<Staging> {
        // A padded batch has more sequences than the scheduler knows of.
        let sequences = tokens.min(limits.sequences.next_power_of_two());
        let tables = limits.sequences.saturating_mul(limits.context.div_ceil(BLOCK_TOKENS).min(blocks));
        let places = Places::new(tokens, sequences, tables);
        let too_large = || Error::OutOfMemory(format!("block tables of {tables} entries"));
        let bytes = places.end.checked_mul(size_of::<u32>()).ok_or_else(too_large)?;
        let (host, device) = (gpu.alloc_pinned(bytes)?, gpu.alloc(bytes)?);
        Ok(Staging { host, device, places, tokens, sequences })
    }

    /// Uploads the batch, padded to `tokens` tokens if that is more than it has: then each is a sequence of its own.
    /// What was uploaded last must have arrived. Panics if there is no room.
    pub(super) fn upload(&mut self, batch: &Batch, tokens: usize) -> Result<()> {
        let (places, sequences) = (self.places, batch.context_lens.len());
        let padding = tokens - batch.len();
        assert!(tokens <= self.tokens && sequences + padding <= self.sequences, "a batch beyond what was planned");
        let all: &mut [u32] = bytemuck::cast_slice_mut(self.host.as_mut_slice());
        let mut put = |place: usize, values: &[u32], padding: usize, value: u32| {
            all[place..place + values.len()].copy_from_slice(values);
            all[place + values.len()..][..padding].fill(value);
        };
        put(places.token_ids, &batch.token_ids, padding, u32::MAX);
        put(places.positions, &batch.positions, padding, 0);
        put(places.slots, &batch.slot_mapping, padding, NO_SLOT);
        put(places.logits_indices, &batch.logits_indices, 0, 0);
        put(places.cu_seqlens_q, &batch.cu_seqlens_q, 0, 0);
        put(places.context_lens, &batch.context_lens, padding, 0);
        put(places.cu_blocks, &batch.cu_blocks, padding, batch.block_tables.len() as u32);
        put(places.block_tables, &batch.block_tables, 0, 0);
        for ((from, to), pair) in batch.copies.iter().zip(all[places.copies..].chunks_exact_mut(2)) {
            pair.copy_from_slice(&[*from, *to]);
        }
        for i in 0..padding {
            all[places.cu_seqlens_q + sequences + 1 + i] = (batch.len() + 1 + i) as u32;
        }
        let end = places.block_tables + batch.block_tables.len();
        Ok(self.device.upload(0, &self.host.as_slice()[..end * size_of::<u32>()])?)
    }

    /// u32 `[1, n]`
    fn array(&self, place: usize, n: usize) -> GpuTensor<'_> {
        GpuTensor::at(&self.device, place * size_of::<u32>(), Element::U32, 1, n)
    }

    pub(super) fn token_ids(&self, n: usize) -> GpuTensor<'_> {
        self.array(self.places.token_ids, n)
    }

    pub(super) fn positions(&self, n: usize) -> GpuTensor<'_> {
        self.array(self.places.positions, n)
    }

    pub(super) fn slots(&self, n: usize) -> GpuTensor<'_> {
        self.array(self.places.slots, n)
    }

    pub(super) fn logits_indices(&self, n: usize) -> GpuTensor<'_> {
        self.array(self.places.logits_indices, n)
    }

    /// Some of the pairs of blocks, u32 `[n, 2]`.
    pub(super) fn copies(&self, pairs: Range<usize>) -> GpuTensor<'_> {
        let first = (self.places.copies + 2 * pairs.start) * size_of::<u32>();
        GpuTensor::at(&self.device, first, Element::U32, pairs.len(), 2)
    }

    pub(super) fn cu_seqlens_q(&self, sequences: usize) -> GpuTensor<'_> {
        self.array(self.places.cu_seqlens_q, sequences + 1)
    }

    pub(super) fn context_lens(&self, sequences: usize) -> GpuTensor<'_> {
        self.array(self.places.context_lens, sequences)
    }

    pub(super) fn cu_blocks(&self, sequences: usize) -> GpuTensor<'_> {
        self.array(self.places.cu_blocks, sequences + 1)
    }

    pub(super) fn block_tables(&self) -> GpuTensor<'_> {
        self.array(self.places.block_tables, self.places.end - self.places.block_tables)
    }
}
