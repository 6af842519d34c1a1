//! The operations on NVIDIA GPUs.
//!
//! An operation's folder has its `.cu`, which holds device code alone, and its `cuda.rs`, which checks shapes and launches;
//! the latter are modules of this crate, a crate of its own because those of the CPU take minutes to compile. One launcher
//! ([`Gpu::launch`]: a name, a grid, a block, shared bytes, parameters) serves two drivers: cudarc (feature `cuda`), which
//! loads the system's driver when it is asked for, and an emulator that runs the same sources on the CPU (feature
//! `emulate`). With neither, [`Gpu::open`] says so.
//!
//! Invariants: no call panics for what a device or its driver does; each returns a [`GpuError`]. What a row of the output
//! holds depends on that row's own input alone, bit for bit, also on the order in which lanes run. Activations are bf16
//! but for the residual stream and logits, which are f32; sums are f32.

#[path = "../act_mul/cuda.rs"]
pub mod act_mul;
#[path = "../attention/cuda.rs"]
pub mod attention;
#[cfg(all(test, gpu, feature = "proofs"))]
mod conformance;
mod driver;
#[path = "../embed/cuda.rs"]
pub mod embed;
#[cfg(feature = "emulate")]
mod emulator;
mod error;
#[path = "../gather/cuda.rs"]
pub mod gather;
mod gpu;
#[path = "../kv_write/cuda.rs"]
pub mod kv_write;
#[path = "../linear/cuda.rs"]
pub mod linear;
#[cfg(feature = "cuda")]
mod nvidia;
#[path = "../rms_norm/cuda.rs"]
pub mod rms_norm;
#[path = "../rope/cuda.rs"]
pub mod rope;
#[path = "../sample/cuda.rs"]
pub mod sample;
mod tensor;
#[cfg(test)]
mod testing;

pub use driver::{Arg, DevicePtr, Launch, Properties};
pub use error::GpuError;
pub use gpu::{Gpu, GpuBuffer, Graph, PinnedBuffer};
pub use tensor::{Element, GpuTensor};
