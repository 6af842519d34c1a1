//! The forward pass as launches: eight for a layer, nine where gate and up have different formats.
//!
//! Invariants: as on the host (`model/forward.rs`): it names no architecture and allocates nothing.

use super::staging::Staging;
use super::{Buffers, GpuVector, Parts};
use crate::batch::Batch;
use crate::model::spec::{LayerSpec, ModelSpec};
use crate::model::weights::LayerWeights;
use aieng_cuda::act_mul::act_mul;
use aieng_cuda::attention::{GpuSequences, attention};
use aieng_cuda::embed::embed;
use aieng_cuda::linear::{GpuWeight, gate_up, linear};
use aieng_cuda::rms_norm::add_rms_norm;
use aieng_cuda::rope::{RopeKvParams, rope_kv_write};
use aieng_cuda::{Element, Gpu, GpuBuffer, GpuError, GpuTensor};
use aieng_kernels::attention::AttentionParams;
use std::ops::Range;

/// The integers of a step, on the device, and what the host knows of them.
pub(super) struct Step<'a> {
    token_ids: GpuTensor<'a>,
    positions: GpuTensor<'a>,
    slots: GpuTensor<'a>,
    sequences: GpuSequences<'a>,
}

impl<'a> Step<'a> {
    /// Of any batch of `size` sequences of one token, none longer than `context`; some may be padding.
    pub(super) fn decoding(staging: &'a Staging, size: usize, context: usize) -> Step<'a> {
        Step::new(staging, size, size, 1, context)
    }

    /// Of this batch.
    pub(super) fn of(staging: &'a Staging, batch: &Batch) -> Step<'a> {
        let rows = batch.cu_seqlens_q.windows(2).map(|w| (w[1] - w[0]) as usize).max().unwrap_or(0);
        let context = batch.context_lens.iter().max().map_or(0, |len| *len as usize);
        Step::new(staging, batch.len(), batch.context_lens.len(), rows, context)
    }

    fn new(staging: &'a Staging, tokens: usize, sequences: usize, max_q_len: usize, max_context: usize) -> Step<'a> {
        Step {
            token_ids: staging.token_ids(tokens),
            positions: staging.positions(tokens),
            slots: staging.slots(tokens),
            sequences: GpuSequences {
                cu_seqlens_q: staging.cu_seqlens_q(sequences),
                context_lens: staging.context_lens(sequences),
                block_tables: staging.block_tables(),
                cu_blocks: staging.cu_blocks(sequences),
                sequences,
                max_q_len,
                max_context,
            },
        }
    }

    fn tokens(&self) -> usize {
        self.token_ids.cols()
    }
}

/// `[rows, cols]` of bf16.
fn bf16(buffer: &GpuBuffer, rows: usize, cols: usize) -> GpuTensor<'_> {
    GpuTensor::new(buffer, Element::BF16, rows, cols)
}

/// Runs a step's tokens through all layers: their keys and values are then in the cache, and their normed hidden states in
/// `buffers.normed`.
pub(super) fn launch(
    gpu: &Gpu,
    spec: &ModelSpec,
    parts: &Parts,
    buffers: &Buffers,
    step: &Step,
) -> Result<(), GpuError> {
    let residual = GpuTensor::new(&buffers.residual, Element::F32, step.tokens(), spec.hidden);
    embed(gpu, &parts.weights.embedding, step.token_ids, spec.embedding_scale, residual)?;
    let pass = Pass { gpu, spec, parts, buffers, step, residual };
    // What the sublayer before adds to the residual stream, and the norm behind it.
    let mut delta = None;
    for (i, (layer, w)) in spec.layers.iter().zip(&parts.weights.layers).enumerate() {
        pass.norm(delta, &w.attn_norm)?;
        pass.attention(i, layer, w)?;
        pass.norm(Some(w.attn_post_norm.as_ref()), &w.mlp_norm)?;
        pass.feed_forward(layer, w)?;
        delta = Some(w.mlp_post_norm.as_ref());
    }
    pass.norm(delta, &parts.weights.norm)
}

/// One step on its way through the layers.
struct Pass<'a> {
    gpu: &'a Gpu,
    spec: &'a ModelSpec,
    parts: &'a Parts,
    buffers: &'a Buffers,
    step: &'a Step<'a>,
    residual: GpuTensor<'a>,
}

impl Pass<'_> {
    /// residual += post_norm(delta); normed = norm(residual). There is no delta before the first layer.
    fn norm(&self, delta: Option<Option<&GpuVector>>, weight: &GpuVector) -> Result<(), GpuError> {
        let (t, hidden) = (self.step.tokens(), self.spec.hidden);
        let post = delta.flatten().map(GpuVector::view);
        let post = post.as_ref();
        let delta = delta.map(|_| bf16(&self.buffers.delta, t, hidden));
        let normed = bf16(&self.buffers.normed, t, hidden);
        add_rms_norm(self.gpu, self.residual, delta, post, &weight.view(), self.spec.norm_eps, normed)
    }

