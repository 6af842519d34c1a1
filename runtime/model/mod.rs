//! A model's weights and the one forward pass that runs every architecture.

use crate::engine::EngineConfig;
use crate::{Error, Result};
use std::path::Path;

/// A loaded model.
#[derive(Debug)]
pub struct Model;

impl Model {
    /// Loads `path` for the device in `config`. `progress` is called with the fraction loaded, 0 to 1.
    pub fn load(_path: &Path, _config: &EngineConfig, _progress: &mut dyn FnMut(f32)) -> Result<Model> {
        Err(Error::Internal("not yet".into()))
    }
}
