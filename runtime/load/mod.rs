//! Reading model files: an attack surface, so every length, offset, count and product is checked before it is used.

mod gguf;
mod map;
mod metadata;
mod reader;

pub use gguf::{Gguf, TensorInfo};
pub use metadata::{Array, Metadata, Strings, Value};
