//! The forward pass: one for every architecture.
//!
//! Invariants: it names no architecture; it allocates nothing; each row of the batch is computed from that row, its own
//! sequence's cache and the weights alone.

use super::host::Host;
use super::profile::{Op, Recorder};
use super::spec::{LayerSpec, ModelSpec, RopeSpec};
use super::weights::{LayerWeights, Weights};
use crate::batch::Batch;
use crate::{Error, Result};
use aieng_kernels::attention::{AttentionParams, Partials, Sequences};
use aieng_kernels::{
    Device, Floats, KvCache, RopeAngles, Scratch, Tensor, TensorMut, add_rms_norm, attention, embed, gate_up, kv_write,
    linear, rms_norm_in_place, rope,
};

/// Activations of one step, for up to `tokens` tokens. F is the widest layer's gate.
#[derive(Debug)]
pub(super) struct Buffers {
    /// `[T, hidden]`: the residual stream.
    residual: Floats,
    /// `[T, hidden]`: what a layer adds to it.
    delta: Floats,
    /// `[T, hidden]`: the normed residual.
    normed: Floats,
    /// `[T, q + k + v]`
    qkv: Floats,
    /// `[T, q]`: attention's result.
    attended: Floats,
    /// `[T, F]`
    gated: Floats,
    /// `[L, hidden]`: final hidden states of the tokens that need logits.
    last: Floats,
    /// `[logits_rows, vocab]`
    pub(super) logits: Floats,
    angles: Vec<RopeAngles>,
    scratch: Scratch,
    partials: Partials,
    /// Stamped behind each operation.
    pub(super) recorder: Recorder,
}

impl Buffers {
    pub(super) fn new(
        spec: &ModelSpec,
        weights: &Weights,
        tokens: usize,
        logits_rows: usize,
        kv_tokens: usize,
    ) -> Result<Buffers> {
        let missing = || Error::OutOfMemory(format!("activations of {tokens} tokens: no memory"));
        let angles = |frequencies| RopeAngles::new(frequencies, tokens).ok_or_else(missing);
        let most = |f: &dyn Fn(&LayerSpec) -> usize| spec.layers.iter().map(f).max().unwrap_or(0);
        let (q, qkv) = (most(&|l| l.attn.q_cols()), most(&|l| l.attn.qkv_cols()));
        let (hidden, width) = (spec.hidden, most(&|l| l.mlp.width));
        let matrix = |rows: usize, cols: usize| {
            let what = || Error::OutOfMemory(format!("activations: no memory for {rows} x {cols} numbers"));
            Floats::new(rows.saturating_mul(cols)).ok_or_else(what)
        };
        let rows = |cols| matrix(tokens, cols);
        Ok(Buffers {
            residual: rows(hidden)?,
            delta: rows(hidden)?,
            normed: rows(hidden)?,
            qkv: rows(qkv)?,
            attended: rows(q)?,
            gated: rows(width)?,
            last: rows(hidden)?,
            logits: matrix(logits_rows, weights.vocab())?,
            angles: weights.ropes.iter().map(angles).collect::<Result<_>>()?,
            scratch: Scratch::new(tokens, weights.matrices()).map_err(|_| missing())?,
            // Where sequences share blocks there may be more context than tokens.
            partials: Partials::new(most(&|l| l.attn.heads), most(&|l| l.attn.head_dim), kv_tokens, logits_rows)
                .map_err(|e| Error::OutOfMemory(format!("attention: no memory for {} bytes", e.bytes)))?,
            recorder: Recorder::default(),
        })
    }
}

/// Runs the batch through all layers.
pub(super) fn forward(host: &mut Host, spec: &ModelSpec, batch: &Batch) {
    let Host { device, weights, cache, buffers, .. } = host;
    let (t, hidden) = (batch.len(), spec.hidden);
    buffers.recorder.stamp(Op::Rest);
    for (angles, frequencies) in buffers.angles.iter_mut().zip(&weights.ropes) {
        angles.set(frequencies, &batch.positions);
    }
    buffers.recorder.stamp(Op::Rope);
    let ids = &batch.token_ids;
    embed(device, &weights.embedding, ids, spec.embedding_scale, &mut TensorMut::new(&mut buffers.residual, t, hidden));
    // What the first layer adds to: nothing yet.
    buffers.delta[..t * hidden].fill(0.0);
    buffers.recorder.stamp(Op::Embed);
    for (i, (layer, w)) in spec.layers.iter().zip(&weights.layers).enumerate() {
        let pass = Pass { device, batch, layer, w, ropes: &spec.ropes, eps: spec.norm_eps, hidden };
        pass.attention(cache, i, buffers);
        pass.feed_forward(buffers);
    }
    let (mut residual, mut normed) =
        (TensorMut::new(&mut buffers.residual, t, hidden), TensorMut::new(&mut buffers.normed, t, hidden));
    let delta = Tensor::new(&buffers.delta, t, hidden);
    add_rms_norm(device, &mut residual, delta, &weights.norm, spec.norm_eps, &mut normed);
    buffers.recorder.stamp(Op::Norm);
    for (row, index) in buffers.last.chunks_exact_mut(hidden).zip(&batch.logits_indices) {
        row.copy_from_slice(&buffers.normed[*index as usize * hidden..][..hidden]);
    }
}

