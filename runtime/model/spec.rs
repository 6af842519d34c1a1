//! A model as data: what [`super::forward`] needs to know, and nothing about where it came from.

use aieng_kernels::act_mul::Activation;
use aieng_kernels::rope::{Scaling, Style};

/// A decoder-only transformer.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// The file's name for the architecture, as in "llama".
    pub architecture: String,
    /// The model's own name, if its file has one.
    pub name: Option<String>,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Positions that the model was made for.
    pub context: usize,
    /// Added to the mean of squares in every norm.
    pub norm_eps: f32,
    /// Multiplies embeddings (Gemma: the root of `hidden`).
    pub embedding_scale: f32,
    /// Bends logits into (-cap, cap).
    pub logit_softcap: Option<f32>,
    /// Rotary embeddings that layers refer to by index.
    pub ropes: Vec<RopeSpec>,
    /// From the first to the last.
    pub layers: Vec<LayerSpec>,
}

/// A rotary embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RopeSpec {
    /// Which elements make a pair.
    pub style: Style,
    /// Elements of a head that turn.
    pub dims: usize,
    /// Base of the frequencies.
    pub base: f32,
    /// Stretching to longer contexts.
    pub scaling: Scaling,
}

/// One layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerSpec {
    /// Attention.
    pub attn: AttnSpec,
    /// Feed-forward network.
    pub mlp: MlpSpec,
    /// Norms behind attention and feed-forward network too (Gemma).
    pub post_norms: bool,
}

/// Attention of one layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttnSpec {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Multiplies scores.
    pub scale: f32,
    /// Index into [`ModelSpec::ropes`].
    pub rope: usize,
    /// Sliding window in tokens.
    pub window: Option<u32>,
    /// Bends scores into (-cap, cap).
    pub softcap: Option<f32>,
    /// Norms of each query and key head (Qwen 3, Gemma 3).
    pub qk_norm: bool,
    /// Biases of the q, k and v projections (Qwen 2).
    pub qkv_bias: bool,
}

/// Gated feed-forward network of one layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MlpSpec {
    /// Features of the gate.
    pub width: usize,
    /// Of the gate.
    pub activation: Activation,
}

impl AttnSpec {
    /// Columns of all query heads.
    pub fn q_cols(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Columns of all key heads, and of all value heads.
    pub fn kv_cols(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Columns of queries, keys and values side by side.
    pub fn qkv_cols(&self) -> usize {
        self.q_cols() + 2 * self.kv_cols()
    }
}

impl ModelSpec {
    /// Bytes of keys and values of one token, with elements of `element` bytes.
    pub fn kv_bytes_per_token(&self, element: usize) -> usize {
        self.layers.iter().map(|l| 2 * l.attn.kv_cols() * element).sum()
    }
}
