//! The operations of a transformer on the CPU.
mod cpu;
mod quant;
pub use cpu::Isa;
pub use quant::DType;
