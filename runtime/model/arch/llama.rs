//! Llama 1 to 3, SmolLM2, Mistral and whatever else GGUF calls "llama". The converter has permuted q and k for
//! interleaved rotary pairs.

use super::{Keys, ModelSpec};
use crate::Result;
use aieng_kernels::rope::Style;

pub(super) fn spec(keys: &Keys) -> Result<ModelSpec> {
    if let Some(experts) = keys.dim("expert_count")? {
        let path = keys.metadata.path().display();
        return Err(crate::Error::Unsupported(format!(
            "{path}: llama.expert_count: {experts}; aieng has no experts yet"
        )));
    }
    keys.base(Style::Interleaved)
}
