//! Gemma 3 (arXiv:2503.19786): norms on both sides, five sliding-window layers to each full one, two rotary bases,
//! scaled embeddings. The converter has folded the `1 +` of the norms' weights.

use super::{Activation, Keys, ModelSpec, RopeSpec, Scaling};
use crate::Result;
use aieng_kernels::rope::Style;

/// Each sixth layer sees the whole context.
const PERIOD: usize = 6;
/// Layers of the 27B model, which scales scores by hidden / heads instead of head_dim.
const LAYERS_27B: usize = 62;

pub(super) fn spec(keys: &Keys) -> Result<ModelSpec> {
    let mut spec = keys.base(Style::Neox)?;
    spec.embedding_scale = (spec.hidden as f32).sqrt();
    let global = RopeSpec { base: keys.positive("rope.freq_base")?.unwrap_or(1_000_000.0), ..spec.ropes[0] };
    let local_base = keys.positive("rope.local.freq_base")?.unwrap_or(10_000.0);
    let local = RopeSpec { base: local_base, scaling: Scaling::None, ..global };
    spec.ropes = vec![global, local];
    let window = keys.dim("attention.sliding_window")?;
    let (hidden, layers) = (spec.hidden, spec.layers.len());
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        layer.post_norms = true;
        layer.mlp.activation = Activation::GeluTanh;
        layer.attn.qk_norm = true;
        if layers == LAYERS_27B {
            layer.attn.scale = 1.0 / (hidden as f32 / layer.attn.heads as f32).sqrt();
        }
        if (i + 1) % PERIOD != 0 && window.is_some() {
            layer.attn.rope = 1;
            layer.attn.window = window.map(|w| w as u32);
        }
    }
    Ok(spec)
}
