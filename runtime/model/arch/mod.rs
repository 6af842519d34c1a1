//! Architectures: each turns a model file's metadata into a [`ModelSpec`], and is a pure function.
//!
//! Tensor names are GGUF's, the same for all (see [`super::weights`]).

mod gemma3;
mod llama;
mod qwen2;
mod qwen3;

use super::spec::{AttnSpec, LayerSpec, MlpSpec, ModelSpec, RopeSpec};
use crate::load::Metadata;
use crate::{Error, Result};
use aieng_kernels::act_mul::Activation;
use aieng_kernels::attention::MAX_HEAD_DIM;
use aieng_kernels::rope::{Scaling, Style};

type Builder = fn(&Keys) -> Result<ModelSpec>;

/// `general.architecture` and what reads it.
const ARCHITECTURES: [(&str, Builder); 4] =
    [("llama", llama::spec), ("qwen2", qwen2::spec), ("qwen3", qwen3::spec), ("gemma3", gemma3::spec)];

/// Largest accepted size of any dimension: products of two stay far below 2^64.
const MAX_DIM: u32 = 1 << 24;
/// Most layers.
const MAX_LAYERS: usize = 1024;

/// The spec that `metadata` describes.
///
/// Errors: [`Error::Unsupported`] for another architecture or a shape that the kernels lack, [`Error::ModelFormat`] for a
/// missing key or a value out of range.
pub fn spec(metadata: &Metadata) -> Result<ModelSpec> {
    let architecture = metadata.require("general.architecture", metadata.str("general.architecture")?)?;
    let Some((_, build)) = ARCHITECTURES.iter().find(|(name, _)| *name == architecture) else {
        let known = ARCHITECTURES.map(|(name, _)| name).join(", ");
        let path = metadata.path().display();
        return Err(Error::Unsupported(format!(
            "{path}: general.architecture: {architecture:?} is not one of {known}"
        )));
    };
    build(&Keys { metadata, architecture })
}

/// Keys of one architecture: `rope.freq_base` is looked up as `llama.rope.freq_base`.
struct Keys<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
}

