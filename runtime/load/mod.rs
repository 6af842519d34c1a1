//! Reading model files: an attack surface, so every length, offset, count and product is checked before it is used.

mod gguf;
mod map;
mod metadata;
#[cfg(any(test, feature = "testing"))]
pub mod mutate;
mod reader;
#[cfg(test)]
mod tests;
pub mod writer;

pub use gguf::{Gguf, TensorInfo};
pub use metadata::{Array, Metadata, Strings, Value};
