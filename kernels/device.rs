//! Where an operation runs. Each operation matches on the device: exhaustiveness is the interface.

use crate::{Cpu, Isa};

/// A place to run operations.
#[derive(Debug)]
pub enum Device {
    /// Scalar f32, one thread, weights as the file has them: the oracle that every other device is checked against.
    Reference,
    /// Vector instructions and a pool of threads.
    Cpu(Cpu),
}

impl Device {
    /// The name that reports use: "reference", "cpu-avx512".
    pub fn name(&self) -> &'static str {
        match self {
            Device::Reference => "reference",
            Device::Cpu(cpu) => match cpu.isa() {
                Isa::Portable => "cpu-portable",
                Isa::Avx2 => "cpu-avx2",
                Isa::AvxVnni => "cpu-avx-vnni",
                Isa::Avx512 => "cpu-avx512",
                Isa::Avx512Bf16 => "cpu-avx512-bf16",
                Isa::Amx => "cpu-amx",
            },
        }
    }

    /// Threads that run an operation.
    pub fn threads(&self) -> usize {
        match self {
            Device::Reference => 1,
            Device::Cpu(cpu) => cpu.pool().threads(),
        }
    }

    /// Binds the calling thread, the first of those that run an operation, to its core, if the device's threads are
    /// bound to cores.
    pub fn pin_caller(&self) {
        if let Device::Cpu(cpu) = self {
            cpu.pool().pin_caller();
        }
    }
}