/// Computes the logits of `rows` of the last batch's `logits_indices`, at most as many as there is room for.
pub(super) fn compute_logits(host: &mut Host, spec: &ModelSpec, rows: std::ops::Range<usize>) {
    let Host { device, weights, buffers, .. } = host;
    buffers.recorder.stamp(Op::Rest);
    let (n, vocab, hidden) = (rows.len(), weights.vocab(), spec.hidden);
    let last = Tensor::new(&buffers.last[rows.start * hidden..], n, hidden);
    let mut logits = TensorMut::new(&mut buffers.logits, n, vocab);
    linear(device, last, weights.head(), &mut buffers.scratch, &mut logits);
    if let Some(cap) = spec.logit_softcap {
        buffers.logits[..n * vocab].iter_mut().for_each(|x| *x = cap * (*x / cap).tanh());
    }
    buffers.recorder.stamp(Op::Head);
}

/// One layer of one step.
struct Pass<'a> {
    device: &'a Device,
    batch: &'a Batch,
    layer: &'a LayerSpec,
    w: &'a LayerWeights,
    ropes: &'a [RopeSpec],
    eps: f32,
    hidden: usize,
}

impl Pass<'_> {
    /// delta = post_norm(attention(norm(residual += delta)))
    fn attention(&self, cache: &mut KvCache, index: usize, b: &mut Buffers) {
        let Pass { device, batch, w, eps, .. } = *self;
        let (attn, t) = (&self.layer.attn, batch.len());
        let (q_cols, kv_cols) = (attn.q_cols(), attn.kv_cols());
        self.add_and_norm(&w.attn_norm, b);

        let mut qkv = TensorMut::new(&mut b.qkv, t, attn.qkv_cols());
        linear(device, Tensor::new(&b.normed, t, self.hidden), &w.qkv, &mut b.scratch, &mut qkv);
        b.recorder.stamp(Op::Qkv);
        if let (Some(q_norm), Some(k_norm)) = (&w.q_norm, &w.k_norm) {
            rms_norm_in_place(device, &mut qkv.columns_mut(0..q_cols), q_norm, eps);
            rms_norm_in_place(device, &mut qkv.columns_mut(q_cols..q_cols + kv_cols), k_norm, eps);
            b.recorder.stamp(Op::Norm);
        }
        // Queries and keys stand side by side: one call turns both.
        let (angles, style) = (&b.angles[attn.rope], self.ropes[attn.rope].style);
        rope(device, &mut qkv.columns_mut(0..q_cols + kv_cols), attn.head_dim, style, angles);
        b.recorder.stamp(Op::Rope);

        let qkv = qkv.view();
        let (k, v) = (qkv.columns(q_cols..q_cols + kv_cols), qkv.columns(q_cols + kv_cols..attn.qkv_cols()));
        kv_write(device, k, v, &batch.slot_mapping, cache, index);
        b.recorder.stamp(Op::KvWrite);
        let sequences = Sequences {
            cu_seqlens_q: &batch.cu_seqlens_q,
            context_lens: &batch.context_lens,
            block_tables: &batch.block_tables,
            cu_blocks: &batch.cu_blocks,
        };
        let params =
            AttentionParams { heads: attn.heads, scale: attn.scale, window: attn.window, softcap: attn.softcap };
        let mut attended = TensorMut::new(&mut b.attended, t, q_cols);
        attention(device, qkv.columns(0..q_cols), cache, index, sequences, params, &mut b.partials, &mut attended);
        b.recorder.stamp(Op::Attention);

        let mut delta = TensorMut::new(&mut b.delta, t, self.hidden);
        linear(device, attended.view(), &w.output, &mut b.scratch, &mut delta);
        b.recorder.stamp(Op::Output);
        if let Some(norm) = &w.attn_post_norm {
            rms_norm_in_place(device, &mut delta, norm, eps);
            b.recorder.stamp(Op::Norm);
        }
    }

    /// delta = post_norm(down(act(gate) * up)), gate and up of norm(residual += delta)
    fn feed_forward(&self, b: &mut Buffers) {
        let Pass { device, w, eps, .. } = *self;
        let (mlp, t) = (&self.layer.mlp, self.batch.len());
        self.add_and_norm(&w.mlp_norm, b);

        let mut gated = TensorMut::new(&mut b.gated, t, mlp.width);
        let normed = Tensor::new(&b.normed, t, self.hidden);
        gate_up(device, normed, &w.gate_up, mlp.activation, &mut b.scratch, &mut gated);
        b.recorder.stamp(Op::GateUp);

        let mut delta = TensorMut::new(&mut b.delta, t, self.hidden);
        linear(device, gated.view(), &w.down, &mut b.scratch, &mut delta);
        b.recorder.stamp(Op::Down);
        if let Some(norm) = &w.mlp_post_norm {
            rms_norm_in_place(device, &mut delta, norm, eps);
            b.recorder.stamp(Op::Norm);
        }
    }

    /// residual += delta; normed = norm(residual)
    fn add_and_norm(&self, weight: &[f32], b: &mut Buffers) {
        let t = self.batch.len();
        let mut residual = TensorMut::new(&mut b.residual, t, self.hidden);
        let mut normed = TensorMut::new(&mut b.normed, t, self.hidden);
        let delta = Tensor::new(&b.delta, t, self.hidden);
        add_rms_norm(self.device, &mut residual, delta, weight, self.eps, &mut normed);
        b.recorder.stamp(Op::Norm);
    }
}
