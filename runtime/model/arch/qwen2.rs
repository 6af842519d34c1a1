//! Qwen 2 and 2.5 (arXiv:2407.10671): biases on q, k and v.

use super::{Keys, ModelSpec};
use crate::Result;
use aieng_kernels::rope::Style;

pub(super) fn spec(keys: &Keys) -> Result<ModelSpec> {
    let mut spec = keys.base(Style::Neox)?;
    for layer in &mut spec.layers {
        layer.attn.qkv_bias = true;
    }
    Ok(spec)
}
