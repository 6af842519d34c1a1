//! Qwen 3 (arXiv:2505.09388): norms of each query and key head.

use super::{Keys, ModelSpec};
use crate::Result;
use aieng_kernels::rope::Style;

pub(super) fn spec(keys: &Keys) -> Result<ModelSpec> {
    let mut spec = keys.base(Style::Neox)?;
    for layer in &mut spec.layers {
        layer.attn.qk_norm = true;
    }
    Ok(spec)
}
