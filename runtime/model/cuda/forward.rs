//! The forward pass as launches: six for a layer, one more where gate and up have different formats, and two more where the
//! model norms what it adds to the residual stream.
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
use aieng_cuda::linear::{GpuWeight, Input, add_linear, gate_up, linear};
use aieng_cuda::rms_norm::{Weighed, add_rms_norm};
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

/// Rows on their way into a norm.
fn weighed(buffer: &GpuBuffer, rows: usize, cols: usize) -> Weighed<'_> {
    Weighed::new(bf16(buffer, rows, Weighed::stride(cols)), cols)
}

/// Runs a step's tokens through all layers: their keys and values are then in the cache, and their hidden states, on their
/// way into the last norm, in `buffers.weighed`.
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
    let layers = &parts.weights.layers;
    let norm_of = |layer: usize| layers.get(layer).map_or(&parts.weights.norm, |w| &w.attn_norm);
    add_rms_norm(gpu, residual, None, norm_of(0).view(), spec.norm_eps, pass.weighed())?;
    for (i, (layer, w)) in spec.layers.iter().zip(layers).enumerate() {
        let attended = pass.attention(i, layer, w)?;
        pass.add(attended, &w.output, w.attn_post_norm.as_ref(), &w.mlp_norm)?;
        let gated = pass.feed_forward(layer, w)?;
        pass.add(gated, &w.down, w.mlp_post_norm.as_ref(), norm_of(i + 1))?;
    }
    Ok(())
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

impl<'a> Pass<'a> {
    fn weighed(&self) -> Weighed<'a> {
        weighed(&self.buffers.weighed, self.step.tokens(), self.spec.hidden)
    }

    fn normed(&self) -> Input<'a> {
        Input::Normed(self.weighed(), self.spec.norm_eps)
    }

    /// residual += post(x Wᵀ), and the way into the next norm.
    fn add(&self, x: GpuTensor, w: &GpuWeight, post: Option<&GpuVector>, next: &GpuVector) -> Result<(), GpuError> {
        let Some(post) = post else {
            return add_linear(self.gpu, x, w, self.residual, next.view(), self.weighed());
        };
        let delta = bf16(&self.buffers.delta, x.rows(), w.rows());
        linear(self.gpu, x, w, delta)?;
        let delta = Some((delta, post.view()));
        add_rms_norm(self.gpu, self.residual, delta, next.view(), self.spec.norm_eps, self.weighed())
    }

    /// attention(norm(residual)), still to be projected.
    fn attention(
        &self,
        index: usize,
        layer: &LayerSpec,
        w: &LayerWeights<GpuWeight, GpuVector>,
    ) -> Result<GpuTensor<'a>, GpuError> {
        let Pass { gpu, spec, parts, buffers, step, .. } = *self;
        let (attn, t) = (&layer.attn, step.tokens());
        let qkv = bf16(&buffers.qkv, t, attn.qkv_cols());
        linear(gpu, self.normed(), &w.qkv, qkv)?;
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
        Ok(attended)
    }

    /// act(gate) * up, both of norm(residual), still to be projected.
    fn feed_forward(
        &self,
        layer: &LayerSpec,
        w: &LayerWeights<GpuWeight, GpuVector>,
    ) -> Result<GpuTensor<'a>, GpuError> {
        let Pass { gpu, buffers, step, .. } = *self;
        let (mlp, t) = (&layer.mlp, step.tokens());
        let gated = bf16(&buffers.gated, t, mlp.width);
        if w.gate_up.is_gated() {
            gate_up(gpu, self.normed(), &w.gate_up, mlp.activation, gated)?;
        } else {
            let both = bf16(&buffers.gate_up, t, 2 * mlp.width);
            linear(gpu, self.normed(), &w.gate_up, both)?;
            act_mul(gpu, both, mlp.activation, gated)?;
        }
        Ok(gated)
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
    let [all, last] =
        [(&buffers.weighed, t), (&buffers.last, n)].map(|(buffer, rows)| weighed(buffer, rows, spec.hidden));
    aieng_cuda::gather::gather(gpu, all.all(), staging.logits_indices(n), last.all())
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
    let last = weighed(&buffers.last, buffers.tokens, spec.hidden).row_range(rows.clone());
    let last = Input::Normed(last, spec.norm_eps);
    linear(gpu, last, head, GpuTensor::new(&buffers.logits, Element::F32, rows.len(), head.rows()))
}
