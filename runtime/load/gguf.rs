//! GGUF versions 2 and 3 over a memory map (format: ggml-org/ggml docs/gguf.md).

use super::Metadata;
use crate::{Error, Result};
use aieng_kernels::DType;
use std::path::Path;

/// Where one tensor lies in the file, checked: `offset + len` is inside the file, `len` fits the shape and dtype.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// Name, as in "blk.0.attn_q.weight".
    pub name: String,
    /// Element format.
    pub dtype: DType,
    /// Sizes in GGUF's order: `shape[0]` is the row length (contiguous), `shape[1]` the number of rows.
    pub shape: Vec<usize>,
    /// From the start of the file, in bytes.
    pub offset: usize,
    /// In bytes.
    pub len: usize,
}

/// An open model file.
#[derive(Debug)]
pub struct Gguf {
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
}

impl Gguf {
    /// Opens and checks a file; the tensors' bytes are mapped, not read.
    ///
    /// Errors: [`Error::Io`] if it cannot be opened or mapped, [`Error::ModelFormat`] if anything in it is wrong,
    /// [`Error::Unsupported`] for a GGUF version or tensor type that aieng does not read.
    pub fn open(path: &Path) -> Result<Gguf> {
        Err(Error::Internal(format!("{}: not yet", path.display())))
    }

    /// Key-value pairs.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// A tensor by name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|t| t.name == name)
    }

    /// The bytes of a tensor of this file.
    pub fn bytes(&self, _tensor: &TensorInfo) -> &[u8] {
        &[]
    }

    /// Tells the system that a tensor's pages are not needed again, so that they stop counting as resident.
    pub fn release(&self, _tensor: &TensorInfo) {}
}