    /// delta = attention(normed)
    fn attention(
        &self,
        index: usize,
        layer: &LayerSpec,
        w: &LayerWeights<GpuWeight, GpuVector>,
    ) -> Result<(), GpuError> {
        let Pass { gpu, spec, parts, buffers, step, .. } = *self;
        let (attn, t) = (&layer.attn, step.tokens());
        let qkv = bf16(&buffers.qkv, t, attn.qkv_cols());
        linear(gpu, bf16(&buffers.normed, t, spec.hidden), &w.qkv, qkv)?;
        let rope = &spec.ropes[attn.rope];
        let params = RopeKvParams {
            heads: attn.heads,
            kv_heads: attn.kv_heads,
            head_dim: attn.head_dim,
            dims: rope.dims,
            style: rope.style,
            q_norm: w.q_norm.as_ref().map(GpuVector::view),
            k_norm: w.k_norm.as_ref().map(GpuVector::view),
            eps: spec.norm_eps,
        };
        let table = GpuTensor::new(&parts.tables[attn.rope], Element::F32, parts.context, rope.dims);
        rope_kv_write(gpu, qkv, &params, table, step.positions, step.slots, &parts.cache, index)?;
        let params =
            AttentionParams { heads: attn.heads, scale: attn.scale, window: attn.window, softcap: attn.softcap };
        let (q, attended) = (qkv.columns(0..attn.q_cols()), bf16(&buffers.attended, t, attn.q_cols()));
        attention(gpu, q, &parts.cache, index, &step.sequences, params, &parts.workspace, attended)?;
        linear(gpu, attended, &w.output, bf16(&buffers.delta, t, spec.hidden))
    }

    /// delta = down(act(gate) * up), gate and up of normed
    fn feed_forward(&self, layer: &LayerSpec, w: &LayerWeights<GpuWeight, GpuVector>) -> Result<(), GpuError> {
        let Pass { gpu, spec, buffers, step, .. } = *self;
        let (mlp, t) = (&layer.mlp, step.tokens());
        let (normed, gated) = (bf16(&buffers.normed, t, spec.hidden), bf16(&buffers.gated, t, mlp.width));
        if w.gate_up.is_gated() {
            gate_up(gpu, normed, &w.gate_up, mlp.activation, gated)?;
        } else {
            let both = bf16(&buffers.gate_up, t, 2 * mlp.width);
            linear(gpu, normed, &w.gate_up, both)?;
            act_mul(gpu, both, mlp.activation, gated)?;
        }
        linear(gpu, gated, &w.down, bf16(&buffers.delta, t, spec.hidden))
    }
}

/// The hidden states of the tokens that logits are wanted of, into `buffers.last`.
pub(super) fn gather(
    gpu: &Gpu,
    spec: &ModelSpec,
    buffers: &Buffers,
    staging: &Staging,
    batch: &Batch,
) -> Result<(), GpuError> {
    let (t, n) = (batch.len(), batch.logits_indices.len());
    let (normed, last) = (bf16(&buffers.normed, t, spec.hidden), bf16(&buffers.last, n, spec.hidden));
    aieng_cuda::gather::gather(gpu, normed, staging.logits_indices(n), last)
}

/// Logits of some of those tokens.
pub(super) fn logits(
    gpu: &Gpu,
    spec: &ModelSpec,
    parts: &Parts,
    buffers: &Buffers,
    rows: Range<usize>,
) -> Result<(), GpuError> {
    let head = parts.weights.head();
    let last = bf16(&buffers.last, buffers.tokens, spec.hidden).row_range(rows.clone());
    linear(gpu, last, head, GpuTensor::new(&buffers.logits, Element::F32, rows.len(), head.rows()))
}
