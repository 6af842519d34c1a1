//! Where models are kept. A stand-in until pulling is there: paths, and files already in `$AIENG_HOME/models`.

use crate::failure::{Failure, Result};
use std::path::PathBuf;

const ALIASES: [(&str, &str); 2] =
    [("smollm2-135m", "SmolLM2-135M-Instruct.Q4_1.gguf"), ("gemma3-270m", "gemma-3-270m-q4_k_m.gguf")];

/// The file of an alias or path.
pub fn resolve(model: &str) -> Result<PathBuf> {
    let Some((_, file)) = ALIASES.iter().find(|(alias, _)| *alias == model) else { return Ok(model.into()) };
    let home = std::env::var_os("AIENG_HOME").ok_or(Failure::Failed("AIENG_HOME: not set".into()))?;
    Ok(PathBuf::from(home).join("models").join(file))
}
