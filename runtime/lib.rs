//! The engine of aieng: a model file is loaded, requests are submitted, tokens stream back.
//!
//! `load` reads model files, `tokenizer` and `chat` turn text into token ids and back, `model` describes and runs a
//! transformer, `scheduler` and `kv` decide (integers only) what the next step computes, `engine` joins them.
#![deny(unsafe_code)]

pub mod batch;
pub mod chat;
pub mod engine;
mod error;
mod kv;
pub mod load;
pub mod log;
mod memory;
pub mod metrics;
pub mod model;
pub mod perplexity;
pub mod profile;
#[allow(unsafe_code, reason = "the rings that threads share")]
mod queue;
pub mod sampling;
mod scheduler;
#[cfg(test)]
mod testing;
pub mod tokenizer;

/// For benchmarks only: what is measured, and no part of the interface.
#[doc(hidden)]
pub mod bench {
    pub use crate::queue::Queue;
}

pub use aieng_kernels::{BLOCK_TOKENS, DType, Isa, KvDType};
pub use error::{Error, Result};

/// Index of a token in the model's vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct TokenId(pub u32);