impl Keys<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// A size from 1 to [`MAX_DIM`].
    fn dim(&self, key: &str) -> Result<Option<usize>> {
        let key = self.key(key);
        match self.metadata.u32(&key)? {
            Some(n) if n == 0 || n > MAX_DIM => {
                Err(self.metadata.error(&key, format!("{n} is not from 1 to {MAX_DIM}")))
            }
            n => Ok(n.map(|n| n as usize)),
        }
    }

    fn required_dim(&self, key: &str) -> Result<usize> {
        self.metadata.require(&self.key(key), self.dim(key)?)
    }

    /// A number greater than 0.
    fn positive(&self, key: &str) -> Result<Option<f32>> {
        let key = self.key(key);
        match self.metadata.f32(&key)? {
            Some(x) if x <= 0.0 => Err(self.metadata.error(&key, format!("{x} is not greater than 0"))),
            x => Ok(x),
        }
    }

    fn str(&self, key: &str) -> Result<Option<&str>> {
        self.metadata.str(&self.key(key))
    }

    fn error(&self, key: &str, what: impl std::fmt::Display) -> Error {
        self.metadata.error(&self.key(key), what)
    }

    /// What all architectures share: sizes, one full-context rotary embedding, SiLU, scores over the root of head_dim.
    /// An architecture changes the fields in which it differs.
    fn base(&self, style: Style) -> Result<ModelSpec> {
        let hidden = self.required_dim("embedding_length")?;
        let layers = self.required_dim("block_count")?;
        if layers > MAX_LAYERS {
            return Err(self.error("block_count", format!("{layers} is above {MAX_LAYERS}")));
        }
        let attn = self.attention(hidden)?;
        let rope = RopeSpec {
            style,
            dims: self.dim("rope.dimension_count")?.unwrap_or(attn.head_dim),
            base: self.positive("rope.freq_base")?.unwrap_or(10000.0),
            scaling: self.rope_scaling()?,
        };
        if rope.dims > attn.head_dim || !rope.dims.is_multiple_of(2) {
            let what = format!("{} is not an even number up to the head's {}", rope.dims, attn.head_dim);
            return Err(self.error("rope.dimension_count", what));
        }
        let mlp = MlpSpec { width: self.required_dim("feed_forward_length")?, activation: Activation::Silu };
        let eps = self.positive("attention.layer_norm_rms_epsilon")?;
        Ok(ModelSpec {
            architecture: self.architecture.to_owned(),
            name: self.metadata.str("general.name")?.map(str::to_owned),
            hidden,
            context: self.required_dim("context_length")?,
            norm_eps: self.metadata.require(&self.key("attention.layer_norm_rms_epsilon"), eps)?,
            embedding_scale: 1.0,
            logit_softcap: self.positive("final_logit_softcapping")?,
            ropes: vec![rope],
            layers: vec![LayerSpec { attn, mlp, post_norms: false }; layers],
        })
    }

    fn attention(&self, hidden: usize) -> Result<AttnSpec> {
        let heads = self.required_dim("attention.head_count")?;
        let kv_heads = self.dim("attention.head_count_kv")?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(self.error("attention.head_count_kv", format!("{kv_heads} does not divide {heads} heads")));
        }
        let head_dim = match self.dim("attention.key_length")? {
            Some(dim) => dim,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => return Err(self.error("attention.head_count", format!("{heads} does not divide {hidden}"))),
        };
        let value_dim = self.dim("attention.value_length")?.unwrap_or(head_dim);
        if value_dim != head_dim || !head_dim.is_multiple_of(16) || head_dim > MAX_HEAD_DIM {
            let path = self.metadata.path().display();
            return Err(Error::Unsupported(format!(
                "{path}: heads with keys of {head_dim} and values of {value_dim} elements; aieng has heads whose keys and \
                 values have the same length, a multiple of 16 up to {MAX_HEAD_DIM}"
            )));
        }
        Ok(AttnSpec {
            heads,
            kv_heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            rope: 0,
            window: None,
            softcap: self.positive("attn_logit_softcapping")?,
            qk_norm: false,
            qkv_bias: false,
        })
    }

    fn rope_scaling(&self) -> Result<Scaling> {
        let factor = self.positive("rope.scaling.factor")?.unwrap_or(1.0);
        // What GGUF knew before it had types; `factor` wins where both stand.
        let legacy = self.positive("rope.scale_linear")?.unwrap_or(1.0);
        match self.str("rope.scaling.type")? {
            None if legacy != 1.0 => Ok(Scaling::Linear { factor: legacy }),
            None | Some("none") => Ok(Scaling::None),
            Some("linear") => Ok(Scaling::Linear { factor }),
            Some("llama3") => Ok(Scaling::Llama3 {
                factor,
                low: self.positive("rope.scaling.low_freq_factor")?.unwrap_or(1.0),
                high: self.positive("rope.scaling.high_freq_factor")?.unwrap_or(4.0),
                original_context: self.positive("rope.scaling.original_context_length")?.unwrap_or(8192.0),
            }),
            Some("yarn") => {
                let key = "rope.scaling.original_context_length";
                Ok(Scaling::Yarn {
                    factor,
                    original_context: self.metadata.require(&self.key(key), self.positive(key)?)?,
                    beta_fast: self.positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                    beta_slow: self.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                    attention_factor: self.positive("rope.scaling.attn_factor")?.unwrap_or(1.0),
                })
            }
            Some(other) => {
                let path = self.metadata.path().display();
                let key = self.key("rope.scaling.type");
                Err(Error::Unsupported(format!("{path}: {key}: {other:?} is not one of none, linear, llama3, yarn")))
            }
        }
    }
}

#[cfg(test)]
mod tests;
