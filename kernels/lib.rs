//! The operations of a transformer, written by hand: one folder per operation.
//!
//! A folder's `mod.rs` is the contract (formula, shapes, checks) and then a `match device`; `reference.rs` is a scalar
//! oracle; `cpu.rs` is the fast path, written once over sixteen lanes and compiled for each instruction set; `tests.rs`
//! holds the table of cases that every variant is checked on. Short operations keep all of it in fewer files.
//!
//! Invariants: kernels know no models, files or environment variables. What a row of the output holds depends on that
//! row's own input alone, bit for bit: never on the other rows of the batch, nor on the number of threads.

#![allow(clippy::needless_range_loop, reason = "index loops over register arrays read like the formulas they are")]

pub mod act_mul;
pub mod attention;
mod buffer;
pub mod cpu;
mod device;
pub mod embed;
pub mod kv_write;
pub mod linear;
pub mod quant;
pub mod rms_norm;
pub mod rope;
pub mod sample;
mod tensor;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use act_mul::act_mul;
pub use attention::attention;
pub use buffer::{AlignedBuffer, Arena, Bytes, Floats};
pub use cpu::{Cpu, Isa};
pub use device::Device;
pub use embed::embed;
pub use kv_write::{KvCache, KvDType, kv_write};
pub use linear::{Scratch, Weight, gate_up, linear};
pub use quant::DType;
pub use rms_norm::{add_rms_norm, rms_norm, rms_norm_in_place};
pub use rope::{RopeAngles, rope};
pub use tensor::{Tensor, TensorMut};

/// Tokens in one block of the KV cache, and lanes of a vector: a block's scores fill one vector.
pub const BLOCK_TOKENS: usize = 16;
